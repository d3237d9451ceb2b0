//! Committed entries, held against removal.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_sys::lock::Kind;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use serde_json::{Map, Value};

use super::files::{Locked, open_locked};
use super::{Cache, CacheError, DATA, OBJECT_INFO, OBJECT_LOCK, name};

/// A committed entry. Nobody removes or changes it while this lives.
#[derive(Debug)]
pub struct LoadGuard {
    directory: PathBuf,
    info: Map<String, Value>,
    _lock: File,
    _cache: Arc<Cache>,
}

impl Cache {
    /// Finds the entry of a name and holds it. Never waits: an entry that somebody changes is a miss.
    pub fn load(self: &Arc<Self>, name: &str) -> Result<Option<LoadGuard>, CacheError> {
        name::check(name)?;
        if !self.info().is_compatible() {
            return Ok(None);
        }
        let directory = self.objects().join(name);
        match open_locked(&directory.join(OBJECT_LOCK), Kind::Read, false)? {
            Locked::Held(lock) => self.guard(directory, lock),
            Locked::Contended | Locked::Missing => Ok(None),
        }
    }

    /// Makes the guard of an entry whose lock is held, unless the entry is not committed.
    pub(super) fn guard(
        self: &Arc<Self>,
        directory: PathBuf,
        lock: File,
    ) -> Result<Option<LoadGuard>, CacheError> {
        let Some(info) = read_info(&directory)? else { return Ok(None) };
        touch(&lock);
        Ok(Some(LoadGuard { directory, info, _lock: lock, _cache: Arc::clone(self) }))
    }
}

impl LoadGuard {
    /// The directory with what the entry is made of.
    pub fn data(&self) -> PathBuf {
        self.directory.join(DATA)
    }

    /// What `object.info` says: `size`, `creation-boot-id`, and whatever else the entry was noted with.
    pub fn info(&self) -> &Map<String, Value> {
        &self.info
    }
}

/// Reads `object.info`; none if there is none, or none that is whole: then the entry is not committed.
pub(super) fn read_info(directory: &Path) -> Result<Option<Map<String, Value>>, CacheError> {
    let path = directory.join(OBJECT_INFO);
    match std::fs::read(&path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if super::files::missing(&error) => Ok(None),
        Err(error) => Err(CacheError::io("read", path)(error)),
    }
}

/// The bytes that an entry is accounted with.
pub(super) fn accounted(info: &Map<String, Value>) -> u64 {
    info.get("size").and_then(Value::as_u64).unwrap_or(0)
}

/// Marks an entry as used now. Best effort: on a read-only file system nothing is evicted either.
fn touch(lock: &File) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let same = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let _ = rustix::fs::futimens(lock, &Timestamps { last_access: now, last_modification: same });
}
