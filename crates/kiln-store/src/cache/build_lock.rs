//! Single flight: who builds an entry holds its build lock, and others wait for it and then load.
//!
//! The lock files are Kiln's own, in `tmp/locks`, where the reference never looks. They are removed with the
//! lock held, so the path has to be compared after each lock, as everywhere in the cache.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kiln_sys::lock::{self, Attempt, Kind};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::files::FILE_MODE;
use super::hooks::Point;
use super::{Cache, CacheError, LOCKED_BUILDS, name};

/// The pauses between two tries grow from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The right to build one entry. A process that dies loses it.
#[derive(Debug)]
pub struct BuildLock {
    path: String,
    _file: File,
    cache: Arc<Cache>,
}

impl Cache {
    /// Waits for the right to build an entry. After a wait somebody else has built it, most likely.
    pub fn build_lock(self: &Arc<Self>, name: &str, interrupt: &AtomicBool) -> Result<BuildLock, CacheError> {
        let (mut pause, longest) = PAUSES;
        loop {
            if let Some(lock) = self.try_build_lock(name)? {
                return Ok(lock);
            }
            if interrupt.load(Ordering::Relaxed) {
                return Err(CacheError::Interrupted);
            }
            std::thread::sleep(pause);
            pause = longest.min(pause * 2);
        }
    }

    /// Takes the right to build an entry, if nobody has it.
    pub fn try_build_lock(self: &Arc<Self>, name: &str) -> Result<Option<BuildLock>, CacheError> {
        name::check(name)?;
        let path = format!("{LOCKED_BUILDS}/{name}");
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
            let file = match rustix::fs::openat(self.root.fd(), path.as_str(), flags, FILE_MODE) {
                Err(Errno::NOENT) => {
                    match self.root.make_directory(LOCKED_BUILDS) {
                        Err(CacheError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {}
                        other => other?,
                    }
                    continue;
                }
                other => File::from(other.map_err(self.root.failed("open", &path))?),
            };
            self.root.at(Point::Opened);
            match lock::try_lock(&file, Kind::Write).map_err(self.root.failed("lock", &path))? {
                Attempt::Contended => return Ok(None),
                Attempt::Acquired if self.root.leads_to(&path, &file)?.is_some() => {
                    return Ok(Some(BuildLock { path, _file: file, cache: Arc::clone(self) }));
                }
                Attempt::Acquired => {}
            }
        }
    }
}

impl Drop for BuildLock {
    fn drop(&mut self) {
        // Best effort: a file that stays is as good, and removed when the cache is opened alone.
        let _ = self.cache.root.unlink(&self.path);
    }
}
