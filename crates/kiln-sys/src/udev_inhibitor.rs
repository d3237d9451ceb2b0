//! Keeps udev away from block devices that Kiln makes.
//!
//! Protocol: as long as the file `device-MAJOR:MINOR`, or `dm-NAME` for a mapping of the device mapper, exists in the
//! directory of locks, the rules that the reference ships for udev (`10-osbuild-inhibitor.rules`) let no other rule look
//! at that device. Without these
//! rules, or without udev, the file has no effect.
//!
//! Whether a file is still somebody's cannot be seen from its name, and a killed program leaves it behind, which
//! would hide the device's next user from udev for ever. Kiln therefore writes its own name into its files and
//! holds a lock on them; such a file without a lock is stale, and is removed when the next inhibitor is made.
//! Files of other programs are never touched. A stale file of a mapping also says that the mapping itself may have been
//! left: whoever makes mappings asks for these files, and removes both.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Where the udev rules look for the files.
pub const LOCK_DIRECTORY: &str = "/run/osbuild/locks/udev";

/// How the names of files for mappings begin.
const MAPPING: &str = "dm-";

/// What Kiln's files contain.
const MARK: &str = "kiln\n";

/// Why an inhibitor could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{path}`", path = .path.display())]
pub struct InhibitorError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Keeps udev away from one device for as long as it lives.
#[derive(Debug)]
pub struct UdevInhibitor {
    path: PathBuf,
    // Its lock says that the file is in use.
    file: File,
}

impl UdevInhibitor {
    /// Inhibits udev for a device, and removes what killed Kilns have left in the directory.
    pub fn for_device(directory: &Path, major: u32, minor: u32) -> Result<Self, InhibitorError> {
        Self::named(directory, &format!("device-{major}:{minor}"))
    }

    /// Inhibits udev for the mapping of a name, which is yet to be made.
    pub fn for_mapping(directory: &Path, name: &str) -> Result<Self, InhibitorError> {
        Self::named(directory, &format!("{MAPPING}{name}"))
    }

    fn named(directory: &Path, name: &str) -> Result<Self, InhibitorError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| InhibitorError { action, path, source }
        };
        fs::create_dir_all(directory).map_err(failed("create directory", directory))?;
        remove_stale(directory);
        let path = directory.join(name);
        let mut file = loop {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).read(true).write(true);
            let file = options.open(&path).map_err(failed("create", &path))?;
            // Shared: two that race for one device both hold the file until one of them gets the device.
            flock(&file, FlockOperation::LockShared)
                .map_err(io::Error::from)
                .map_err(failed("lock", &path))?;
            // Another Kiln may have removed it just before it was locked.
            if is_same_file(&file, &path) {
                break file;
            }
        };
        file.write_all(MARK.as_bytes()).map_err(failed("write", &path))?;
        Ok(Self { path, file })
    }

    /// The name of the mapping that this is for.
    pub fn mapping(&self) -> Option<&str> {
        self.path.file_name()?.to_str()?.strip_prefix(MAPPING)
    }

    /// The file that inhibits udev.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UdevInhibitor {
    fn drop(&mut self) {
        // Whoever else has it locked needs it, and will remove it.
        if flock(&self.file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Best effort: a file that stays is found and removed by the next inhibitor.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

fn remove_stale(directory: &Path) {
    // Those of mappings are left for whoever removes the mapping.
    drop(stale(directory, |name| !name.starts_with(MAPPING)));
}

/// What killed Kilns have left for mappings. Nobody makes a mapping of such a name before the inhibitor is dropped,
/// which removes the file.
pub fn stale_mappings(directory: &Path) -> Vec<UdevInhibitor> {
    stale(directory, |name| name.starts_with(MAPPING))
}

fn stale(directory: &Path, wanted: impl Fn(&str) -> bool) -> Vec<UdevInhibitor> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(&wanted) {
            continue;
        }
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        let mut text = String::new();
        let ours = (&file).take(MARK.len() as u64).read_to_string(&mut text).is_ok() && text == MARK;
        // Another Kiln may be removing it too, and a third one may have made a new one since.
        if ours
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && is_same_file(&file, &path)
        {
            found.push(UdevInhibitor { path, file });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_inhibited_until_the_guard_is_dropped() {
        let directory = tempfile::tempdir().expect("tempdir");
        let locks = directory.path().join("locks/udev");
        let inhibitor = UdevInhibitor::for_device(&locks, 7, 3).expect("inhibit");
        assert_eq!(inhibitor.path(), locks.join("device-7:3"));
        assert!(locks.join("device-7:3").exists());
        drop(inhibitor);
        assert!(!locks.join("device-7:3").exists());
    }

    #[test]
    fn the_last_of_two_inhibitors_of_a_device_removes_the_file() {
        let directory = tempfile::tempdir().expect("tempdir");
        let first = UdevInhibitor::for_device(directory.path(), 7, 3).expect("inhibit");
        let second = UdevInhibitor::for_device(directory.path(), 7, 3).expect("inhibit");
        drop(first);
        assert!(second.path().exists());
        drop(second);
        assert!(!directory.path().join("device-7:3").exists());
    }

    #[test]
    fn stale_files_are_removed_and_files_of_others_are_not() {
        let directory = tempfile::tempdir().expect("tempdir");
        let held = UdevInhibitor::for_device(directory.path(), 7, 1).expect("inhibit");
        fs::write(directory.path().join("device-7:8"), MARK).expect("write");
        fs::write(directory.path().join("device-7:9"), "").expect("write");
        let _other = UdevInhibitor::for_device(directory.path(), 7, 2).expect("inhibit");
        assert!(held.path().exists(), "a live Kiln's");
        assert!(!directory.path().join("device-7:8").exists(), "a killed Kiln's");
        assert!(directory.path().join("device-7:9").exists(), "another program's");
    }

    #[test]
    fn stale_files_of_mappings_stay_until_the_mapping_is_gone() {
        let directory = tempfile::tempdir().expect("tempdir");
        let held = UdevInhibitor::for_mapping(directory.path(), "held").expect("inhibit");
        assert_eq!((held.path(), held.mapping()), (directory.path().join("dm-held").as_path(), Some("held")));
        fs::write(directory.path().join("dm-left"), MARK).expect("write");
        fs::write(directory.path().join("dm-others"), "").expect("write");
        let device = UdevInhibitor::for_device(directory.path(), 7, 1).expect("inhibit");
        assert_eq!(device.mapping(), None);
        let found = stale_mappings(directory.path());
        assert_eq!(found.iter().filter_map(UdevInhibitor::mapping).collect::<Vec<_>>(), ["left"]);
        assert!(directory.path().join("dm-left").exists());
        assert_eq!(stale_mappings(directory.path()).len(), 0, "they are somebody's now");
        drop(found);
        assert!(!directory.path().join("dm-left").exists());
        assert!(directory.path().join("dm-held").exists() && directory.path().join("dm-others").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = UdevInhibitor::for_device(Path::new("/proc/none"), 7, 1).expect_err("no such place");
        assert_eq!(error.to_string(), "cannot create directory `/proc/none`");
    }
}
