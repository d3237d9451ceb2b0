//! A tree like that of an operating system: many small files, few large ones, links of both kinds, always the same.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// How many there are of each.
const DIRECTORIES: u64 = 2000;
const FILES: u64 = 17_500;
const LARGE: u64 = 60;
const SYMLINKS: u64 = 2000;
const HARD_LINKS: u64 = 500;
/// What all files hold together, about, in bytes.
const BYTES: u64 = 500_000_000;
/// Files hold pieces of this, from places that differ.
const CONTENT: usize = 1 << 20;
/// The deepest directory is this far below the root.
const DEPTH: usize = 12;

/// Numbers that look random and are always the same (Knuth's MMIX generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }

    fn any<'a>(&mut self, paths: &'a [PathBuf]) -> &'a Path {
        let index = usize::try_from(self.below(paths.len() as u64)).unwrap_or_default();
        paths.get(index).map_or(Path::new(""), PathBuf::as_path)
    }
}

/// Fills a directory, which is made if it is not there.
pub(super) fn make(root: &Path) -> Result<(), Error> {
    let mut numbers = Numbers(7);
    let create = |path: &Path| fs::create_dir_all(path).map_err(Error::file("create", path));
    create(root)?;
    let mut directories = vec![root.to_owned()];
    for number in 0..DIRECTORIES {
        let recent = directories.len().saturating_sub(400);
        let parent = match directories.get(recent..) {
            Some(recent) if numbers.below(10) < 7 => numbers.any(recent),
            _ => numbers.any(&directories),
        };
        let below = parent.strip_prefix(root).map_or(0, |path| path.components().count());
        let parent = if below >= DEPTH { root } else { parent };
        let path = parent.join(format!("directory-{number}"));
        create(&path)?;
        directories.push(path);
    }
    let mut files = Vec::new();
    let content: Vec<u8> =
        (0..CONTENT).map(|_| u8::try_from(numbers.below(256)).unwrap_or_default()).collect();
    for (number, size) in sizes(&mut numbers).into_iter().enumerate() {
        let path = numbers.any(&directories).join(format!("file-{number}"));
        write(&path, size, &content, &mut numbers)?;
        files.push(path);
    }
    for number in 0..SYMLINKS {
        let path = numbers.any(&directories).join(format!("symlink-{number}"));
        symlink(format!("../lib/target-{number}.so"), &path).map_err(Error::file("create", &path))?;
    }
    for number in 0..HARD_LINKS {
        let path = numbers.any(&directories).join(format!("link-{number}"));
        fs::hard_link(numbers.any(&files), &path).map_err(Error::file("link", &path))?;
    }
    Ok(())
}

/// The sizes of all files: small ones as systems have them, and what is missing in large ones.
fn sizes(numbers: &mut Numbers) -> Vec<u64> {
    let mut sizes: Vec<u64> = (0..FILES - LARGE)
        .map(|_| match numbers.below(100) {
            0..10 => 0,
            10..70 => 30 + numbers.below(4096),
            70..90 => 4096 + numbers.below(16 * 1024),
            _ => 20 * 1024 + numbers.below(80 * 1024),
        })
        .collect();
    let each = BYTES.saturating_sub(sizes.iter().sum()) / LARGE;
    sizes.extend((0..LARGE).map(|_| each / 2 + numbers.below(each)));
    sizes
}

fn write(path: &Path, size: u64, content: &[u8], numbers: &mut Numbers) -> Result<(), Error> {
    let mut fill = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        let mut left = usize::try_from(size).unwrap_or(usize::MAX);
        while left > 0 {
            let start = usize::try_from(numbers.below(CONTENT as u64 / 2)).unwrap_or_default();
            let piece = content.get(start..).unwrap_or_default();
            let piece = piece.get(..left).unwrap_or(piece);
            file.write_all(piece)?;
            left -= piece.len();
        }
        let mode = if numbers.below(4) == 0 { 0o755 } else { 0o644 };
        file.set_permissions(fs::Permissions::from_mode(mode))
    };
    fill().map_err(Error::file("write", path))
}

/// Makes a directory with nothing but very many links in it.
pub(super) fn make_wide(root: &Path, entries: u32) -> Result<(), Error> {
    fs::create_dir_all(root).map_err(Error::file("create", root))?;
    for number in 0..entries {
        let path = root.join(number.to_string());
        symlink("target", &path).map_err(Error::file("create", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_add_up_and_are_always_the_same() {
        let found = sizes(&mut Numbers(7));
        assert_eq!(found, sizes(&mut Numbers(7)));
        assert_eq!(found.len() as u64, FILES);
        let sum: u64 = found.iter().sum();
        assert!((BYTES * 9 / 10..BYTES * 11 / 10).contains(&sum), "{sum}");
    }
}
