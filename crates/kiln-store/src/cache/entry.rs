//! Entries that are being made, and how they are committed.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_sys::lock::{self, Kind};
use kiln_sys::rename::rename_new;
use rustix::fs::{CWD, Mode, OFlags};
use serde_json::{Map, Value};

use super::files::{create_locked, leads_to, missing};
use super::load::LoadGuard;
use super::{
    Cache, CacheError, DATA, MaximumSize, OBJECT_INFO, OBJECT_LOCK, OBJECTS, STAGE, UNINTERRUPTED, json, name,
};
use crate::tree::{self, CopyOptions, TreeError};

/// How often an entry is tried to be made while somebody cleans up its empty directory.
const TRIES: usize = 64;

/// Why the cache did not keep an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The limit is zero, as in a new cache.
    Disabled,
    /// The entry alone is larger than the limit.
    TooLarge {
        /// Bytes of the entry.
        size: u64,
        /// The limit in bytes.
        maximum: u64,
    },
    /// There is no room, and what takes it is in use.
    NoRoom {
        /// Bytes of the entry.
        size: u64,
        /// The limit in bytes.
        maximum: u64,
    },
    /// The cache has a layout of another version.
    Incompatible {
        /// The version, if it has any.
        version: Option<i64>,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => write!(formatter, "the cache keeps nothing because its maximum size is 0"),
            Self::TooLarge { size, maximum } => {
                write!(formatter, "its {size} bytes exceed the maximum size of the cache: {maximum}")
            }
            Self::NoRoom { size, maximum } => write!(
                formatter,
                "there is no room for its {size} bytes because what the cache holds is in use; its maximum size: {maximum}"
            ),
            Self::Incompatible { version: Some(version) } => {
                write!(formatter, "the cache has a layout of another version: {version}")
            }
            Self::Incompatible { version: None } => {
                write!(formatter, "the cache has a layout of unknown version")
            }
        }
    }
}

/// How a commit ended.
#[derive(Debug)]
#[must_use]
pub enum Commit {
    /// The entry has its name, and is held.
    Kept(LoadGuard),
    /// The name was taken by somebody else's entry; this one is what it was.
    Exists(Entry),
    /// The cache does not keep it; it is what it was.
    Refused(Entry, Refusal),
}

/// An entry without a name. Only its owner knows it; it vanishes when dropped.
#[derive(Debug)]
pub struct Entry {
    cache: Arc<Cache>,
    directory: PathBuf,
    /// None once the entry has been committed.
    lock: Option<File>,
    notes: Map<String, Value>,
}

impl Cache {
    /// Makes an entry in the staging area, which works whatever the cache's version and limit are.
    pub fn stage(self: &Arc<Self>) -> Result<Entry, CacheError> {
        self.entry(STAGE)
    }

    /// Makes an entry among the objects, or in the staging area if nothing can be committed anyway.
    pub fn store(self: &Arc<Self>) -> Result<Entry, CacheError> {
        self.entry(if self.info().is_compatible() { OBJECTS } else { STAGE })
    }

    /// Whether an entry of a size would be refused, whatever else is in the cache.
    pub fn refusal(&self, size: u64) -> Option<Refusal> {
        let info = self.info();
        if !info.is_compatible() {
            return Some(Refusal::Incompatible { version: info.version });
        }
        match info.maximum_size {
            MaximumSize::Bytes(0) => Some(Refusal::Disabled),
            MaximumSize::Bytes(maximum) if size > maximum => Some(Refusal::TooLarge { size, maximum }),
            MaximumSize::Bytes(_) | MaximumSize::Unlimited => None,
        }
    }

    fn entry(self: &Arc<Self>, area: &str) -> Result<Entry, CacheError> {
        let area = self.directory.join(area);
        let mut failure = None;
        for _ in 0..TRIES {
            let directory = area.join(name::anonymous()?);
            std::fs::create_dir(&directory).map_err(CacheError::io("create directory", &directory))?;
            let lock = match create_locked(&directory.join(OBJECT_LOCK)) {
                Ok(Some(lock)) => lock,
                // Taken for left behind by somebody who cleans up.
                Ok(None) => continue,
                Err(CacheError::Io { source, path, action }) if missing(&source) => {
                    failure = Some(CacheError::Io { source, path, action });
                    continue;
                }
                Err(error) => {
                    // Best effort: it is empty, and whoever opens the cache next removes it.
                    let _ = std::fs::remove_dir(&directory);
                    return Err(error);
                }
            };
            let entry = Entry { cache: Arc::clone(self), directory, lock: Some(lock), notes: Map::new() };
            let data = entry.data();
            std::fs::create_dir(&data).map_err(CacheError::io("create directory", &data))?;
            return Ok(entry);
        }
        let area_gone =
            || CacheError::io("create an entry in", &area)(std::io::Error::from(ErrorKind::NotFound));
        Err(failure.unwrap_or_else(area_gone))
    }
}

impl Entry {
    /// The directory to fill.
    pub fn data(&self) -> PathBuf {
        self.directory.join(DATA)
    }

    /// Adds a value to what `object.info` will say; the reference leaves unknown keys alone.
    pub fn note(&mut self, key: &str, value: impl Into<Value>) {
        self.notes.insert(key.to_owned(), value.into());
    }

    /// Measures the entry and commits it under a name.
    pub fn commit(self, name: &str) -> Result<Commit, CacheError> {
        let size = tree::measure(&self.data(), &UNINTERRUPTED)?;
        self.commit_measured(name, size)
    }

    /// Commits the entry, which takes `size` bytes, under a name: a rename, whatever the size.
    pub fn commit_measured(self, name: &str, size: u64) -> Result<Commit, CacheError> {
        name::check(name)?;
        let cache = Arc::clone(&self.cache);
        if let Some(refusal) = cache.refusal(size) {
            return Ok(Commit::Refused(self, refusal));
        }
        if !cache.reserve(size)? {
            cache.make_room(size)?;
            if !cache.reserve(size)? {
                let maximum = match cache.maximum_size() {
                    MaximumSize::Bytes(maximum) => maximum,
                    MaximumSize::Unlimited => u64::MAX,
                };
                return Ok(Commit::Refused(self, Refusal::NoRoom { size, maximum }));
            }
        }
        let info = self.directory.join(OBJECT_INFO);
        let target = cache.objects().join(name);
        let published = self.write_info(&info, size).and_then(|()| self.publish(&target));
        match published {
            Ok(true) => self.kept(&target).map(Commit::Kept),
            Ok(false) => {
                self.withdraw(&info, size)?;
                Ok(Commit::Exists(self))
            }
            Err(CacheError::Io { source, .. }) if source.kind() == ErrorKind::CrossesDevices => {
                self.withdraw(&info, size)?;
                self.commit_copy(name)
            }
            Err(error) => {
                // The first failure is the one to report (a full disk fails both); what stays accounted is
                // too large a number, and counted again in time.
                let _ = self.withdraw(&info, size);
                Err(error)
            }
        }
    }

    fn write_info(&self, path: &Path, size: u64) -> Result<(), CacheError> {
        let mut info = Map::new();
        info.insert("creation-boot-id".to_owned(), self.cache.boot_id.clone().into());
        info.insert("size".to_owned(), size.into());
        info.extend(self.notes.clone());
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .map_err(CacheError::io("create", path))?;
        file.write_all(json::dump(&info).as_bytes()).map_err(CacheError::io("write", path))
    }

    /// Gives the entry its name; false if another entry has it.
    fn publish(&self, target: &Path) -> Result<bool, CacheError> {
        loop {
            let renamed = rename(&self.directory, target);
            match renamed {
                Ok(()) => return Ok(true),
                Err(error) if taken(error.kind()) => {
                    // What has the name may be the rest of an entry that somebody died removing.
                    if !self.cache.clear_name(target)? {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(CacheError::io("commit", target)(error)),
            }
        }
    }

    /// Takes back what a commit has done so far.
    fn withdraw(&self, info: &Path, size: u64) -> Result<(), CacheError> {
        match std::fs::remove_file(info) {
            Err(error) if !missing(&error) => return Err(CacheError::io("remove", info)(error)),
            _ => {}
        }
        self.cache.give_back(size)
    }

    /// Turns a published entry into one that is held for reading.
    fn kept(mut self, target: &Path) -> Result<LoadGuard, CacheError> {
        let gone = || CacheError::io("hold", target)(std::io::Error::from(ErrorKind::NotFound));
        let lock = self.lock.take().ok_or_else(gone)?;
        // Converting never waits and never lets a writer in between.
        lock::lock(&lock, Kind::Read).map_err(CacheError::io("lock", target))?;
        self.cache.guard(target.to_owned(), lock)?.ok_or_else(gone)
    }

    /// Commits a copy: the staging area may be a link to another file system.
    fn commit_copy(self, name: &str) -> Result<Commit, CacheError> {
        let mut copy = self.cache.entry(OBJECTS)?;
        copy.notes = self.notes.clone();
        tree::copy(&self.data(), &copy.data(), CopyOptions::default(), &UNINTERRUPTED)?;
        match copy.commit(name)? {
            Commit::Kept(guard) => Ok(Commit::Kept(guard)),
            Commit::Exists(_) => Ok(Commit::Exists(self)),
            Commit::Refused(_, refusal) => Ok(Commit::Refused(self, refusal)),
        }
    }

    /// Copies everything from another directory into this entry.
    pub fn fill_from(&self, data: &Path, interrupt: &AtomicBool) -> Result<(), TreeError> {
        tree::copy(data, &self.data(), CopyOptions::default(), interrupt)
    }

    /// Removes the entry and reports if that fails; dropping it does the same silently.
    pub fn discard(mut self) -> Result<(), CacheError> {
        self.vanish()
    }

    fn vanish(&mut self) -> Result<(), CacheError> {
        let Some(lock) = self.lock.take() else { return Ok(()) };
        remove_entry(&self.directory)?;
        drop(lock);
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Best effort: the lock is released, so whoever opens the cache next removes the rest.
        let _ = self.vanish();
    }
}

/// Renames an entry, replacing nothing.
pub(super) fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let open = |path: &Path| -> std::io::Result<(OwnedFd, std::ffi::CString)> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().unwrap_or_default().as_bytes();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
        Ok((parent, std::ffi::CString::new(name)?))
    };
    let (from, to) = (open(from)?, open(to)?);
    rename_new((&from.0, &from.1), (&to.0, &to.1))
}

/// Whether a rename failed because the name is taken.
fn taken(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory)
}

/// Removes an entry whose write lock is held: what commits it first, its lock last.
pub(super) fn remove_entry(directory: &Path) -> Result<(), CacheError> {
    let remove = |path: &Path| match std::fs::remove_file(path) {
        Err(error) if !missing(&error) => Err(CacheError::io("remove", path)(error)),
        _ => Ok(()),
    };
    remove(&directory.join(OBJECT_INFO))?;
    let list = match std::fs::read_dir(directory) {
        Err(error) if missing(&error) => return Ok(()),
        other => other.map_err(CacheError::io("read directory", directory))?,
    };
    for found in list {
        let found = found.map_err(CacheError::io("read directory", directory))?;
        if found.file_name() != OBJECT_LOCK {
            tree::remove(&found.path(), &UNINTERRUPTED)?;
        }
    }
    remove(&directory.join(OBJECT_LOCK))?;
    match std::fs::remove_dir(directory) {
        Err(error) if !missing(&error) => Err(CacheError::io("remove directory", directory)(error)),
        _ => Ok(()),
    }
}

/// Whether the held lock file is still the one of the entry.
pub(super) fn holds(directory: &Path, lock: &File) -> Result<bool, CacheError> {
    leads_to(&directory.join(OBJECT_LOCK), lock)
}
