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
//! Content that is a tree (containers, `ostree`) has no sum to check; it is left alone.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_sys::lock::Kind;

use super::downloads::FILES;
use super::durability::Durability;
use super::files::{FILE_MODE, Locked};
use super::verify::downloads::check_download;
use super::{Cache, CacheError, SOURCES, UNINTERRUPTED, name};

/// The directory of the records.
pub(super) const UNFLUSHED: &str = "kiln.unflushed";

/// A record of this run.
#[derive(Debug)]
pub(super) struct Record {
    path: String,
    _lock: File,
}

impl Record {
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

impl Cache {
    /// Prepares for downloads: from now on until it was flushed, what gets a name among them is checked after a crash of
    /// the machine. To be called before the first one gets its name.
    pub fn expect_downloads(&self) -> Result<(), CacheError> {
        let mut record = self.flusher.record.lock().unwrap_or_else(PoisonError::into_inner);
        if record.is_some() || self.options.durability == Durability::Off {
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
        *record = Some(Record { path, _lock: lock });
        Ok(())
    }

    /// Checks what a crash of the machine may have left incomplete, and removes what is.
    pub(super) fn check_unflushed(&self) -> Result<(), CacheError> {
        for record in self.root.list(UNFLUSHED)? {
            let path = format!("{UNFLUSHED}/{record}");
            let (boot, since) = record.split_once('-').unwrap_or_default();
            if boot == self.boot_id {
                continue;
            }
            // What cannot be understood is taken for the worst.
            let since = since.split('-').next().and_then(|since| since.parse().ok()).unwrap_or(0);
            self.check_since(since)?;
            self.root.unlink(&path)?;
        }
        Ok(())
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

    /// Flushes what runs of this boot have downloaded that did not live to do that.
    pub(super) fn flush_unflushed(&self) -> Result<(), CacheError> {
        for record in self.root.list(UNFLUSHED)? {
            let path = format!("{UNFLUSHED}/{record}");
            if let Locked::Held(..) = self.root.open_locked(&path, Kind::Write, false)? {
                self.flush_filesystem()?;
                self.root.unlink(&path)?;
            }
        }
        Ok(())
    }

    /// Whether there are records, of this run or another one.
    pub(super) fn has_unflushed(&self) -> Result<bool, CacheError> {
        Ok(!self.root.list(UNFLUSHED)?.is_empty())
    }

    pub(super) fn flush_filesystem(&self) -> Result<(), CacheError> {
        self.root.flush()
    }
}
