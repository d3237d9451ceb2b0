//! Committed entries, held against removal.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError};

use kiln_sys::lock::Kind;
use rustix::fs::{Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use serde_json::{Map, Value};

use super::durability::is_marked;
use super::files::Locked;
use super::info::{RECIPE, boot_of, parse_info};
use super::{Cache, CacheError, DATA, OBJECT_INFO, OBJECT_LOCK, OBJECTS, name};

/// Inode, seconds and nanoseconds.
pub(super) type LockIdentity = (u64, i64, i64);

/// A committed entry. Nobody removes or changes it while this lives.
#[derive(Debug)]
pub struct LoadGuard {
    /// Relative to the cache's directory.
    entry: String,
    directory: PathBuf,
    info: OnceLock<Map<String, Value>>,
    _lock: File,
    cache: Arc<Cache>,
}

impl Cache {
    /// Finds the entry of a name and holds it. Never waits: an entry that somebody changes is a miss.
    pub fn load(self: &Arc<Self>, name: &str) -> Result<Option<LoadGuard>, CacheError> {
        name::check(name)?;
        if !self.is_compatible() {
            return Ok(None);
        }
        let entry = format!("{OBJECTS}/{name}");
        let Locked::Held(lock, stat) =
            self.root.open_locked(&format!("{entry}/{OBJECT_LOCK}"), Kind::Read, false)?
        else {
            return Ok(None);
        };
        if !self.is_committed(&entry, &stat)? {
            return Ok(None);
        }
        touch(&lock, &stat);
        Ok(Some(self.guard(entry, lock)))
    }

    /// As [`load`](Self::load), but an entry that was made by another recipe is a miss. One that does not say by
    /// which (the reference writes none) is taken as it is.
    pub fn load_made_by(self: &Arc<Self>, name: &str, recipe: &str) -> Result<Option<LoadGuard>, CacheError> {
        let loaded = self.load(name)?;
        Ok(loaded.filter(|guard| match guard.info().get(RECIPE) {
            Some(Value::String(other)) => other == recipe,
            _ => true,
        }))
    }

    /// Makes the guard of an entry that is committed and whose lock is held.
    pub(super) fn guard(self: &Arc<Self>, entry: String, lock: File) -> LoadGuard {
        let directory = self.root.path().join(&entry);
        LoadGuard { entry, directory, info: OnceLock::new(), _lock: lock, cache: Arc::clone(self) }
    }

    /// Whether an entry with a name is whole: it has what commits it, and is not the victim of a power failure.
    pub(super) fn is_committed(&self, entry: &str, lock: &Stat) -> Result<bool, CacheError> {
        let info = format!("{entry}/{OBJECT_INFO}");
        if is_marked(lock) && !self.is_of_this_boot(lock) {
            let info = self.root.read(&info)?.and_then(|text| parse_info(&text));
            let trusted = info.is_some_and(|info| boot_of(&info) == Some(&self.boot_id));
            if trusted {
                self.of_this_boot.lock().unwrap_or_else(PoisonError::into_inner).insert(identity(lock));
            }
            return Ok(trusted);
        }
        // Of the reference's entries it may be empty, after a power failure.
        Ok(self.root.stat(&info)?.is_some_and(|stat| stat.st_size > 0))
    }

    /// Whether an entry that still carries its mark was found before to be of this boot. Asked often: while a build plans
    /// what another one has just made.
    fn is_of_this_boot(&self, lock: &Stat) -> bool {
        self.of_this_boot.lock().unwrap_or_else(PoisonError::into_inner).contains(&identity(lock))
    }

    /// Reads what commits an entry; none if it is not committed.
    pub(super) fn committed_info(&self, entry: &str) -> Result<Option<Map<String, Value>>, CacheError> {
        let Some(lock) = self.root.stat(&format!("{entry}/{OBJECT_LOCK}"))? else { return Ok(None) };
        let info = self.root.read(&format!("{entry}/{OBJECT_INFO}"))?.and_then(|text| parse_info(&text));
        Ok(info.filter(|info| !is_marked(&lock) || boot_of(info) == Some(&self.boot_id)))
    }
}

impl LoadGuard {
    /// The directory with what the entry is made of.
    pub fn data(&self) -> PathBuf {
        self.directory.join(DATA)
    }

    /// The directory of the entry.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What `object.info` says: `size`, `creation-boot-id`, and whatever else the entry was noted with. Nothing if
    /// it cannot be understood.
    pub fn info(&self) -> &Map<String, Value> {
        self.info.get_or_init(|| {
            let text = self.cache.root.read(&format!("{}/{OBJECT_INFO}", self.entry));
            text.ok().flatten().and_then(|text| parse_info(&text)).unwrap_or_default()
        })
    }
}

/// Tells lock files apart: inode numbers are used again, and nothing changes the time of modification.
fn identity(lock: &Stat) -> LockIdentity {
    (lock.st_ino, lock.st_mtime, lock.st_mtime_nsec as i64)
}

/// Marks an entry as used now. Best effort: on a read-only file system nothing is evicted either.
fn touch(lock: &File, stat: &Stat) {
    // What the kernel would write. In the same tick of its clock it is there already, and need not be written again.
    let tick = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    if (stat.st_atime, stat.st_atime_nsec as i64) == (tick.tv_sec, tick.tv_nsec) {
        return;
    }
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let same = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let _ = rustix::fs::futimens(lock, &Timestamps { last_access: now, last_modification: same });
}
