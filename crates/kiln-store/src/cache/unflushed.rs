//! Downloads that may not be on the disk.
//!
//! A download gets its name by a rename as soon as its checksum was found right, and is trusted by name from then on.
//! It cannot be marked as an entry is: its attributes become part of trees. So a run that downloads makes a record
//! first, and removes it when the file system was flushed:
//!
//! ```text
//! kiln.unflushed/BOOT-SECONDS-HEX   empty, locked by the run; downloads since then may not be on the disk
//! ```
//!
//! All that it says is in its name, because names reach the disk in order and contents do not. After a reboot
//! whoever opens the cache checks the sums of what was changed since, and removes what is not what its name says.
//!
//! Because files prove themselves, a run that has nothing else to flush does not wait for the disk when it ends: its
//! record stays, unlocked, until somebody has to flush anyway, or until the kernel has had the time to write
//! everything by itself, when flushing takes no time. Content that is a tree (containers, `ostree`) has no sum to
//! check; a run that brings such content flushes.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_sys::lock::Kind;

use super::downloads::FILES;
use super::durability::Durability;
use super::files::{FILE_MODE, Locked, Root};
use super::verify::downloads::check_download;
use super::{Cache, CacheError, SOURCES, UNINTERRUPTED, name};

/// The directory of the records.
pub(super) const UNFLUSHED: &str = "kiln.unflushed";

/// After this time the kernel has written by itself what was waiting: twice its `dirty_expire_centisecs`.
const SETTLED: Duration = Duration::from_secs(60);

/// A record of this run.
#[derive(Debug)]
pub(super) struct Record {
    path: String,
    lock: File,
    /// Whether there may be content that does not prove itself.
    must_flush: bool,
}

impl Record {
    pub(super) const fn must_flush(&self) -> bool {
        self.must_flush
    }

    /// Has the next run flush at once, should this one be killed before it has flushed what does not prove itself.
    fn hurry(&self) {
        if self.must_flush {
            // Best effort: it is flushed a minute later.
            let _ = self.lock.set_modified(UNIX_EPOCH);
        }
    }

    /// Lets go of it, for others to flush.
    pub(super) fn leave(self) {
        // Best effort: with the time of its beginning it is flushed too early, which takes time and does no harm.
        let _ = self.lock.set_modified(SystemTime::now());
    }
}

/// Records that go as soon as the file system was flushed. They are locked until then: nothing is added to what they
/// stand for.
#[derive(Debug)]
pub(super) struct Records(Vec<(String, File)>);

impl Records {
    /// Those of runs that have ended.
    pub(super) fn of_ended(root: &Root) -> Result<Self, CacheError> {
        let mut records = Vec::new();
        for record in root.list(UNFLUSHED)? {
            let path = format!("{UNFLUSHED}/{record}");
            if let Locked::Held(lock, _) = root.open_locked(&path, Kind::Write, false)? {
                records.push((path, lock));
            }
        }
        Ok(Self(records))
    }

    pub(super) fn add(&mut self, record: Record) {
        self.0.push((record.path, record.lock));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn remove(self, root: &Root) -> Result<(), CacheError> {
        self.0.iter().try_for_each(|(path, _)| root.unlink(path).map(drop))
    }
}

impl Cache {
    /// Prepares for downloads of a type of content, if it is known: from now on until it was flushed, what gets a name
    /// among them is checked after a crash of the machine. To be called before the first one gets its name.
    ///
    /// Closing the cache flushes, unless all that was expected are files, which prove themselves.
    pub fn expect_downloads(&self, content_type: Option<&str>) -> Result<(), CacheError> {
        let must_flush = content_type != Some(FILES) || self.options.durability == Durability::Before;
        let mut record = self.flusher.record.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = &mut *record {
            record.must_flush |= must_flush;
            record.hurry();
            return Ok(());
        }
        if self.options.durability == Durability::Off {
            return Ok(());
        }
        if !self.root.is_there(UNFLUSHED)? {
            match self.root.make_directory(UNFLUSHED) {
                Err(CacheError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let path = format!("{UNFLUSHED}/{}-{since}-{}", self.boot_id, name::random()?);
        // Nobody else makes this name; whoever removes it meanwhile has flushed what there is.
        let Some(lock) = self.root.create_locked(&path, FILE_MODE)? else { return Ok(()) };
        record.insert(Record { path, lock, must_flush }).hurry();
        Ok(())
    }

    /// Checks what a crash of the machine may have left incomplete, and removes what is.
    pub(super) fn check_unflushed(&self) -> Result<(), CacheError> {
        let mut earliest = None;
        let mut old = Vec::new();
        for record in self.root.list(UNFLUSHED)? {
            let (boot, since) = record.split_once('-').unwrap_or_default();
            if boot == self.boot_id {
                continue;
            }
            // What cannot be understood is taken for the worst.
            let since = since.split('-').next().and_then(|since| since.parse::<i64>().ok()).unwrap_or(0);
            earliest = Some(earliest.map_or(since, |earliest: i64| earliest.min(since)));
            old.push(format!("{UNFLUSHED}/{record}"));
        }
        if let Some(since) = earliest {
            self.check_since(since)?;
        }
        old.iter().try_for_each(|path| self.root.unlink(path).map(drop))
    }

    fn check_since(&self, since: i64) -> Result<(), CacheError> {
        let directory = format!("{SOURCES}/{FILES}");
        for name in self.root.list(&directory)? {
            let path = self.root.path().join(&directory).join(&name);
            let Ok(stat) = std::fs::symlink_metadata(&path) else { continue };
            if stat.is_file()
                && stat.ctime() >= since
                && check_download(&path, &|_| {}, &UNINTERRUPTED)?.is_some()
            {
                self.root.unlink(&format!("{directory}/{name}"))?;
            }
        }
        Ok(())
    }

    /// Flushes what runs of this boot have downloaded that did not do that, if that takes no time any more.
    pub(super) fn flush_settled(&self) -> Result<(), CacheError> {
        if !self.has_settled()? {
            return Ok(());
        }
        let records = Records::of_ended(&self.root)?;
        if !records.is_empty() {
            self.root.flush()?;
        }
        records.remove(&self.root)
    }

    /// Whether there are records, of this run or another one, of downloads that ought to be on the disk by now.
    pub(super) fn has_settled(&self) -> Result<bool, CacheError> {
        Ok(self.root.list(UNFLUSHED)?.iter().any(|record| {
            let stat = std::fs::metadata(self.root.path().join(UNFLUSHED).join(record));
            let age = stat.and_then(|stat| stat.modified()).map(|time| time.elapsed());
            // One of a time that is still to come is flushed, too: the clock was set back.
            age.is_ok_and(|age| age.is_err() || age.is_ok_and(|age| age > SETTLED))
        }))
    }
}
