//! Removing what dead processes left, and counting again what they did not account.
//!
//! Whoever opens the cache while nobody else does holds its write lock for a moment: then everything without
//! a lock of its own kind is left behind too (the reference's temporary directories). All of it is moved into
//! one staging entry, which takes no time, and removed after the others were let in.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_sys::lock::Kind;

use super::entry::{Entry, holds, remove_entry};
use super::files::{Locked, missing, open_locked};
use super::load::{accounted, read_info};
use super::{Cache, CacheError, OBJECT_LOCK, STAGE, TEMPORARY, UNINTERRUPTED, name, temporary};
use crate::tree::{self, TreeError};

impl Cache {
    /// Removes what dead processes left and can be recognised while others use the cache: unlocked staging
    /// entries, entries and files without a name, Kiln's temporary directories.
    pub fn reclaim(&self) -> Result<(), CacheError> {
        for directory in [self.directory.join(STAGE), self.objects()] {
            for path in list(&directory)? {
                if is_anonymous(&path) {
                    unless_mounted(self.reclaim_entry(&path))?;
                }
            }
        }
        for path in list(&self.directory.join(TEMPORARY))? {
            unless_mounted(temporary::reclaim(&path))?;
        }
        Ok(())
    }

    fn reclaim_entry(&self, path: &Path) -> Result<(), CacheError> {
        let stat = match std::fs::symlink_metadata(path) {
            Err(error) if missing(&error) => return Ok(()),
            other => other.map_err(CacheError::io("read attributes of", path))?,
        };
        if !stat.is_dir() {
            return self.clear_file(path).map(|_| ());
        }
        match open_locked(&path.join(OBJECT_LOCK), Kind::Write, false)? {
            Locked::Contended => Ok(()),
            Locked::Missing => {
                // Just being made, or all but removed: empty in both cases, and its maker tries again.
                let _ = std::fs::remove_dir(path);
                Ok(())
            }
            Locked::Held(lock) if holds(path, &lock)? => {
                // Its maker died between accounting it and giving it a name.
                let size = read_info(path)?.as_ref().map_or(0, accounted);
                remove_entry(path)?;
                if size > 0 { self.give_back(size) } else { Ok(()) }
            }
            Locked::Held(_) => Ok(()),
        }
    }

    /// Puts everything right while nobody else uses the cache: what is left behind is moved into one entry,
    /// to be removed by dropping that, and the size is counted again.
    pub(super) fn recover(self: &Arc<Self>) -> Result<Option<Entry>, CacheError> {
        let mut left: Vec<PathBuf> = Vec::new();
        left.extend(list(&self.directory.join(STAGE))?);
        left.extend(list(&self.directory.join(TEMPORARY))?);
        let mut counted = 0;
        for path in list(&self.objects())? {
            if path.is_file() {
                // Those who are about to open the cache make files, with locks, before they have its lock.
                self.clear_file(&path)?;
                continue;
            }
            match read_info(&path)? {
                Some(info) if !is_anonymous(&path) => counted += accounted(&info),
                _ => left.push(path),
            }
        }
        // Without room for an entry, what is left behind has to be removed while the others wait.
        let grave = if left.is_empty() { None } else { self.stage().ok() };
        let mounts = if left.is_empty() { Vec::new() } else { mount_points() };
        for (index, path) in left.iter().enumerate() {
            let moved = grave
                .as_ref()
                .filter(|_| !holds_mount(&mounts, path))
                .is_some_and(|grave| std::fs::rename(path, grave.data().join(index.to_string())).is_ok());
            if !moved {
                // Also where the staging area is linked to another file system. Best effort, and never
                // across mount points: what stays is tried again next time.
                let _ = tree::remove(path, &UNINTERRUPTED);
            }
        }
        if self.info().is_compatible() {
            match self.set_size(counted) {
                // Too large a number does no harm; the cache must open for room to be made.
                Err(CacheError::Io { source, .. }) if source.kind() == ErrorKind::StorageFull => {}
                other => other?,
            }
        }
        Ok(grave)
    }

    /// Adds up what all committed entries are accounted with.
    pub(super) fn count(&self) -> Result<u64, CacheError> {
        let mut counted = 0;
        for path in list(&self.objects())? {
            if !is_anonymous(&path)
                && let Some(info) = read_info(&path)?
            {
                counted += accounted(&info);
            }
        }
        Ok(counted)
    }
}

/// A mount that a killed reference has left keeps what leads to it; that must not keep the cache closed.
fn unless_mounted(result: Result<(), CacheError>) -> Result<(), CacheError> {
    match result {
        Err(CacheError::Tree(TreeError::MountPoint { .. })) => Ok(()),
        other => other,
    }
}

/// Where something is mounted. Best effort: removal looks again at each directory.
fn mount_points() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(|point| PathBuf::from(point.replace("\\040", " "))).collect()
}

/// Whether moving a directory would move mounts along, again and again each time the cache is opened.
fn holds_mount(mounts: &[PathBuf], path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    mounts.iter().any(|mount| mount.starts_with(&path))
}

fn is_anonymous(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(name::ANONYMOUS))
}

/// The paths in a directory; none if there is no such directory.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if missing(&error) => return Ok(Vec::new()),
        other => other.map_err(CacheError::io("read directory", directory))?,
    };
    entries.map(|entry| Ok(entry.map_err(CacheError::io("read directory", directory))?.path())).collect()
}
