//! Counting downloads, and remembering what was counted.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{COUNTED, DEPTH, Download, FILES, is_partial, is_unfinished};
use crate::cache::files::{paths, present};
use crate::cache::{Cache, CacheError, UNINTERRUPTED};
use crate::tree::{self, TreeError};

/// How far the time of modification must lie back for a record to hold: clocks of file systems tick every 10 ms at
/// worst, and this is some ticks.
const SETTLED: Duration = Duration::from_millis(50);

/// The unit in which the kernel counts allocated space, whatever the file system's block size.
const SECTOR: u64 = 512;

/// What downloads take together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Downloads {
    /// Bytes on disk.
    pub bytes: u64,
    /// How many there are.
    pub files: u64,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Record {
    directories: BTreeMap<String, Counted>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Counted {
    modified: String,
    bytes: u64,
    files: u64,
}

impl Cache {
    /// What all downloads take on disk: remembered where nothing has changed, counted where something has.
    pub fn downloads(&self) -> Result<Downloads, CacheError> {
        let path = self.directory().join(COUNTED);
        // A record that cannot be read is none: it is made again.
        let known: Record =
            std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let mut record = Record::default();
        let mut sum = Downloads::default();
        for directory in self.content_directories()? {
            let Some(name) = directory.file_name().and_then(|name| name.to_str()) else { continue };
            let before = SystemTime::now();
            let Some(modified) = modified(&directory, name)? else { continue };
            let stamp = stamp(modified);
            let (counted, is_settled) = match known.directories.get(name) {
                Some(counted) if counted.modified == stamp => (counted.clone(), true),
                _ => count(&directory, stamp)?,
            };
            sum.bytes += counted.bytes;
            sum.files += counted.files;
            if is_settled && before.duration_since(modified).is_ok_and(|past| past >= SETTLED) {
                record.directories.insert(name.to_owned(), counted);
            }
        }
        if record.directories != known.directories
            && let Ok(text) = serde_json::to_string(&record)
        {
            // Best effort: without a record the directories are listed the next time too. Two writers replace one
            // right record by another.
            let _ = self.record(COUNTED, &text);
        }
        Ok(sum)
    }

    /// The bytes that all downloads take on disk.
    pub fn downloads_size(&self) -> Result<u64, CacheError> {
        self.downloads().map(|downloads| downloads.bytes)
    }
}

/// Counts a directory, and says whether it cannot change without looking newer.
fn count(directory: &Path, modified: String) -> Result<(Counted, bool), CacheError> {
    let mut is_settled = true;
    let mut counted = Counted { modified, bytes: 0, files: 0 };
    for path in paths(directory)? {
        if !is_unfinished(&path)
            && let Some(download) = look_at(path)?
        {
            counted.bytes += download.bytes;
            counted.files += 1;
            is_settled &= !download.is_partial;
        }
    }
    Ok((counted, is_settled))
}

/// Looks at a download; none if it has gone.
pub(super) fn look_at(path: PathBuf) -> Result<Option<Download>, CacheError> {
    let Some(stat) = present(std::fs::symlink_metadata(&path), "read attributes of", &path)? else {
        return Ok(None);
    };
    let bytes = if stat.is_dir() {
        match tree::measure(&path, &UNINTERRUPTED) {
            Ok(bytes) => bytes,
            // It changes while it is looked at.
            Err(TreeError::Io { source, .. }) if crate::cache::files::missing(&source) => 0,
            Err(error) => return Err(error.into()),
        }
    } else {
        stat.blocks() * SECTOR
    };
    let accessed = time(stat.atime(), stat.atime_nsec());
    let last_used = accessed.max(time(stat.mtime(), stat.mtime_nsec()));
    let is_tree = stat.is_dir();
    let (is_linked, is_partial) = (!is_tree && stat.nlink() > 1, is_partial(&path));
    Ok(Some(Download { last_used, path, bytes, is_tree, is_linked, is_partial }))
}

/// When something was last added to a directory of downloads or removed from it; none if it has gone.
fn modified(directory: &Path, name: &str) -> Result<Option<SystemTime>, CacheError> {
    let depth = if name == FILES { 0 } else { DEPTH };
    newest(directory, depth)
}

fn newest(directory: &Path, depth: usize) -> Result<Option<SystemTime>, CacheError> {
    let stat = present(std::fs::symlink_metadata(directory), "read attributes of", directory)?;
    let Some(stat) = stat.filter(|stat| stat.is_dir()) else { return Ok(None) };
    let mut newest_time = time(stat.mtime(), stat.mtime_nsec());
    if depth > 0 {
        for path in paths(directory)? {
            if let Some(time) = newest(&path, depth - 1)? {
                newest_time = newest_time.max(time);
            }
        }
    }
    Ok(Some(newest_time))
}

fn time(seconds: i64, nanoseconds: i64) -> SystemTime {
    let nanoseconds = Duration::from_nanos(nanoseconds.unsigned_abs());
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds) + nanoseconds,
        Err(_) => UNIX_EPOCH,
    }
}

fn stamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}
