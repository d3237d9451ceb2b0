//! Finds out who keeps a device or a file system busy, for error messages.
//!
//! Best effort: processes that may not be looked at, or that end meanwhile, are left out.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// How many holders an error message names.
const LIMIT: usize = 5;

/// The processes that have a block device open, as `name (pid)`.
pub fn of_device_node(node: &Path) -> Vec<String> {
    let Ok(device) = fs::metadata(node).map(|info| info.rdev()) else { return Vec::new() };
    processes(|path| {
        fs::metadata(path).is_ok_and(|info| info.file_type().is_block_device() && info.rdev() == device)
    })
}

/// The processes that use files of the file system with this device number, as `name (pid)`.
pub fn of_file_system(device: u64) -> Vec<String> {
    processes(|path| fs::metadata(path).is_ok_and(|info| info.dev() == device))
}

fn processes(holds: impl Fn(&Path) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|entry| uses(&entry.path(), &holds))
        .map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            format!("{} ({})", name.trim(), entry.file_name().to_string_lossy())
        })
        .take(LIMIT)
        .collect()
}

fn uses(process: &Path, holds: &impl Fn(&Path) -> bool) -> bool {
    let mut places = vec![process.join("cwd"), process.join("root"), process.join("exe")];
    for directory in ["fd", "map_files"] {
        if let Ok(entries) = fs::read_dir(process.join(directory)) {
            places.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    places.iter().any(|place| holds(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_the_file_system_of_its_open_file() {
        let file = tempfile::tempfile().expect("tempfile");
        let device = file.metadata().expect("metadata").dev();
        let own = std::process::id();
        let found = processes(|path| {
            path.starts_with(format!("/proc/{own}/fd"))
                && fs::metadata(path).is_ok_and(|info| info.dev() == device)
        });
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].ends_with(&format!("({own})")), "{found:?}");
    }
}
