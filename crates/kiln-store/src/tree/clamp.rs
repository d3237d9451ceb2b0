//! Setting times that a build made back to the source epoch.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, StatxFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::TreeError;
use super::directory::open_root;
use super::entries::Entry;
use super::measure::Sum;
use super::walk::{At, Enter, Found, Visit, walk};

/// Gives every entry that was modified at or after `created` the times of `epoch`, both in seconds.
///
/// The root counts, links are not followed, and what may not be changed (immutable files) keeps its times,
/// as in the reference.
pub fn clamp(tree: &Path, created: i64, epoch: i64, interrupt: &AtomicBool) -> Result<(), TreeError> {
    clamp_and_measure(tree, created, epoch, interrupt).map(drop)
}

/// Does what [`clamp()`] and [`measure()`](super::measure()) do, in one walk. Returns the allocated space.
pub fn clamp_and_measure(
    tree: &Path,
    created: i64,
    epoch: i64,
    interrupt: &AtomicBool,
) -> Result<u64, TreeError> {
    let time = Timespec { tv_sec: epoch, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    let visitor = Clamp { created, times, sum: Sum::default() };
    walk(open_root(tree)?, tree, &visitor, interrupt)?;
    Ok(visitor.sum.bytes())
}

struct Clamp {
    created: i64,
    times: Timestamps,
    sum: Sum,
}

impl Clamp {
    /// Concerns the directory itself if the name is empty.
    fn apply(&self, directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        let flags = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
        let stat = rustix::fs::statx(directory, name, flags, StatxFlags::MTIME | StatxFlags::BLOCKS)?;
        self.sum.add(&stat);
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

    fn enter(&self, found: &Found<'_, ()>) -> Result<Enter<()>, TreeError> {
        self.apply(found.fd, c"").map_err(|error| TreeError::io("set times of", found.path())(error))?;
        Ok(Enter::Into((), None))
    }

    fn entry(&self, at: &At<'_, ()>, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.apply(at.fd(), entry.name)
            .map_err(|error| TreeError::io("set times of", at.path_of(entry))(error))
    }
}
