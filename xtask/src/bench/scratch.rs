//! A fresh file system to measure on.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use kiln_sys::command::Run;
use tempfile::TempDir;

use crate::error::Error;

/// The size of the file system in bytes: room for the packages, trees and images of both sides. The file is sparse.
const SIZE: u64 = 24 << 30;

/// The kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FileSystem {
    /// Memory only, as fast as it gets
    Tmpfs,
    /// A new ext4 in a loop device
    Ext4,
    /// A new xfs in a loop device
    Xfs,
    /// A new btrfs in a loop device
    Btrfs,
}

impl fmt::Display for FileSystem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4 in a loop device",
            Self::Xfs => "xfs in a loop device",
            Self::Btrfs => "btrfs in a loop device",
        })
    }
}

/// A mounted file system; dropping it unmounts and forgets it.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Holds the mount point and the file behind the file system.
    directory: TempDir,
}

impl Scratch {
    /// Makes and mounts a file system.
    pub(super) fn mount(kind: FileSystem) -> Result<Self, Error> {
        // On disk: a tmpfs could be the place of temporary files.
        let directory =
            tempfile::tempdir_in("/var/tmp").map_err(Error::file("create", Path::new("/var/tmp")))?;
        let scratch = Self { directory };
        let target = scratch.path();
        std::fs::create_dir(&target).map_err(Error::file("create", &target))?;
        match kind {
            FileSystem::Tmpfs => {
                Run::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "kiln-bench"]).arg(&target).run()?;
            }
            FileSystem::Ext4 => scratch.format(&["mkfs.ext4", "-q", "-F"])?,
            FileSystem::Xfs => scratch.format(&["mkfs.xfs", "-q", "-m", "reflink=1"])?,
            FileSystem::Btrfs => scratch.format(&["mkfs.btrfs", "-q"])?,
        }
        Ok(scratch)
    }

    /// Makes a file system in a file, and mounts it.
    fn format(&self, mkfs: &[&str]) -> Result<(), Error> {
        let file = self.directory.path().join("disk");
        File::create(&file).and_then(|file| file.set_len(SIZE)).map_err(Error::file("create", &file))?;
        if let Some((program, options)) = mkfs.split_first() {
            Run::new(program).args(options).arg(&file).output()?;
        }
        Run::new("mount").args(["-o", "loop"]).args([&file, &self.path()]).run()?;
        Ok(())
    }

    /// The file system's root.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// A path in the file system.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Removes a directory of the file system; one that is not there is gone already.
    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        remove(&self.join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Not mounted if mounting failed; what a killed child still holds must not keep it.
        let _ = Run::new("umount").arg("--lazy").arg(self.path()).output();
    }
}

/// Removes a directory with all that is in it; one that is not there is gone already.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_scratch_is_mounted_and_leaves_nothing() {
        if !kiln_testkit::host::is_root() {
            return kiln_testkit::host::skip("mounting needs root");
        }
        let mounted = |path: &Path| {
            let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mounts");
            mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
        };
        for kind in [FileSystem::Tmpfs, FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs] {
            let scratch = Scratch::mount(kind).expect("a file system");
            let (path, directory) = (scratch.path(), scratch.directory.path().to_owned());
            std::fs::create_dir(scratch.join("a")).expect("a directory");
            scratch.remove("a").expect("it goes");
            scratch.remove("a").expect("it is gone");
            assert!(mounted(&path), "{kind}");
            drop(scratch);
            assert!(!mounted(&path) && !directory.exists(), "{kind}");
        }
    }
}
