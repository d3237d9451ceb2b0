//! Entries that are being made, and how they are committed.

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_sys::lock::{self, Kind};
use rustix::io::Errno;
use serde_json::{Map, Value};

use super::durability::Durability;
use super::files::{Root, TRIES};
use super::hooks::Point;
use super::info::{BOOT, SIZE};
use super::journal::GONE;
use super::load::LoadGuard;
use super::room::DiskFull;
use super::{
    Cache, CacheError, DATA, MaximumSize, OBJECT_INFO, OBJECT_LOCK, OBJECTS, STAGE, UNINTERRUPTED, json, name,
};
use crate::tree::{self, CopyOptions, TreeError};

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
    /// There is too little room on the disk.
    DiskFull(DiskFull),
    /// The cache has an entry of this name that was made by another recipe, and it is in use.
    InUse,
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
            Self::DiskFull(full) => full.fmt(formatter),
            Self::InUse => {
                write!(formatter, "an older one, made in another way, is in use by another build")
            }
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
    pub(super) cache: Arc<Cache>,
    /// Relative to the cache's directory.
    pub(super) entry: String,
    /// None once the entry has been committed.
    lock: Option<File>,
    /// Whether `cache.size` may count it, so that its bytes are given back before it vanishes.
    accounted: bool,
    notes: Map<String, Value>,
}

impl Cache {
    /// Makes an entry in the staging area, which works whatever the cache's version and limit are.
    pub fn stage(self: &Arc<Self>) -> Result<Entry, CacheError> {
        self.entry(STAGE)
    }

    /// Makes an entry among the objects, or in the staging area if nothing can be committed anyway.
    pub fn store(self: &Arc<Self>) -> Result<Entry, CacheError> {
        self.entry(if self.is_compatible() { OBJECTS } else { STAGE })
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

    pub(super) fn entry(self: &Arc<Self>, area: &str) -> Result<Entry, CacheError> {
        let root = &self.root;
        for _ in 0..TRIES {
            let entry = format!("{area}/{}", name::anonymous()?);
            root.make_directory(&entry)?;
            root.at(Point::DirectoryMade);
            let lock = match root
                .create_locked(&format!("{entry}/{OBJECT_LOCK}"), self.options.durability.lock_mode())
            {
                Ok(Some(lock)) => lock,
                // Somebody who cleans up took the empty directory for left behind.
                Ok(None) => continue,
                Err(error) => {
                    // Best effort: it is empty, and whoever opens the cache next removes it.
                    let _ = root.remove_directory(&entry);
                    return Err(error);
                }
            };
            root.at(Point::LockLinked);
            let entry = Entry {
                cache: Arc::clone(self),
                entry,
                lock: Some(lock),
                accounted: false,
                notes: Map::new(),
            };
            root.make_directory(&entry.file(DATA))?;
            return Ok(entry);
        }
        Err(root.failed("create an entry in", area)(std::io::Error::from(ErrorKind::NotFound)))
    }
}

impl Entry {
    /// The directory to fill.
    pub fn data(&self) -> PathBuf {
        self.cache.root.path().join(&self.entry).join(DATA)
    }

    /// Adds a value to what `object.info` will say; the reference leaves unknown keys alone.
    pub fn note(&mut self, key: &str, value: impl Into<Value>) {
        self.notes.insert(key.to_owned(), value.into());
    }

    /// Notes what the content depends on beside its name: an entry of the same name and another recipe is replaced.
    pub fn note_recipe(&mut self, recipe: &str) {
        self.note(super::info::RECIPE, recipe);
    }

    /// Measures the entry and commits it under a name.
    pub fn commit(self, name: &str) -> Result<Commit, CacheError> {
        let size = tree::measure(&self.data(), &UNINTERRUPTED)?;
        self.commit_measured(name, size)
    }

    /// Commits the entry, which takes `size` bytes, under a name: a rename, whatever the size.
    pub fn commit_measured(mut self, name: &str, size: u64) -> Result<Commit, CacheError> {
        name::check(name)?;
        if let Some(refusal) = self.cache.refusal(size) {
            return Ok(Commit::Refused(self, refusal));
        }
        // It is there already; whether it may stay is the question.
        if let Some(full) = self.cache.make_free(0)? {
            return Ok(Commit::Refused(self, Refusal::DiskFull(full)));
        }
        match self.try_commit(name, size) {
            Ok(Tried::Kept) => self.kept(name).map(Commit::Kept),
            Ok(Tried::Exists) => Ok(Commit::Exists(self)),
            Ok(Tried::Refused(refusal)) => Ok(Commit::Refused(self, refusal)),
            // The staging area is a link to another file system.
            Err(CacheError::Io { source, .. }) if source.kind() == ErrorKind::CrossesDevices => {
                self.commit_copy(name)
            }
            Err(error) => Err(error),
        }
    }

    fn try_commit(&mut self, name: &str, size: u64) -> Result<Tried, CacheError> {
        let cache = Arc::clone(&self.cache);
        let info = self.info(size);
        if !cache.account(&self.entry, &info, size)? {
            cache.make_room(size)?;
            if !cache.account(&self.entry, &info, size)? {
                let maximum = match cache.maximum_size() {
                    MaximumSize::Bytes(maximum) => maximum,
                    MaximumSize::Unlimited => u64::MAX,
                };
                return Ok(Tried::Refused(Refusal::NoRoom { size, maximum }));
            }
        }
        self.accounted = true;
        if cache.options.durability == Durability::Before {
            cache.root.flush()?;
        }
        let tried = self.publish(name)?;
        match tried {
            Tried::Kept => {
                self.accounted = false;
                cache.root.at(Point::Named);
                match cache.options.durability {
                    Durability::Deferred => cache.flusher.add(name)?,
                    Durability::Before => cache.flush_directory(OBJECTS)?,
                    Durability::Off => {}
                }
            }
            Tried::Exists | Tried::Refused(_) => self.withdraw()?,
        }
        Ok(tried)
    }

    fn info(&self, size: u64) -> String {
        let mut info = Map::new();
        info.insert(BOOT.to_owned(), self.cache.boot_id.clone().into());
        info.insert(SIZE.to_owned(), size.into());
        info.extend(self.notes.clone());
        json::dump(&info)
    }

    /// Gives the entry its name, unless another entry has it that is as good.
    fn publish(&self, name: &str) -> Result<Tried, CacheError> {
        let target = format!("{OBJECTS}/{name}");
        loop {
            match self.cache.root.rename_new(&self.entry, &target) {
                Ok(()) => return Ok(Tried::Kept),
                Err(error) if taken(error.kind()) => {
                    let Some(present) = self.cache.occupant(&target)? else { continue };
                    let differs =
                        match (present.get(super::info::RECIPE), self.notes.get(super::info::RECIPE)) {
                            (Some(present), Some(own)) => present != own,
                            _ => false,
                        };
                    if !differs {
                        return Ok(Tried::Exists);
                    }
                    if let Some(tried) = self.cache.replace_entry(&self.entry, &target)? {
                        return Ok(tried);
                    }
                }
                Err(error) => return Err(self.cache.root.failed("commit", &target)(error)),
            }
        }
    }

    /// Takes back what a commit has done so far.
    fn withdraw(&mut self) -> Result<(), CacheError> {
        self.cache.give_back(&self.entry)?;
        self.accounted = false;
        self.cache.root.unlink(&self.file(GONE)).map(|_| ())
    }

    /// Turns a published entry into one that is held for reading.
    fn kept(mut self, name: &str) -> Result<LoadGuard, CacheError> {
        let target = format!("{OBJECTS}/{name}");
        let gone = || self.cache.root.failed("hold", &target)(std::io::Error::from(ErrorKind::NotFound));
        let lock = self.lock.take().ok_or_else(gone)?;
        // Converting never waits and never lets a writer in between.
        lock::lock(&lock, Kind::Read).map_err(self.cache.root.failed("lock", &target))?;
        Ok(self.cache.guard(target, lock))
    }

    /// Commits a copy: the staging area may be a link to another file system.
    fn commit_copy(self, name: &str) -> Result<Commit, CacheError> {
        let mut copy = self.cache.entry(OBJECTS)?;
        copy.notes = self.notes.clone();
        copy.fill_from(&self.data(), &UNINTERRUPTED)?;
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
        if self.accounted {
            self.cache.give_back_on_full_disk(&self.entry)?;
        }
        remove_entry(&self.cache.root, &self.entry, &UNINTERRUPTED)?;
        drop(lock);
        Ok(())
    }

    pub(super) fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.entry)
    }

    /// Leaves the entry to be removed by somebody else, who gets what holds it.
    pub(super) fn abandon(mut self) -> (String, Option<File>) {
        (std::mem::take(&mut self.entry), self.lock.take())
    }

    /// Its bytes have been given back.
    pub(super) fn mark_given_back(&mut self) {
        self.accounted = false;
    }

    /// Has the entry's bytes given back before it vanishes.
    pub(super) fn mark_accounted(&mut self) {
        self.accounted = true;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Best effort: the lock is released, so whoever opens the cache next removes the rest.
        let _ = self.vanish();
    }
}

/// How far a commit came.
pub(super) enum Tried {
    Kept,
    Exists,
    Refused(Refusal),
}

/// Whether a rename failed because the name is taken.
fn taken(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory)
}

/// Removes an entry whose write lock is held: what commits it first, its lock last.
pub(super) fn remove_entry(root: &Root, entry: &str, interrupt: &AtomicBool) -> Result<(), CacheError> {
    root.unlink(&format!("{entry}/{OBJECT_INFO}"))?;
    let data = format!("{entry}/{DATA}");
    match root.remove_directory(&data) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(_) => tree::remove(&root.path().join(&data), interrupt)?,
    }
    let lock = format!("{entry}/{OBJECT_LOCK}");
    // Mostly that was all. What else there is must not outlive the lock.
    let others: Vec<_> = root.list(entry)?.into_iter().filter(|name| name != OBJECT_LOCK).collect();
    for other in others {
        tree::remove(&root.path().join(entry).join(other), interrupt)?;
    }
    root.unlink(&lock)?;
    match root.remove_directory(entry) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(root.failed("remove directory", entry)(error)),
    }
}
