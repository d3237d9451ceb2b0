//! The files at the top of a cache, before it is opened: opening makes those that are missing.

use std::io::ErrorKind;
use std::path::Path;

use kiln_sys::lock::{self, Attempt, Kind};
use serde_json::{Map, Value};

use super::{Fault, Finding, Repair, VerifyReport};
use crate::cache::files::present;
use crate::cache::info::Info;
use crate::cache::inspect::{file_name, sorted_paths};
use crate::cache::{
    CACHE_INFO, CACHE_LOCK, CACHE_SIZE, CACHE_TAG, CacheError, OBJECTS, SOURCES, STAGE, TAG, TEMPORARY,
};

/// What stands at the top of a cache: the reference's, and what starts with [`OWN`]; `apt` has the package lists of definitions.
const KNOWN: [&str; 9] =
    [CACHE_INFO, CACHE_LOCK, CACHE_SIZE, CACHE_TAG, OBJECTS, STAGE, TEMPORARY, SOURCES, "apt"];

/// What the names of Kiln's own files start with.
const OWN: &str = "kiln.";

/// How many characters of the tag are the mark.
const SIGNATURE: usize = 43;

/// Checks the files at the top; false if the cache cannot be opened.
pub(super) fn check(directory: &Path, repair: bool, report: &mut VerifyReport) -> Result<bool, CacheError> {
    // The others are made when they are needed.
    for name in [CACHE_INFO, CACHE_LOCK, CACHE_SIZE, CACHE_TAG, OBJECTS, STAGE] {
        let path = directory.join(name);
        if !path.try_exists().map_err(CacheError::io("read attributes of", &path))? {
            // Opening makes it, whoever opens.
            report.findings.push(Finding { path, fault: Fault::Missing, outcome: Repair::Done });
        }
    }
    for path in sorted_paths(directory)? {
        let name = file_name(&path);
        if !KNOWN.contains(&name.as_str()) && !name.starts_with(OWN) {
            report.findings.push(Finding { path, fault: Fault::Unknown, outcome: Repair::Left });
        }
    }
    let path = directory.join(CACHE_TAG);
    if let Some(text) = present(std::fs::read(&path), "read", &path)?
        && text.get(..SIGNATURE) != TAG.as_bytes().get(..SIGNATURE)
    {
        let outcome = if repair {
            replace(directory, CACHE_TAG, TAG)?;
            Repair::Done
        } else {
            Repair::NotAsked
        };
        report.findings.push(Finding { path, fault: Fault::Tag, outcome });
    }
    check_info(directory, repair, report)
}

/// Checks what makes the directory a cache; false if it cannot be opened.
fn check_info(directory: &Path, repair: bool, report: &mut VerifyReport) -> Result<bool, CacheError> {
    let path = directory.join(CACHE_INFO);
    let Some(text) = present(std::fs::read(&path), "read", &path)? else { return Ok(true) };
    match serde_json::from_slice::<Map<String, Value>>(&text) {
        Ok(_) => {}
        Err(_) if !repair => {
            report.add(path, Fault::CacheInfo);
            return Ok(false);
        }
        Err(_) => {
            let outcome = start_again(directory)?;
            report.findings.push(Finding { path, fault: Fault::CacheInfo, outcome });
            return Ok(outcome == Repair::Done);
        }
    }
    let info = Info::read(&path)?;
    if !info.is_compatible() {
        let fault = Fault::Version { version: info.version };
        report.findings.push(Finding { path, fault, outcome: Repair::Left });
        return Ok(false);
    }
    Ok(true)
}

/// Writes the `cache.info` of a new cache, unless others have the cache open.
fn start_again(directory: &Path) -> Result<Repair, CacheError> {
    let path = directory.join(CACHE_LOCK);
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(CacheError::io("open", &path))?;
    match lock::try_lock(&file, Kind::Write).map_err(CacheError::io("lock", &path))? {
        Attempt::Contended => Ok(Repair::OthersHere),
        Attempt::Acquired => replace(directory, CACHE_INFO, &Info::initial()).map(|()| Repair::Done),
    }
}

fn replace(directory: &Path, name: &str, content: &str) -> Result<(), CacheError> {
    let (new, path) = (directory.join(format!("{OWN}{name}")), directory.join(name));
    std::fs::write(&new, content).map_err(CacheError::io("write", &new))?;
    match std::fs::rename(&new, &path) {
        // Another one did the same.
        Err(error) if error.kind() != ErrorKind::NotFound => Err(CacheError::io("replace", &path)(error)),
        _ => Ok(()),
    }
}
