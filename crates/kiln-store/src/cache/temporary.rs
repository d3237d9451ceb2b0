//! Temporary directories in the cache, recognisable as left behind.
//!
//! The reference's ones have no locks, so only those named `kiln-…` are judged: they are locked as directories
//! (`flock`) by whoever uses them.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::files::missing;
use super::{Cache, CacheError, TEMPORARY, UNINTERRUPTED, name};
use crate::tree;

/// What the names of Kiln's temporary directories start with.
const PREFIX: &str = "kiln-";

/// A directory that is removed when dropped, or by a later run if this one dies.
#[derive(Debug)]
pub struct TemporaryDirectory {
    path: PathBuf,
    lock: Option<File>,
    _cache: Arc<Cache>,
}

impl Cache {
    /// Makes a directory below the cache's `tmp` whose name contains the prefix.
    pub fn temporary_directory(self: &Arc<Self>, prefix: &str) -> Result<TemporaryDirectory, CacheError> {
        loop {
            let path = self.root.path().join(TEMPORARY).join(format!("{PREFIX}{prefix}{}", name::random()?));
            rustix::fs::mkdir(&path, Mode::RWXU).map_err(CacheError::io("create directory", &path))?;
            // Not there any more, or locked: somebody takes it for left behind.
            if let Some(lock) = hold(&path)? {
                return Ok(TemporaryDirectory { path, lock: Some(lock), _cache: Arc::clone(self) });
            }
        }
    }
}

impl TemporaryDirectory {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory and reports if that fails; dropping it does the same silently.
    pub fn close(mut self) -> Result<(), CacheError> {
        self.vanish()
    }

    fn vanish(&mut self) -> Result<(), CacheError> {
        let Some(lock) = self.lock.take() else { return Ok(()) };
        tree::remove(&self.path, &UNINTERRUPTED)?;
        drop(lock);
        Ok(())
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // Best effort: a later run removes the rest.
        let _ = self.vanish();
    }
}

/// Removes one of Kiln's temporary directories if nobody uses it. Others are left alone.
pub(super) fn reclaim(path: &Path, stop: &AtomicBool) -> Result<(), CacheError> {
    let ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
    if ours && let Some(_lock) = hold(path)? {
        tree::remove(path, stop)?;
    }
    Ok(())
}

/// Locks a directory, if it is there and nobody else has locked it.
fn hold(path: &Path) -> Result<Option<File>, CacheError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: File = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        other => other.map_err(CacheError::io("open directory", path))?.into(),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        other => other.map_err(CacheError::io("lock", path))?,
    }
    let here = file.metadata().map_err(CacheError::io("read attributes of", path))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) if (here.dev(), here.ino()) == (there.dev(), there.ino()) => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(error) if missing(&error) => Ok(None),
        Err(error) => Err(CacheError::io("read attributes of", path)(error)),
    }
}
