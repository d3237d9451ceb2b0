//! The complete listing of a tree, content aside, in the order of its paths.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{self, AtomicBool};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, Mode, OFlags, Statx};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::TreeError;
use super::attributes::{self, Target, Xattrs};
use super::directory::{open_beneath, open_root, proc_path};
use super::entries::Entry;
use super::walk::{At, Enter, Found, Visit, walk};

/// Contents are hashed in pieces of this size.
const PIECE: usize = 128 * 1024;

/// One entry of a tree.
pub(super) struct Item {
    /// Bytes of the path relative to the root; empty for the root itself.
    pub(super) path: Vec<u8>,
    pub(super) kind: FileType,
    pub(super) stat: Statx,
    pub(super) target: Vec<u8>,
    pub(super) xattrs: Xattrs,
}

impl Item {
    /// The permission bits, in octal.
    pub(super) fn mode(&self) -> String {
        format!("{:04o}", attributes::mode(&self.stat).bits())
    }

    pub(super) fn owner(&self) -> String {
        format!("{}:{}", self.stat.stx_uid, self.stat.stx_gid)
    }

    /// Seconds since the epoch with nine digits of nanoseconds.
    pub(super) fn modified(&self) -> String {
        format!("{}.{:09}", self.stat.stx_mtime.tv_sec, self.stat.stx_mtime.tv_nsec)
    }

    pub(super) fn device(&self) -> String {
        format!("{}:{}", self.stat.stx_rdev_major, self.stat.stx_rdev_minor)
    }

    pub(super) const fn word(&self) -> &'static str {
        match self.kind {
            FileType::RegularFile => "file",
            FileType::Directory => "directory",
            FileType::Symlink => "symlink",
            FileType::Fifo => "fifo",
            FileType::Socket => "socket",
            FileType::CharacterDevice => "character-device",
            FileType::BlockDevice => "block-device",
            FileType::Unknown => "unknown",
        }
    }

    const fn key(&self) -> (u32, u32, u64) {
        (self.stat.stx_dev_major, self.stat.stx_dev_minor, self.stat.stx_ino)
    }
}

/// A tree that was listed; contents are read when asked for.
pub(super) struct Listing {
    root: OwnedFd,
    path: PathBuf,
    pub(super) items: Vec<Item>,
}

impl Listing {
    pub(super) fn read(tree: &Path, interrupt: &AtomicBool) -> Result<Self, TreeError> {
        let root = open_root(tree)?;
        let again = rustix::io::fcntl_dupfd_cloexec(&root, 0).map_err(TreeError::io("open", tree))?;
        let visitor = Scan::default();
        walk(root, tree, &visitor, interrupt)?;
        let mut items = visitor.items.into_inner().unwrap_or_else(PoisonError::into_inner);
        items.sort_unstable_by(|left, right| order(&left.path, &right.path));
        Ok(Self { root: again, path: tree.to_owned(), items })
    }

    /// For each file with several names in the tree: path → all its names, in order.
    pub(super) fn hard_links(&self) -> HashMap<&[u8], Vec<&[u8]>> {
        let mut files: HashMap<_, Vec<&[u8]>> = HashMap::new();
        for item in
            self.items.iter().filter(|item| item.kind != FileType::Directory && item.stat.stx_nlink > 1)
        {
            files.entry(item.key()).or_default().push(&item.path);
        }
        let shared = files.into_values().filter(|names| names.len() > 1);
        shared.flat_map(|names| names.clone().into_iter().map(move |name| (name, names.clone()))).collect()
    }

    /// The SHA-256 of a regular file, in hexadecimal.
    pub(super) fn content(&self, item: &Item, interrupt: &AtomicBool) -> Result<String, TreeError> {
        let path = Path::new(std::ffi::OsStr::from_bytes(&item.path));
        let open = || -> Result<std::fs::File, Errno> {
            let parent = open_beneath(&self.root, path.parent().unwrap_or(Path::new("")))?;
            let name = path.file_name().ok_or(Errno::INVAL)?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = match rustix::fs::openat(&parent, name, flags | OFlags::NOATIME, Mode::empty()) {
                Err(Errno::PERM) => rustix::fs::openat(&parent, name, flags, Mode::empty()),
                other => other,
            };
            Ok(file?.into())
        };
        let failed = |source: io::Error| TreeError::io("read", self.path.join(path))(source);
        let mut file = open().map_err(|error| failed(error.into()))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; PIECE];
        loop {
            if interrupt.load(atomic::Ordering::Relaxed) {
                return Err(TreeError::Interrupted);
            }
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(hexadecimal(&hash.finalize()))
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Orders paths by their components, so that a directory is followed by what is in it; the root comes first.
pub(super) fn order(left: &[u8], right: &[u8]) -> Ordering {
    // Below all bytes that a name can have.
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    match left.iter().zip(right).find(|(left, right)| left != right) {
        Some((left, right)) => rank(*left).cmp(&rank(*right)),
        None => left.len().cmp(&right.len()),
    }
}

#[derive(Default)]
struct Scan {
    items: Mutex<Vec<Item>>,
}

impl Scan {
    fn add(&self, path: PathBuf, stat: Statx, target: Vec<u8>, mut xattrs: Xattrs) {
        xattrs.sort_unstable();
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let item = Item { path: path.into_os_string().into_vec(), kind, stat, target, xattrs };
        self.items.lock().unwrap_or_else(PoisonError::into_inner).push(item);
    }
}

impl Visit for Scan {
    type Dir = ();

    fn enter(&self, found: &Found<'_, ()>) -> Result<Enter<()>, TreeError> {
        let read =
            || Ok::<_, Errno>((attributes::stat(found.fd)?, attributes::xattrs(Target::Open(found.fd))?));
        let (stat, xattrs) =
            read().map_err(|error| TreeError::io("read attributes of", found.path())(error))?;
        self.add(found.relative(), stat, Vec::new(), xattrs);
        Ok(Enter::Into((), None))
    }

    fn entry(&self, at: &At<'_, ()>, entry: &Entry<'_>) -> Result<(), TreeError> {
        let read = || {
            let stat = attributes::stat_at(at.fd(), entry.name)?;
            let target = match entry.kind {
                FileType::Symlink => rustix::fs::readlinkat(at.fd(), entry.name, Vec::new())?.into_bytes(),
                _ => Vec::new(),
            };
            let reached = proc_path(at.fd(), entry.name);
            Ok::<_, Errno>((stat, target, attributes::xattrs(Target::Path(&reached))?))
        };
        let (stat, target, xattrs) =
            read().map_err(|error| TreeError::io("read attributes of", at.path_of(entry))(error))?;
        self.add(at.node.relative().join(entry.file_name()), stat, target, xattrs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_in_the_order_of_their_components() {
        let sorted: [&[u8]; 8] = [b"", b"a", b"a/b", b"a/b/c", b"a/c", b"a.b", b"ab", b"b"];
        for (index, left) in sorted.iter().enumerate() {
            for (other, right) in sorted.iter().enumerate() {
                assert_eq!(order(left, right), index.cmp(&other), "{index} and {other}");
            }
        }
    }
}
