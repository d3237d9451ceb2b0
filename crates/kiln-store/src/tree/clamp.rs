//! Setting times that a build made back to the source epoch.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, StatxFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::TreeError;
use super::directory::{Entry, open_root};
use super::walk::{Node, Visit, walk};

/// Gives every entry that was modified at or after `created` the times of `epoch`, both in seconds.
///
/// The root counts, links are not followed, and what may not be changed (immutable files) keeps its times,
/// as in the reference.
pub fn clamp(tree: &Path, created: i64, epoch: i64, interrupt: &AtomicBool) -> Result<(), TreeError> {
    let time = Timespec { tv_sec: epoch, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    walk(open_root(tree)?, tree, &Clamp { created, times }, interrupt)
}

struct Clamp {
    created: i64,
    times: Timestamps,
}

impl Clamp {
    fn apply(&self, directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statx(directory, name, flags, StatxFlags::MTIME)?;
        if stat.stx_mtime.tv_sec < self.created {
            return Ok(());
        }
        match rustix::fs::utimensat(directory, name, &self.times, flags) {
            Err(Errno::PERM) => Ok(()),
            other => other,
        }
    }
}

impl Visit for Clamp {
    type Dir = ();

    fn enter(&self, _: Option<&Node<()>>, _: &CStr, path: &Path, fd: &OwnedFd) -> Result<(), TreeError> {
        self.apply(fd, c".").map_err(TreeError::io("set times of", path))
    }

    fn entry(&self, directory: &Node<()>, entry: &Entry) -> Result<(), TreeError> {
        self.apply(&directory.fd, &entry.name)
            .map_err(|error| TreeError::io("set times of", entry.path_below(&directory.path))(error))
    }
}
