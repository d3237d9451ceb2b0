//! The file system that a cache is on.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::cache::CacheError;

/// A file system: its type and its room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The kernel's name of it, as `ext4`; none if it does not tell.
    pub kind: Option<String>,
    /// Its size in bytes.
    pub size: u64,
    /// The bytes that may still be written.
    pub free: u64,
}

impl Place {
    /// Looks at the file system of a directory.
    pub fn of(directory: &Path) -> Result<Self, CacheError> {
        Ok(Self { kind: kind(directory), ..Self::room(directory)? })
    }

    /// Looks at the room only, not at the type.
    pub(in crate::cache) fn room(directory: &Path) -> Result<Self, CacheError> {
        let volume = rustix::fs::statvfs(directory)
            .map_err(CacheError::io("look at the file system of", directory))?;
        let bytes = |blocks: u64| blocks.saturating_mul(volume.f_frsize);
        Ok(Self { kind: None, size: bytes(volume.f_blocks), free: bytes(volume.f_bavail) })
    }
}

/// The type, by the id of the mount: the device number would not do, as btrfs has one for each subvolume.
fn kind(directory: &Path) -> Option<String> {
    let stat = rustix::fs::statx(CWD, directory, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    let id = stat.stx_mnt_id.to_string();
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    let table = String::from_utf8_lossy(&table);
    let line = table.lines().find(|line| line.split(' ').next() == Some(id.as_str()))?;
    // After the optional fields there is a dash, and then the type.
    let (_, rest) = line.split_once(" - ")?;
    rest.split(' ').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_named_as_by_the_kernel() {
        let proc = Place::of(Path::new("/proc")).expect("looked at");
        assert_eq!(proc.kind.as_deref(), Some("proc"));
        let here = tempfile::tempdir().expect("a directory");
        let place = Place::of(here.path()).expect("looked at");
        assert!(place.kind.is_some() && place.size > place.free && place.free > 0, "{place:?}");
    }
}
