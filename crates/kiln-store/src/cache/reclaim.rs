//! Removing what dead processes left, and counting again what they did not account.
//!
//! Whoever has the cache alone for a moment (converting the shared lock on `cache.lock` to a write lock) can tell
//! that everything without a name is left behind, also what has no lock of its own kind (the reference's temporary
//! directories). All of it is moved into one entry, which takes no time, and the size is counted. Where others use
//! the cache, only what has a lock that nobody holds is taken, and its bytes are given back.
//!
//! The slow part, removing, is done by a thread, while the cache is used already.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use kiln_sys::lock::{self, Kind};
use rustix::fs::FileType;
use serde_json::{Map, Value};

use super::downloads::COUNTED;
use super::durability::is_marked;
use super::entry::Entry;
use super::evict::is_anonymous;
use super::files::Locked;
use super::info::{accounted, boot_of};
use super::{
    Cache, CacheError, DATA, LOCKED_BUILDS, LOCKS, OBJECT_LOCK, OBJECTS, STAGE, TEMPORARY, UNINTERRUPTED,
    json, name, temporary,
};
use crate::tree::{self, TreeError};

/// What the objects were counted as, and when: Kiln's own file in the cache.
pub(super) const COUNT: &str = "kiln.count";

/// What is counted is written to files of these names with something random after them, and named then.
const RECORDS: [&str; 2] = [COUNT, COUNTED];

/// A directory that was changed so short a time ago may be changed again without looking newer.
const TICK: Duration = Duration::from_millis(50);

/// So long closing the cache waits for what was found to be removed; the rest is left for the next run.
const GRACE: Duration = Duration::from_secs(2);

/// The thread that removes what was found.
#[derive(Debug)]
pub(super) struct Janitor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Disconnected when the thread ends.
    done: Receiver<()>,
}

impl Janitor {
    /// Waits until it has done everything.
    pub(super) fn finish(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic in it was printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        // Whatever comes: it has ended, or there was no more time.
        let _ = self.done.recv_timeout(GRACE);
        self.stop.store(true, Ordering::Relaxed);
        self.finish();
    }
}

impl Cache {
    /// Puts right what dead processes left, as far as it takes no time, and starts a thread for the rest.
    pub(super) fn put_right(self: &Arc<Self>) -> Result<Option<Janitor>, CacheError> {
        if self.is_counted()? && !self.has_leftovers()? {
            return Ok(None);
        }
        let mut grave = None;
        if self.try_alone()? {
            let recovered = self.recover();
            // Converting a write lock to a read lock neither waits nor lets anyone in between.
            lock::lock(&self.lock, Kind::Read).map_err(self.root.failed("lock", super::CACHE_LOCK))?;
            grave = recovered?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let buried = grave.map(Entry::abandon);
        let mut twin = self.twin()?;
        twin.stop = Arc::clone(&stop);
        // Without a thread the next run finds it again. Best effort: the next run finds what could not be removed.
        let (working, done) = channel::<()>();
        let thread = std::thread::Builder::new().name("kiln-reclaim".to_owned()).spawn(move || {
            let _working = working;
            let twin = Arc::new(twin);
            if let Some((entry, _lock)) = buried {
                let _ = twin.bury(&entry, &twin.stop);
            }
            let _ = twin.reclaim();
            let _ = twin.flush_marked().and_then(|()| twin.flush_settled());
        });
        Ok(Some(Janitor { stop, thread: thread.ok(), done }))
    }

    /// Removes what dead processes left and can be recognised while others use the cache: unlocked staging
    /// entries, entries and files without a name, Kiln's temporary directories.
    pub fn reclaim(&self) -> Result<(), CacheError> {
        for area in [STAGE, OBJECTS] {
            for name in self.root.list(area)? {
                if is_anonymous(&name) {
                    unless_mounted(self.reclaim_entry(&format!("{area}/{name}")))?;
                }
            }
        }
        for name in self.root.list(LOCKED_BUILDS)? {
            self.clear_file(&format!("{LOCKED_BUILDS}/{name}"))?;
        }
        self.reclaim_downloads(false)?;
        for name in self.root.list(TEMPORARY)? {
            if RECORDS.iter().any(|record| name.starts_with(record)) {
                self.clear_file(&format!("{TEMPORARY}/{name}"))?;
                continue;
            }
            unless_mounted(temporary::reclaim(&self.root.path().join(TEMPORARY).join(name), &self.stop))?;
        }
        Ok(())
    }

    fn reclaim_entry(&self, entry: &str) -> Result<(), CacheError> {
        let Some(stat) = self.root.stat(entry)? else { return Ok(()) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return self.clear_file(entry).map(|_| ());
        }
        match self.root.open_locked(&format!("{entry}/{OBJECT_LOCK}"), Kind::Write, false)? {
            Locked::Contended => Ok(()),
            Locked::Missing => {
                // Just being made, or all but removed: empty in both cases, and its maker tries again.
                let _ = self.root.remove_directory(entry);
                Ok(())
            }
            Locked::Held(_lock, _) => self.bury(entry, &self.stop),
        }
    }

    /// Whether there is anything that a dead process may have left.
    fn has_leftovers(&self) -> Result<bool, CacheError> {
        Ok(!self.root.list(STAGE)?.is_empty()
            || self.root.list(TEMPORARY)?.iter().any(|name| name != LOCKS)
            || !self.root.list(LOCKED_BUILDS)?.is_empty()
            || self.has_settled()?)
    }

    /// Whether nothing has changed among the objects since they were counted.
    fn is_counted(&self) -> Result<bool, CacheError> {
        let Some(record) = self.root.read(COUNT)?.and_then(|text| super::info::parse_info(&text)) else {
            return Ok(false);
        };
        let size = self.root.read(super::CACHE_SIZE)?.map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok(record.get("objects").and_then(Value::as_str) == Some(&self.state_of_objects()?.0)
            && record.get("size").map(Value::to_string) == size)
    }

    /// The objects' directory and when it was last changed, as text; and whether that may be called the past.
    fn state_of_objects(&self) -> Result<(String, bool), CacheError> {
        let path = self.root.path().join(OBJECTS);
        let stat = std::fs::metadata(&path).map_err(CacheError::io("read attributes of", &path))?;
        let age = stat.modified().ok().and_then(|time| time.elapsed().ok());
        let text = format!("{} {}.{:09}", stat.ino(), stat.mtime(), stat.mtime_nsec());
        Ok((text, age.is_some_and(|age| age > TICK)))
    }

    /// Puts everything right while nobody else uses the cache: what is left behind is moved into one entry
    /// without a name, and the size is counted again.
    pub(super) fn recover(self: &Arc<Self>) -> Result<Option<Entry>, CacheError> {
        let (before, past) = self.state_of_objects()?;
        let mut left: Vec<String> = Vec::new();
        for area in [STAGE, TEMPORARY] {
            left.extend(self.root.list(area)?.into_iter().map(|name| format!("{area}/{name}")));
        }
        left.retain(|path| path != LOCKED_BUILDS);
        let mut counted = 0;
        let mut untouched = left.is_empty();
        for name in self.root.list(OBJECTS)? {
            let path = format!("{OBJECTS}/{name}");
            match self.committed_info(&path)? {
                Some(info) if !is_anonymous(&path) => counted += accounted(&info),
                _ => {
                    untouched = false;
                    let stat = self.root.stat(&path)?;
                    if stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
                        left.push(path);
                    } else {
                        // Those who are about to open the cache make files, with locks, before they have its lock.
                        self.clear_file(&path)?;
                    }
                }
            }
        }
        self.reclaim_downloads(true)?;
        let grave = self.inter(&left)?;
        if self.is_compatible() {
            match self.set_size(counted) {
                // Too large a number does no harm; the cache must open for room to be made.
                Err(CacheError::Io { source, .. }) if source.kind() == ErrorKind::StorageFull => {}
                other => other?,
            }
            if untouched && past && before == self.state_of_objects()?.0 {
                let mut record = Map::new();
                record.insert("objects".to_owned(), before.into());
                record.insert("size".to_owned(), counted.into());
                // Best effort: without it they are counted again next time.
                let _ = self.record(COUNT, &json::dump(&record));
            }
        }
        Ok(grave)
    }

    /// Moves what is left behind into one entry, to be removed with it.
    fn inter(self: &Arc<Self>, left: &[String]) -> Result<Option<Entry>, CacheError> {
        if left.is_empty() {
            return Ok(None);
        }
        // Without room for an entry, what is left behind has to be removed while the others wait.
        let grave = self.entry(OBJECTS).ok();
        let mounts = mount_points();
        for (index, path) in left.iter().enumerate() {
            let absolute = self.root.path().join(path);
            // What is moved is accounted no more; until the size is set, whoever dies here must not leave a wrong one
            // to somebody who will not have the cache alone. Best effort, as setting it is on a full disk.
            let _ = self.give_back(path);
            let moved = grave.as_ref().filter(|_| !holds_mount(&mounts, &absolute)).is_some_and(|grave| {
                self.root.rename_over(path, &grave.file(&format!("{DATA}/{index}"))).is_ok()
            });
            if !moved {
                // Also where the staging area is linked to another file system. Best effort, and never
                // across mount points: what stays is tried again next time.
                let _ = tree::remove(&absolute, &UNINTERRUPTED);
            }
        }
        Ok(grave)
    }

    /// Adds up what all committed entries are accounted with.
    pub(super) fn count(&self) -> Result<u64, CacheError> {
        let mut counted = 0;
        for name in self.root.list(OBJECTS)? {
            if !name.starts_with(name::ANONYMOUS)
                && let Some(info) = self.committed_info(&format!("{OBJECTS}/{name}"))?
            {
                counted += accounted(&info);
            }
        }
        Ok(counted)
    }

    /// The names of the entries that were not flushed by those who made them.
    fn marked(&self) -> Result<Vec<String>, CacheError> {
        let mut marked = Vec::new();
        for name in self.root.list(OBJECTS)? {
            let entry = format!("{OBJECTS}/{name}");
            if !is_anonymous(&name)
                && let Some(lock) = self.root.stat(&format!("{entry}/{OBJECT_LOCK}"))?
                && is_marked(&lock)
                && self.committed_info(&entry)?.is_some_and(|info| boot_of(&info) == Some(&self.boot_id))
            {
                marked.push(name);
            }
        }
        Ok(marked)
    }

    /// Flushes the entries whose makers did not live to do that.
    fn flush_marked(&self) -> Result<(), CacheError> {
        for name in self.marked()? {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            // One that has gone meanwhile needs no flushing.
            let _ = self.flusher.add(&name);
        }
        self.flusher.flush()
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
