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
//! tmp/kiln-*                                             Kiln's own: temporary directories, build locks
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
//! - Space is accounted before an entry gets its name, and given back after it lost it. Whoever dies
//!   between leaves too large a number, never too small a one; the next one that opens the cache alone
//!   counts again.
//!
//! # Limitations
//!
//! Committed data is not flushed to disk: after a power failure an entry may be incomplete.

mod boot_id;
mod build_lock;
mod downloads;
mod entry;
mod error;
mod evict;
mod files;
mod info;
mod inspect;
mod json;
mod load;
mod name;
mod reclaim;
mod size;
mod temporary;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_sys::lock::{self, Kind};

pub use build_lock::BuildLock;
pub use downloads::{Downloads, Session};
pub use entry::{Commit, Entry, Refusal};
pub use error::CacheError;
pub use info::MaximumSize;
pub use inspect::{EntryKind, Listed, Overview, Place, Progress, Usage, UsageReport};
pub use load::LoadGuard;
pub use temporary::TemporaryDirectory;

use files::Locked;
use info::Info;

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

/// What programs that make backups look for, and a line for people.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
                   # A cache directory; what is in it can be made again. See https://bford.info/cachedir/\n";

/// The program whose boot ids the entries carry: the reference's name, because the directory is shared.
const APPLICATION: &str = "osbuild";

/// Cleaning up is never interrupted: it is short, and what it leaves would only be found by a later run.
static UNINTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How a cache is opened.
#[derive(Clone, Copy, Debug)]
pub struct CacheOptions {
    /// Whether what dead processes left is removed, and the size counted again if nobody else is there.
    pub reclaim: bool,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { reclaim: true }
    }
}

/// An open cache. Holds the shared lock until it and everything that came from it is dropped.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    boot_id: String,
    info: Mutex<Info>,
    _lock: File,
}

impl Cache {
    /// Opens the cache in a directory, which is made if need be.
    pub fn open(directory: &Path, options: CacheOptions) -> Result<Arc<Self>, CacheError> {
        let absolute = std::path::absolute(directory).map_err(CacheError::io("find", directory))?;
        let boot_id = boot_id::boot_id(APPLICATION)?;
        files::scaffold(&absolute)?;
        let path = absolute.join(CACHE_LOCK);
        let alone =
            if options.reclaim { files::open_locked(&path, Kind::Write, false)? } else { Locked::Contended };
        let (lock, alone) = match alone {
            Locked::Held(lock) => (lock, true),
            Locked::Contended | Locked::Missing => (shared(&path)?, false),
        };
        let info = Info::read(&absolute.join(CACHE_INFO))?;
        let again = lock.try_clone().map_err(CacheError::io("lock", &path))?;
        let cache = Arc::new(Self { directory: absolute, boot_id, info: Mutex::new(info), _lock: lock });
        if alone {
            let buried = cache.recover();
            // Converting a write lock to a read lock neither waits nor lets anyone in between.
            lock::lock(&again, Kind::Read).map_err(CacheError::io("lock", &path))?;
            drop(buried?);
        } else if options.reclaim {
            cache.reclaim()?;
        }
        Ok(cache)
    }

    /// The cache's directory, absolute.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of downloaded sources; each content type has its own in it.
    pub fn sources(&self) -> PathBuf {
        self.directory.join(SOURCES)
    }

    /// The limit for all entries together.
    pub fn maximum_size(&self) -> MaximumSize {
        self.info().maximum_size
    }

    /// Changes the limit, for this cache and all who open it later. Nothing is evicted until room is needed.
    pub fn set_maximum_size(&self, maximum: MaximumSize) -> Result<(), CacheError> {
        let path = self.directory.join(CACHE_INFO);
        let Locked::Held(lock) = files::open_locked(&path, Kind::Write, true)? else {
            return Err(CacheError::io("lock", &path)(std::io::Error::from(std::io::ErrorKind::NotFound)));
        };
        let read = Info::read(&path)?;
        if self.info().is_compatible()
            && let Some(text) = read.with_maximum_size(maximum)
        {
            self.replace_file(CACHE_INFO, &text)?;
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

    fn objects(&self) -> PathBuf {
        self.directory.join(OBJECTS)
    }
}

fn shared(path: &Path) -> Result<File, CacheError> {
    match files::open_locked(path, Kind::Read, true)? {
        Locked::Held(lock) => Ok(lock),
        Locked::Contended | Locked::Missing => {
            Err(CacheError::io("lock", path)(std::io::Error::from(std::io::ErrorKind::NotFound)))
        }
    }
}
