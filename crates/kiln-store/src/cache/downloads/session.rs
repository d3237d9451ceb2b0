//! Sessions: a program that is about to use downloads says so, and none that it uses is evicted.
//!
//! ```text
//! tmp/kiln-session-HEX/         locked while the session lives, as all temporary directories of Kiln are
//! tmp/kiln-session-HEX/ready    its time of modification is the session's beginning
//! ```
//!
//! As long as there is no `ready`, nothing is evicted: the session is about to find out what it needs, and counts on what
//! it finds. Who evicts holds the lock (`flock`) of the directory `sources` from before it looks for sessions until it
//! is done; who begins a session holds it while the directory is made. So neither misses the other.

use std::fs::{File, FileTimes};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FlockOperation, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use crate::cache::files::{paths, present};
use crate::cache::{Cache, CacheError, TEMPORARY, TemporaryDirectory};

/// What the names of sessions start with, after the prefix of all temporary directories.
const PREFIX: &str = "session-";
const FULL_PREFIX: &str = "kiln-session-";
const READY: &str = "ready";

/// Clocks of file systems tick; what was used a moment before the beginning counts as used since.
const SLACK: Duration = Duration::from_secs(1);

/// Protects the downloads that a program uses from the time it looks for them. Ends when dropped, or with the process.
#[derive(Debug)]
pub struct Session {
    directory: TemporaryDirectory,
    began: SystemTime,
}

/// What the live sessions allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache) enum Sessions {
    /// Nobody uses downloads.
    None,
    /// What was used since this time is in use.
    Since(SystemTime),
    /// Somebody is looking for what there is: anything may be in use.
    Starting,
}

impl Sessions {
    /// Whether a download with a time of last use is in use.
    pub(in crate::cache) fn protect(self, last_used: SystemTime) -> bool {
        match self {
            Self::None => false,
            Self::Since(began) => last_used >= began,
            Self::Starting => true,
        }
    }
}

impl Cache {
    /// Begins a session, before it is looked for what there is. Nothing is evicted until
    /// [`uses`](Session::uses) says what is used.
    pub fn begin_session(self: &Arc<Self>) -> Result<Session, CacheError> {
        let sources = self.sources();
        let lock = lock(&sources)?;
        let directory = self.temporary_directory(PREFIX)?;
        let stat = std::fs::metadata(directory.path())
            .map_err(CacheError::io("read attributes of", directory.path()))?;
        let began = stat.modified().map_err(CacheError::io("read attributes of", directory.path()))?;
        drop(lock);
        Ok(Session { directory, began })
    }

    /// What live sessions allow to be evicted. The caller holds the lock of `sources`.
    pub(in crate::cache) fn sessions(&self) -> Result<Sessions, CacheError> {
        let mut oldest = Sessions::None;
        for path in paths(&self.directory().join(TEMPORARY))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with(FULL_PREFIX) || !is_locked(&path)? {
                continue;
            }
            let ready = path.join(READY);
            let Some(stat) = present(std::fs::metadata(&ready), "read attributes of", &ready)? else {
                return Ok(Sessions::Starting);
            };
            let began = stat.modified().unwrap_or(UNIX_EPOCH);
            oldest = match oldest {
                Sessions::Since(other) => Sessions::Since(other.min(began)),
                _ => Sessions::Since(began),
            };
        }
        Ok(oldest)
    }
}

impl Session {
    /// Marks downloads as used now, and all others as unused by this session. What is not there is left out.
    pub fn uses(&self, downloads: impl IntoIterator<Item = PathBuf>) -> Result<(), CacheError> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let same = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: now, last_modification: same };
        // They lie side by side in a few directories, and there may be thousands: each directory is looked up once.
        let mut open: Option<(PathBuf, File)> = None;
        for path in downloads {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            if open.as_ref().is_none_or(|(directory, _)| directory != parent) {
                open = File::open(parent).ok().map(|file| (parent.to_owned(), file));
            }
            // Best effort: on a read-only file system nothing is evicted either.
            if let Some((_, directory)) = &open {
                let _ = rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW);
            }
        }
        let path = self.directory.path().join(READY);
        // Filled in first and named then: half a mark would protect too little.
        let unnamed = self.directory.path().join("new");
        let file = File::create(&unnamed).map_err(CacheError::io("create", &unnamed))?;
        file.set_times(FileTimes::new().set_modified(self.began.checked_sub(SLACK).unwrap_or(UNIX_EPOCH)))
            .map_err(CacheError::io("set the time of", &unnamed))?;
        std::fs::rename(&unnamed, &path).map_err(CacheError::io("create", &path))
    }
}

/// Takes the lock of `sources`, which excludes beginnings of sessions and evictions.
pub(super) fn lock(sources: &Path) -> Result<File, CacheError> {
    let file = File::open(sources).map_err(CacheError::io("open directory", sources))?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
        .map_err(CacheError::io("lock", sources))?;
    Ok(file)
}

/// Whether a directory is locked (`flock`) by somebody; false if it has gone.
pub(in crate::cache) fn is_locked(path: &Path) -> Result<bool, CacheError> {
    let Some(file) = present(File::open(path), "open directory", path)? else { return Ok(false) };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let stat = file.metadata().map_err(CacheError::io("read attributes of", path))?;
            Ok(stat.nlink() > 0)
        }
        Err(error) => Err(CacheError::io("lock", path)(error)),
    }
}
