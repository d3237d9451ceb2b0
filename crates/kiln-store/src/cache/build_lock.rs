//! Single flight: who builds an entry holds its build lock, and others wait for it and then load.
//!
//! The lock files are Kiln's own, in `tmp/locks`, where the reference never looks. They are removed with the
//! lock held, so the path has to be compared after each lock, as everywhere in the cache.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kiln_sys::lock::{self, Attempt, Kind};

use super::files::leads_to;
use super::{Cache, CacheError, TEMPORARY, name};

/// The directory of the lock files, below `tmp`.
const LOCKS: &str = "locks";

/// The pauses between two tries grow from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The right to build one entry. A process that dies loses it.
#[derive(Debug)]
pub struct BuildLock {
    path: PathBuf,
    _file: File,
    _cache: Arc<Cache>,
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
        let locks = self.directory.join(TEMPORARY).join(LOCKS);
        let path = locks.join(name);
        loop {
            let mut options = OpenOptions::new();
            let file = match options.read(true).write(true).create(true).truncate(false).open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    std::fs::create_dir_all(&locks).map_err(CacheError::io("create directory", &locks))?;
                    continue;
                }
                other => other.map_err(CacheError::io("open", &path))?,
            };
            match lock::try_lock(&file, Kind::Write).map_err(CacheError::io("lock", &path))? {
                Attempt::Contended => return Ok(None),
                Attempt::Acquired if leads_to(&path, &file)? => {
                    return Ok(Some(BuildLock { path, _file: file, _cache: Arc::clone(self) }));
                }
                Attempt::Acquired => {}
            }
        }
    }
}

impl Drop for BuildLock {
    fn drop(&mut self) {
        // Best effort: a file that stays is as good, and removed when the cache is opened alone.
        let _ = std::fs::remove_file(&self.path);
    }
}
