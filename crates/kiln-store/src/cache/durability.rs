//! When what is committed reaches the disk.
//!
//! A rename is atomic, but after a power failure the new name may be there and the content not. Three ways:
//!
//! - [`Durability::Deferred`]: a commit is a rename and takes no time. Until the file system was flushed
//!   (`syncfs`, in a thread of its own, at the latest when the cache is closed), `object.lock` carries the
//!   sticky bit, which means nothing for files otherwise. An entry that still has it after the next boot may be
//!   incomplete: it is a miss, and removed. The reference does not look at the bit; it trusts everything.
//! - [`Durability::Before`]: the file system is flushed before each rename, and the directory after it. A commit
//!   takes as long as the disk takes to write the entry, and whatever else waits to be written there.
//!   Downloads are handled as with the first one, by a record of their own.
//! - [`Durability::Off`]: nothing is flushed and nothing is marked, as in the reference.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kiln_sys::lock::Kind;
use rustix::fs::{AtFlags, Mode, RawMode, Stat, StatxFlags, StatxTimestamp};

use super::files::{FILE_MODE, Locked, Root, permissions};
use super::unflushed::{Record, Records};
use super::{CacheError, OBJECT_LOCK, OBJECTS};

/// When what is committed reaches the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After the commit; until then the entry is marked, and not trusted after a reboot.
    #[default]
    Deferred,
    /// Before the commit.
    Before,
    /// Whenever the kernel gets to it. After a power failure entries may be incomplete.
    Off,
}

impl fmt::Display for Durability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Deferred => "deferred",
            Self::Before => "before",
            Self::Off => "off",
        })
    }
}

impl Durability {
    /// The mode of a new entry's lock file.
    pub(super) fn lock_mode(self) -> Mode {
        if self == Self::Deferred { FILE_MODE | Mode::SVTX } else { FILE_MODE }
    }
}

/// The bit of a lock file's mode that says so.
pub(super) const MARK: RawMode = Mode::SVTX.bits();

/// Whether a lock file says that what it guards may not be on the disk.
pub(super) const fn is_marked(lock: &Stat) -> bool {
    permissions(lock) & MARK != 0
}

/// So long commits are collected before the file system is flushed once for all of them.
const PAUSE: Duration = Duration::from_millis(500);

/// An entry that waits to be flushed. Inode numbers are used again; with the time of birth they are unique.
#[derive(Clone, Debug)]
pub(super) struct Unflushed {
    name: String,
    inode: u64,
    born: (i64, u32),
}

/// Flushes the file system after commits, and takes the marks off.
#[derive(Debug)]
pub(super) struct Flusher {
    /// What says that downloads of this run may not be on the disk.
    pub(super) record: Mutex<Option<Record>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    root: Root,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Unflushed>,
    closing: bool,
}

impl Flusher {
    pub(super) fn new(root: Root) -> Self {
        let shared = Shared { root, state: Mutex::default(), changed: Condvar::new() };
        Self { record: Mutex::default(), shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// Has an entry flushed that has just got its name and is still held.
    pub(super) fn add(&self, name: &str) -> Result<(), CacheError> {
        let unflushed = self.shared.identify(name)?;
        self.shared.state().waiting.push(unflushed);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            // Without a thread the entries are flushed when the cache is closed.
            *thread =
                std::thread::Builder::new().name("kiln-flush".to_owned()).spawn(move || shared.serve()).ok();
        }
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Flushes now what waits.
    pub(super) fn flush(&self) -> Result<(), CacheError> {
        self.shared.flush()
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.changed.notify_all();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has nothing to say; a panic in it was printed.
            let _ = thread.join();
        }
        // Best effort: what keeps its mark is trusted until the next boot, and flushed by another run.
        let record = self.record.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let _ = self.shared.close(record);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        loop {
            let mut state = self.state();
            while state.waiting.is_empty() && !state.closing {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let paused = self.changed.wait_timeout_while(state, PAUSE, |state| !state.closing);
            if paused.unwrap_or_else(PoisonError::into_inner).0.closing {
                // Who closes the cache flushes what is left, with more besides.
                return;
            }
            // Best effort, as above.
            let _ = self.flush();
        }
    }

    /// Flushes what waits, and downloads if they have to be, or are there while something is flushed anyway.
    fn close(&self, record: Option<Record>) -> Result<(), CacheError> {
        let waiting = std::mem::take(&mut self.state().waiting);
        if waiting.is_empty() && !record.as_ref().is_some_and(Record::must_flush) {
            if let Some(record) = record {
                record.leave();
            }
            return Ok(());
        }
        let mut records = Records::of_ended(&self.root)?;
        if let Some(record) = record {
            records.add(record);
        }
        self.root.flush()?;
        records.remove(&self.root)?;
        waiting.iter().try_for_each(|unflushed| self.unmark(unflushed))
    }

    fn flush(&self) -> Result<(), CacheError> {
        let waiting = std::mem::take(&mut self.state().waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        self.root.flush()?;
        waiting.iter().try_for_each(|unflushed| self.unmark(unflushed))
    }

    /// Takes the mark off an entry, if it is still the one that was flushed and nobody removes it.
    fn unmark(&self, unflushed: &Unflushed) -> Result<(), CacheError> {
        let lock = format!("{OBJECTS}/{}/{OBJECT_LOCK}", unflushed.name);
        if let Locked::Held(file, _) = self.root.open_locked(&lock, Kind::Read, false)?
            && self
                .identity(&file, "", AtFlags::EMPTY_PATH)
                .is_ok_and(|identity| identity == (unflushed.inode, unflushed.born))
        {
            rustix::fs::fchmod(&file, FILE_MODE).map_err(self.root.failed("set mode of", &lock))?;
        }
        Ok(())
    }

    fn identify(&self, name: &str) -> Result<Unflushed, CacheError> {
        let lock = format!("{OBJECTS}/{name}/{OBJECT_LOCK}");
        let (inode, born) = self
            .identity(self.root.fd(), &lock, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.root.failed("read attributes of", &lock))?;
        Ok(Unflushed { name: name.to_owned(), inode, born })
    }

    fn identity(
        &self,
        at: impl std::os::fd::AsFd,
        path: &str,
        flags: AtFlags,
    ) -> rustix::io::Result<(u64, (i64, u32))> {
        let stat = rustix::fs::statx(at, path, flags, StatxFlags::INO | StatxFlags::BTIME)?;
        let StatxTimestamp { tv_sec, tv_nsec, .. } = stat.stx_btime;
        Ok((stat.stx_ino, (tv_sec, tv_nsec)))
    }
}
