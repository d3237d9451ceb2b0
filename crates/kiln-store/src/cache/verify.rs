//! Verifying a cache: everything that can be recomputed is, and compared with what the cache says.
//!
//! - Structure: the files that a cache consists of; nothing else among them; what dead processes left.
//! - Objects: what commits them is whole; their trees take about what they are accounted with (file systems allocate some
//!   of it later, and copies of a cache differ); metadata is JSON; the recipe is one.
//! - Accounting: `cache.size` is the sum of what all entries are accounted with ([`super::journal`]).
//! - Downloads: files have the checksum that is their name. Of other types of content only the structure is looked at.
//!
//! # Rules
//!
//! - An object is looked at under its read lock, without marking it as used; one that somebody writes is left out.
//! - Repairing removes what is broken: it can be made or fetched again. What somebody uses is never touched.
//! - The sum can only be checked, and leftovers without locks only be judged, while nobody else has the cache open.
//!   That is tried for a moment each time, and not waited for.

mod accounting;
pub(super) mod downloads;
mod fault;
mod frame;
mod objects;
mod repair;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use kiln_sys::lock::{self, Kind};

use super::inspect::Progress;
use super::{Cache, CacheError, CacheOptions};

pub use fault::{Fault, Remedy};

/// One thing that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub fault: Fault,
    /// What became of it.
    pub outcome: Repair,
}

/// What became of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nobody asked for a repair.
    NotAsked,
    /// It is right now.
    Done,
    /// Somebody uses it.
    InUse,
    /// It cannot be repaired while others have the cache open.
    OthersHere,
    /// The program does not know what to do: somebody must look at it.
    Left,
}

/// What was not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unchecked {
    /// The sum: others have the cache open.
    Accounting,
    /// Entries: somebody writes them.
    Busy {
        /// How many.
        entries: u64,
    },
    /// Content that is not named by its checksum.
    Content {
        /// Its type.
        content_type: String,
        /// How many items.
        items: u64,
    },
    /// Everything but the files at the top: the cache cannot be opened.
    Everything,
}

/// What verifying found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// What is wrong, by path.
    pub findings: Vec<Finding>,
    /// What was not checked.
    pub unchecked: Vec<Unchecked>,
    /// How many objects were looked at.
    pub objects: u64,
    /// How many downloads were looked at.
    pub downloads: u64,
    /// How many bytes of downloads were read.
    pub hashed: u64,
}

impl VerifyReport {
    /// Whether everything is right now, except for what was not checked.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.outcome == Repair::Done)
    }

    fn add(&mut self, path: impl Into<PathBuf>, fault: Fault) {
        self.findings.push(Finding { path: path.into(), fault, outcome: Repair::NotAsked });
    }
}

/// Verifies the cache in a directory, and repairs it if that is asked for.
pub fn verify(
    directory: &Path,
    repair: bool,
    progress: &Progress,
    interrupt: &AtomicBool,
) -> Result<VerifyReport, CacheError> {
    let mut report = VerifyReport::default();
    let directory = std::path::absolute(directory).map_err(CacheError::io("find", directory))?;
    if !frame::check(&directory, repair, &mut report)? {
        report.unchecked.push(Unchecked::Everything);
        return Ok(report);
    }
    // What dead processes left is to be seen.
    let cache = Cache::open(&directory, CacheOptions { reclaim: false, ..CacheOptions::default() })?;
    cache.check_leftovers(&mut report)?;
    cache.check_objects(&mut report, interrupt)?;
    match cache.alone()? {
        Some(_alone) => cache.check_accounting(&mut report)?,
        None => report.unchecked.push(Unchecked::Accounting),
    }
    cache.check_downloads(&mut report, progress, interrupt)?;
    if repair {
        cache.repair(&mut report)?;
    }
    report.findings.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(report)
}

/// Nobody else has the cache open, or can open it, as long as this lives.
struct Alone<'a>(&'a Cache);

impl Cache {
    /// Tries to be alone for a moment.
    fn alone(&self) -> Result<Option<Alone<'_>>, CacheError> {
        Ok(self.try_alone()?.then_some(Alone(self)))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        // Converting a write lock to a read lock always succeeds at once.
        let _ = lock::lock(&self.0.lock, Kind::Read);
    }
}

#[cfg(test)]
mod tests;
