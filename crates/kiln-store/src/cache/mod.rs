//! FsCache: a directory of entries by name that any number of programs use at once, the reference among them.
//!
//! # Layout (version 1, shared with the reference)
//!
//! ```text
//! CACHEDIR.TAG  marks the directory for backup programs
//! cache.info    JSON: version, maximum-size, creation-boot-id; other keys are left alone
//! cache.lock    read-locked by every user; write-locked by who needs it alone
//! cache.size    JSON number: the bytes accounted; replaced under its own write lock
//! objects/NAME/{data/, object.info, object.lock}         committed entries
//! objects/uuid-HEX/…                                     entries that are being made or removed
//! objects/uuid-HEX (a file)                              a file that is about to be renamed or linked
//! stage/uuid-HEX/{data/, object.info, object.lock}       entries that never get a name, or not yet
//! sources/TYPE/NAME                                      downloads ([`downloads`])
//! tmp/kiln-*                                             Kiln's own: temporary directories, sessions, build locks
//! kiln.*                                                 Kiln's own: what was counted, what was not flushed yet
//! ```
//!
//! # Rules
//!
//! - An entry belongs to whoever holds the write lock of its `object.lock`, from before it can be found
//!   until it is gone. Readers hold read locks and never wait: a contended entry is a miss.
//! - After a lock is granted, the path must still lead to the locked file; else it is opened again.
//! - `object.info` makes an entry committed: written last, unlinked first.
//! - An entry gets its name by a rename that replaces nothing, and loses it by a rename, so no name ever
//!   shows half an entry, whenever the process dies.
//! - `object.lock`'s access time says when an entry was last used.
//! - Space is accounted before an entry gets its name, and given back after it lost it, in steps that leave
//!   behind what has been done so far. Whoever opens the cache next gives back what is missing; whoever opens
//!   it alone counts again, because the reference does not do that.
//!
//! Accounting survives being killed at any point (`journal.rs`), and content survives a power failure
//! ([`Durability`]).

mod boot_id;
mod build_lock;
mod downloads;
mod durability;
mod entry;
mod error;
mod evict;
mod files;
mod hooks;
mod info;
mod inspect;
mod journal;
mod json;
mod load;
mod name;
mod prune;
mod reclaim;
mod room;
mod size;
mod temporary;
mod unflushed;
mod verify;

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_sys::lock::{self, Attempt, Kind};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use build_lock::BuildLock;
pub use downloads::{Downloads, Session};
pub use durability::Durability;
pub use entry::{Commit, Entry, Refusal};
pub use error::CacheError;
pub use hooks::{Hooks, Point};
pub use info::MaximumSize;
pub use inspect::{EntryKind, Listed, Overview, Place, Progress, Usage, UsageReport};
pub use load::LoadGuard;
pub use prune::{KeptBecause, PruneOptions, PruneReport, PruneTarget, Pruned};
pub use room::DiskFull;
pub use temporary::TemporaryDirectory;
pub use verify::{Fault, Finding, Remedy, Repair, Unchecked, VerifyReport, verify};

use durability::Flusher;
use files::{Locked, Root};
use info::Info;
use load::LockIdentity;
use reclaim::Janitor;

const OBJECTS: &str = "objects";
const STAGE: &str = "stage";
const TEMPORARY: &str = "tmp";
const SOURCES: &str = "sources";
const DATA: &str = "data";
const CACHE_INFO: &str = "cache.info";
const CACHE_LOCK: &str = "cache.lock";
const CACHE_SIZE: &str = "cache.size";
const CACHE_TAG: &str = "CACHEDIR.TAG";
const OBJECT_INFO: &str = "object.info";
const OBJECT_LOCK: &str = "object.lock";

/// The directory of build locks, below `tmp`.
const LOCKS: &str = "locks";
const LOCKED_BUILDS: &str = "tmp/locks";

/// What programs that make backups look for, and a line for people.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
                   # A cache directory; what is in it can be made again. See https://bford.info/cachedir/\n";

/// The program whose boot ids the entries carry: the reference's name, because the directory is shared.
const APPLICATION: &str = "osbuild";

/// Cleaning up is never interrupted: it is short, and what it leaves would only be found by a later run.
static UNINTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How a cache is opened.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Whether what dead processes left is removed, and the size counted again if nobody else is there.
    pub reclaim: bool,
    /// When what is committed reaches the disk.
    pub durability: Durability,
    /// For tests.
    pub hooks: Hooks,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { reclaim: true, durability: Durability::default(), hooks: Hooks::default() }
    }
}

/// An open cache. Holds the shared lock until it and everything that came from it is dropped.
#[derive(Debug)]
pub struct Cache {
    // In the order in which they end: the lock is released last.
    janitor: Mutex<Option<Janitor>>,
    flusher: Flusher,
    root: Root,
    boot_id: String,
    info: Mutex<Info>,
    options: CacheOptions,
    /// The lock files of entries that carry their mark and were made since this boot.
    of_this_boot: Mutex<HashSet<LockIdentity>>,
    /// Bytes of the file system that have to stay free.
    minimum_free: AtomicU64,
    /// Ends slow work that nobody waits for.
    stop: Arc<AtomicBool>,
    lock: File,
}

impl Cache {
    /// Opens the cache in a directory, which is made if need be.
    pub fn open(directory: &Path, options: CacheOptions) -> Result<Arc<Self>, CacheError> {
        let absolute = std::path::absolute(directory).map_err(CacheError::io("find", directory))?;
        let boot_id = boot_id::boot_id(APPLICATION)?;
        let root = Root::open(absolute, options.hooks.clone())?;
        let lock = root.share(CACHE_LOCK)?;
        let info = Info::read(&root.path().join(CACHE_INFO))?;
        let reclaim = options.reclaim;
        let cache = Arc::new(Self {
            janitor: Mutex::default(),
            flusher: Flusher::new(root.twin()?),
            root,
            boot_id,
            info: Mutex::new(info),
            options,
            of_this_boot: Mutex::default(),
            minimum_free: AtomicU64::new(0),
            stop: Arc::default(),
            lock,
        });
        cache.check_unflushed()?;
        if reclaim {
            let janitor = cache.put_right()?;
            *cache.janitor.lock().unwrap_or_else(PoisonError::into_inner) = janitor;
        }
        Ok(cache)
    }

    /// A second handle, for a thread that must not keep this one open.
    fn twin(&self) -> Result<Self, CacheError> {
        Ok(Self {
            janitor: Mutex::default(),
            flusher: Flusher::new(self.root.twin()?),
            root: self.root.twin()?,
            boot_id: self.boot_id.clone(),
            info: Mutex::new(self.info()),
            options: self.options.clone(),
            of_this_boot: Mutex::default(),
            minimum_free: AtomicU64::new(self.minimum_free.load(Ordering::Relaxed)),
            stop: Arc::default(),
            lock: self.lock.try_clone().map_err(self.root.failed("lock", CACHE_LOCK))?,
        })
    }

    /// Waits until what dead processes had left when the cache was opened is removed.
    pub fn wait_for_reclaim(&self) {
        if let Some(janitor) = &mut *self.janitor.lock().unwrap_or_else(PoisonError::into_inner) {
            janitor.finish();
        }
    }

    /// Has everything that was committed so far on the disk when it returns.
    pub fn flush(&self) -> Result<(), CacheError> {
        self.flusher.flush()
    }

    /// The cache's directory, absolute.
    pub fn directory(&self) -> &Path {
        self.root.path()
    }

    /// The directory of downloaded sources; each content type has its own in it.
    pub fn sources(&self) -> PathBuf {
        self.root.path().join(SOURCES)
    }

    /// The limit for all entries together.
    pub fn maximum_size(&self) -> MaximumSize {
        self.info().maximum_size
    }

    /// Changes the limit, for this cache and all who open it later. Nothing is evicted until room is needed.
    pub fn set_maximum_size(&self, maximum: MaximumSize) -> Result<(), CacheError> {
        let Locked::Held(lock, _) = self.root.open_locked(CACHE_INFO, Kind::Write, true)? else {
            return Err(self.root.failed("lock", CACHE_INFO)(std::io::Error::from(
                std::io::ErrorKind::NotFound,
            )));
        };
        let read = Info::read(&self.root.path().join(CACHE_INFO))?;
        if self.is_compatible()
            && let Some(text) = read.with_maximum_size(maximum)
        {
            self.root.replace(CACHE_INFO, &text)?;
        }
        drop(lock);
        *self.info.lock().unwrap_or_else(PoisonError::into_inner) = read.limited_to(maximum);
        Ok(())
    }

    /// The version of the layout that the cache says it has; other versions than 1 are only staged in.
    pub fn version(&self) -> Option<i64> {
        self.info().version
    }

    fn info(&self) -> Info {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_compatible(&self) -> bool {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).is_compatible()
    }

    /// Turns the shared lock into the other one if nobody else has the cache open. It has to be turned back.
    fn try_alone(&self) -> Result<bool, CacheError> {
        match lock::try_lock(&self.lock, Kind::Write) {
            Ok(attempt) => Ok(attempt == Attempt::Acquired),
            // Open for reading only: this may look, and nothing else.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BADF) => Ok(false),
            Err(error) => Err(self.root.failed("lock", CACHE_LOCK)(error)),
        }
    }

    /// Has the names in a directory of the cache on the disk when it returns.
    fn flush_directory(&self, directory: &str) -> Result<(), CacheError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(self.root.fd(), directory, flags, Mode::empty())
            .and_then(rustix::fs::fsync)
            .map_err(self.root.failed("flush", directory))
    }

    /// Writes one of Kiln's own files of the cache, in one step. Not at all if somebody who cleans up is faster.
    ///
    /// By way of `tmp`, not of `objects` as the reference's files: the time of that directory says whether the objects
    /// have to be counted again.
    fn record(&self, file: &str, content: &str) -> Result<(), CacheError> {
        let new = format!("{TEMPORARY}/{file}-{}", name::random()?);
        // Locked, so that it can be told from what somebody dead has left.
        let Some(mut opened) = self.root.create_locked(&new, files::FILE_MODE)? else { return Ok(()) };
        let placed = opened
            .write_all(content.as_bytes())
            .map_err(self.root.failed("write", &new))
            .and_then(|()| self.root.rename_over(&new, file));
        placed.and(self.root.unlink(&new).map(|_| ()))
    }
}
