//! Evicting downloads.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use kiln_sys::lock::{self, Kind};

use super::session::Sessions;
use super::{Download, STALE, UNFINISHED_LOCKED, YOUNG, count, session};
use crate::cache::files::present;
use crate::cache::{Cache, CacheError, TEMPORARY, UNINTERRUPTED, name};
use crate::tree;

/// What the names of trees start with that are being removed; all temporary directories of Kiln start so.
const REMOVED: &str = "kiln-removed-";

/// Why a download stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache) enum Keep {
    /// A build of Kiln uses it, or may.
    Session,
    /// An input is linked to it.
    Linked,
    /// It was used not long ago, and others have the cache open who do not say what they use.
    Young,
}

/// The right to evict downloads: nobody begins a session meanwhile. To be held for a moment only.
#[derive(Debug)]
pub(in crate::cache) struct Evictor<'a> {
    cache: &'a Cache,
    sessions: Sessions,
    now: SystemTime,
    /// Nobody else has the cache open, or can open it.
    alone: bool,
    _lock: File,
}

impl Cache {
    /// Takes the right to evict downloads.
    pub(in crate::cache) fn evictor(&self) -> Result<Evictor<'_>, CacheError> {
        let lock = session::lock(&self.sources())?;
        let sessions = self.sessions()?;
        // Converting our shared lock keeps others out; it fails at once if there are any.
        let alone = self.try_alone()?;
        Ok(Evictor { cache: self, sessions, now: SystemTime::now(), alone, _lock: lock })
    }
}

impl Evictor<'_> {
    /// Why a download stays; none if it may be evicted.
    pub(in crate::cache) fn keeps(&self, download: &Download) -> Option<Keep> {
        if download.is_partial {
            // Only Kiln makes and uses it, and says so by its lock, whatever the time of its last byte.
            return session::is_locked(&download.path).unwrap_or(true).then_some(Keep::Session);
        }
        if self.sessions.protect(download.last_used) {
            return Some(Keep::Session);
        }
        if download.is_linked {
            return Some(Keep::Linked);
        }
        // A time that lies ahead is young too.
        let young = self.now.duration_since(download.last_used).map_or(true, |past| past < YOUNG);
        (!self.alone && (young || download.is_tree)).then_some(Keep::Young)
    }

    /// Evicts a download unless it must stay or was used since it was looked at; says how many bytes that freed.
    pub(in crate::cache) fn evict(&self, download: &Download) -> Result<Option<u64>, CacheError> {
        let Some(current) = count::look_at(download.path.clone())? else { return Ok(None) };
        if current.last_used != download.last_used || self.keeps(&current).is_some() {
            return Ok(None);
        }
        if current.is_partial {
            return Ok(remove_partial(&current.path)?.then_some(current.bytes));
        }
        if current.is_tree {
            self.remove_tree(&current.path)?;
        } else {
            remove_file(&current.path)?;
        }
        Ok(Some(current.bytes))
    }

    /// Removes something that is no download, unless a build uses it; false if one does.
    pub(in crate::cache) fn discard(&self, path: &Path) -> Result<bool, CacheError> {
        let Some(current) = count::look_at(path.to_owned())? else { return Ok(true) };
        if self.sessions.protect(current.last_used) || current.is_linked {
            return Ok(false);
        }
        if current.is_tree { self.remove_tree(path) } else { remove_file(path) }.map(|()| true)
    }

    /// Takes a tree's name first: nobody must find half of it.
    fn remove_tree(&self, path: &Path) -> Result<(), CacheError> {
        // Not locked: should this process die, anyone may go on.
        let grave = self.cache.directory().join(TEMPORARY).join(format!("{REMOVED}{}", name::random()?));
        match std::fs::rename(path, &grave) {
            Ok(()) => Ok(tree::remove(&grave, &UNINTERRUPTED)?),
            // `sources` may be a link to another file system.
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                Ok(tree::remove(path, &UNINTERRUPTED)?)
            }
            Err(error) => Err(CacheError::io("remove", path)(error)),
        }
    }
}

impl Drop for Evictor<'_> {
    fn drop(&mut self) {
        if self.alone {
            // Converting a write lock to a read lock always succeeds at once.
            let _ = lock::lock(&self.cache.lock, Kind::Read);
        }
    }
}

fn remove_file(path: &Path) -> Result<(), CacheError> {
    present(std::fs::remove_file(path), "remove", path).map(|_| ())
}

/// Removes what has arrived of a file, unless somebody adds to it; false if somebody does. Who opens it meanwhile finds
/// out that its name has gone as soon as it holds the lock.
fn remove_partial(path: &Path) -> Result<bool, CacheError> {
    let Some(file) = present(File::open(path), "open", path)? else { return Ok(true) };
    match file.try_lock() {
        Ok(()) => remove_file(path).map(|()| true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(CacheError::io("lock", path)(error)),
    }
}

/// Removes what has arrived of a file if nobody has gone on with it for long, and says how many bytes it took.
pub(super) fn reclaim_partial(path: &Path) -> Result<u64, CacheError> {
    let Some(found) = count::look_at(path.to_owned())? else { return Ok(0) };
    let is_stale = found.last_used.elapsed().is_ok_and(|past| past > STALE);
    Ok(if is_stale && remove_partial(path)? { found.bytes } else { 0 })
}

/// Whether content on its way was left by a process that has died, as far as that can be known.
pub(in crate::cache) fn is_left(path: &Path, alone: bool) -> Result<bool, CacheError> {
    let ours = path.file_name().unwrap_or_default().to_string_lossy().starts_with(UNFINISHED_LOCKED);
    Ok((ours || alone) && !session::is_locked(path)?)
}

/// Removes content on its way unless somebody fills it, and says how many bytes it took.
pub(super) fn reclaim_unfinished(path: &Path, alone: bool) -> Result<u64, CacheError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ours = name.starts_with(UNFINISHED_LOCKED);
    if !ours && !alone {
        return Ok(0);
    }
    let Some(file) = present(File::open(path), "open", path)? else { return Ok(0) };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(0),
        Err(TryLockError::Error(error)) => return Err(CacheError::io("lock", path)(error)),
    }
    let bytes = count::look_at(path.to_owned())?.map_or(0, |found| found.bytes);
    tree::remove(path, &UNINTERRUPTED)?;
    Ok(bytes)
}
