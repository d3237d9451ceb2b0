//! Objects, and what lies about where objects and temporary things are.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_sys::lock::Kind;
use rayon::prelude::*;
use serde_json::Value;

use super::{Fault, Unchecked, VerifyReport};
use crate::cache::downloads::is_locked;
use crate::cache::durability::is_marked;
use crate::cache::files::present;
use crate::cache::files::{Locked, missing};
use crate::cache::info::{BOOT, RECIPE, SIZE, parse_info};
use crate::cache::inspect::{file_name, is_anonymous, is_held, sorted_paths};
use crate::cache::journal::{GONE, GRAVE, LESS, MORE};
use crate::cache::{Cache, CacheError, DATA, LOCKS, OBJECT_INFO, OBJECT_LOCK, OBJECTS, STAGE, TEMPORARY};
use crate::tree::{self, TreeError};

/// Where an object has the metadata of its stages.
const META: &str = "meta";

/// What trees may differ by from what they are accounted with, beside a part of that: file systems allocate blocks
/// of their own for a file when it is written back, after it was measured.
const LATER: u64 = 64 << 10;
const PART: u64 = 64;

type Faults = Vec<(PathBuf, Fault)>;

impl Cache {
    /// Looks for what dead processes left, and for what nobody can have made.
    pub(super) fn check_leftovers(&self, report: &mut VerifyReport) -> Result<(), CacheError> {
        for area in [OBJECTS, STAGE] {
            for path in sorted_paths(&self.directory().join(area))? {
                let is_file = path.symlink_metadata().is_ok_and(|stat| !stat.is_dir());
                let is_leftover = is_anonymous(&path) || (area == OBJECTS && is_file);
                if is_leftover {
                    if !is_held(&path)? {
                        report.add(path, Fault::Leftover);
                    }
                } else if area == STAGE {
                    report.add(path, Fault::Unknown);
                } else if path.file_name().and_then(|name| name.to_str()).is_none() {
                    report.add(path, Fault::Name);
                }
            }
        }
        // Temporary directories of the reference have no locks: whether they are left behind is only known when
        // nobody else is here.
        let alone = self.alone()?;
        for path in sorted_paths(&self.directory().join(TEMPORARY))? {
            if file_name(&path) != LOCKS && (alone.is_some() || is_left(&path)?) {
                report.add(path, Fault::Leftover);
            }
        }
        Ok(())
    }

    /// Looks into all objects, in parallel.
    pub(super) fn check_objects(
        &self,
        report: &mut VerifyReport,
        interrupt: &AtomicBool,
    ) -> Result<(), CacheError> {
        let mut objects = sorted_paths(&self.directory().join(OBJECTS))?;
        objects.retain(|path| {
            let named = !is_anonymous(path) && path.file_name().is_some_and(|name| name.to_str().is_some());
            named && path.symlink_metadata().is_ok_and(|stat| stat.is_dir())
        });
        let found: Mutex<Faults> = Mutex::default();
        let (looked_at, busy) = (AtomicU64::new(0), AtomicU64::new(0));
        objects.par_iter().try_for_each(|path| {
            if interrupt.load(Ordering::Relaxed) {
                return Err(CacheError::Interrupted);
            }
            match self.check_object(path, interrupt)? {
                Some(faults) => {
                    looked_at.fetch_add(1, Ordering::Relaxed);
                    found.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
                }
                None => {
                    busy.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        })?;
        report.objects = looked_at.into_inner();
        for (path, fault) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            report.add(path, fault);
        }
        match busy.into_inner() {
            0 => {}
            entries => report.unchecked.push(Unchecked::Busy { entries }),
        }
        Ok(())
    }

    /// Looks into an object; none if somebody writes it.
    fn check_object(&self, path: &Path, interrupt: &AtomicBool) -> Result<Option<Faults>, CacheError> {
        let lock = format!("{OBJECTS}/{}/{OBJECT_LOCK}", file_name(path));
        // Not as a load does it, which would mark it as used.
        let (_held, lock_stat) = match self.root.open_locked(&lock, Kind::Read, false)? {
            Locked::Held(held, stat) => (held, stat),
            Locked::Contended => return Ok(None),
            Locked::Missing if path.is_dir() => return Ok(Some(vec![(path.to_owned(), Fault::NoLock)])),
            // It has just been evicted.
            Locked::Missing => return Ok(Some(Vec::new())),
        };
        let info_path = path.join(OBJECT_INFO);
        let Some(text) = present(std::fs::read(&info_path), "read", &info_path)? else {
            return Ok(Some(vec![(path.to_owned(), Fault::Half)]));
        };
        let Some(info) = parse_info(&text) else {
            return Ok(Some(vec![(info_path, Fault::ObjectInfo)]));
        };
        let mut faults = Faults::new();
        if is_marked(&lock_stat) && info.get(BOOT).and_then(Value::as_str) != Some(&self.boot_id) {
            faults.push((path.to_owned(), Fault::Unflushed));
        }
        if info.get(RECIPE).is_some_and(|recipe| !is_recipe(recipe)) {
            faults.push((info_path.clone(), Fault::Recipe));
        }
        for found in sorted_paths(path)? {
            let name = file_name(&found);
            if [MORE, LESS, GONE, GRAVE].contains(&name.as_str()) {
                faults.push((found, Fault::Leftover));
            } else if ![DATA, OBJECT_INFO, OBJECT_LOCK].contains(&name.as_str()) {
                faults.push((found, Fault::Unknown));
            }
        }
        let data = path.join(DATA);
        if !data.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
            faults.push((path.to_owned(), Fault::NoTree));
            return Ok(Some(faults));
        }
        match info.get(SIZE).and_then(Value::as_u64) {
            None => faults.push((info_path, Fault::NoSize)),
            Some(accounted) => {
                let measured = match tree::measure(&data, interrupt) {
                    Err(TreeError::Interrupted) => return Err(CacheError::Interrupted),
                    other => other?,
                };
                if measured.abs_diff(accounted) > LATER + accounted / PART {
                    faults.push((path.to_owned(), Fault::Changed { accounted, measured }));
                }
            }
        }
        check_metadata(&data.join(META), &mut faults)?;
        Ok(Some(faults))
    }
}

/// Whether a temporary directory is one of Kiln's that nobody uses.
fn is_left(path: &Path) -> Result<bool, CacheError> {
    let ours =
        file_name(path).starts_with("kiln-") && path.symlink_metadata().is_ok_and(|stat| stat.is_dir());
    Ok(ours && !is_locked(path)?)
}

fn is_recipe(recipe: &Value) -> bool {
    let digits = recipe.as_str().unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Looks at what stages reported.
fn check_metadata(directory: &Path, faults: &mut Faults) -> Result<(), CacheError> {
    for path in sorted_paths(directory)? {
        let text = match std::fs::read(&path) {
            // Nothing was reported.
            Ok(text) if text.is_empty() => continue,
            Ok(text) => text,
            Err(error) if missing(&error) => continue,
            Err(error) => return Err(CacheError::io("read", &path)(error)),
        };
        if serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_err() {
            faults.push((path, Fault::Metadata));
        }
    }
    Ok(())
}
