//! Repairing what was found.

use std::path::Path;
use std::sync::Arc;

use super::{Fault, Remedy, Repair, VerifyReport};
use crate::cache::downloads::{COUNTED, Evictor};
use crate::cache::evict::{Burial, last_use};
use crate::cache::files::present;
use crate::cache::info::{SIZE, parse_info};
use crate::cache::reclaim::COUNT;
use crate::cache::{CACHE_SIZE, Cache, CacheError, OBJECT_INFO, OBJECT_LOCK, OBJECTS, TEMPORARY, json, name};

impl Cache {
    /// Does something about all findings that nothing was done about yet.
    pub(super) fn repair(self: &Arc<Self>, report: &mut VerifyReport) -> Result<(), CacheError> {
        let mut burial = Burial::new(self);
        let evictor = self.evictor()?;
        for finding in report.findings.iter_mut().filter(|finding| finding.outcome == Repair::NotAsked) {
            finding.outcome = match finding.fault.remedy() {
                Remedy::RemoveObject => self.remove_object(&finding.path, &mut burial)?,
                Remedy::RemoveDownload => remove_download(&evictor, &finding.path)?,
                Remedy::Leave => Repair::Left,
                // By what follows.
                Remedy::Rewrite | Remedy::StartAgain | Remedy::Remove | Remedy::Account | Remedy::Count => {
                    continue;
                }
            };
        }
        drop(evictor);
        burial.close()?;
        self.clean_up(report)
    }

    /// Removes what was left behind and counts again, if nobody else is here; else removes what can be recognised.
    fn clean_up(self: &Arc<Self>, report: &mut VerifyReport) -> Result<(), CacheError> {
        let open =
            |report: &VerifyReport| report.findings.iter().any(|finding| finding.outcome == Repair::NotAsked);
        if !open(report) {
            return Ok(());
        }
        forget(&self.directory().join(COUNTED))?;
        let alone = self.alone()?;
        let is_alone = alone.is_some();
        let grave = if is_alone {
            // First: whoever finds it would believe that nothing has to be counted.
            forget(&self.directory().join(COUNT))?;
            for finding in &mut report.findings {
                if let (Fault::Changed { measured, .. }, Repair::NotAsked) = (&finding.fault, finding.outcome)
                {
                    finding.outcome = self.account_again(&finding.path, *measured)?;
                }
            }
            let grave = self.recover()?;
            // What is no number is taken for the right one, and would stay.
            if report.findings.iter().any(|finding| finding.fault == Fault::Size) {
                let size = self.lock_size()?;
                self.root.replace(CACHE_SIZE, &size.bytes.to_string())?;
            }
            grave
        } else {
            None
        };
        drop(alone);
        // What takes time comes after others were let in.
        drop(grave);
        self.reclaim()?;
        self.reclaim_downloads(false)?;
        for finding in report.findings.iter_mut().filter(|finding| finding.outcome == Repair::NotAsked) {
            let in_object = finding.path.parent().is_some_and(|parent| parent.join(OBJECT_LOCK).exists());
            if finding.fault == Fault::Leftover && in_object {
                // Of Kiln's own files in an object with a name: nothing looks at them there.
                forget(&finding.path)?;
            }
            let is_there = finding.path.symlink_metadata().is_ok();
            finding.outcome = match finding.fault {
                Fault::Downloads { .. } => Repair::Done,
                Fault::Accounting { .. } | Fault::Size if is_alone => Repair::Done,
                Fault::Leftover | Fault::NoLock if !is_there => Repair::Done,
                Fault::Leftover if is_alone => Repair::InUse,
                _ => Repair::OthersHere,
            };
        }
        Ok(())
    }

    /// Removes the object that a path is in.
    fn remove_object(self: &Arc<Self>, path: &Path, burial: &mut Burial<'_>) -> Result<Repair, CacheError> {
        let objects = self.directory().join(OBJECTS);
        let Some(name) = path.strip_prefix(&objects).ok().and_then(|path| path.components().next()) else {
            return Ok(Repair::Left);
        };
        let name = name.as_os_str().to_string_lossy().into_owned();
        let entry = objects.join(&name);
        if entry.symlink_metadata().is_err() {
            // For another fault of the same object.
            return Ok(Repair::Done);
        }
        if !entry.join(OBJECT_LOCK).exists() {
            // Nobody can lock it: it is removed with what is left behind.
            return Ok(Repair::NotAsked);
        }
        // What is not committed is not accounted, and needs no burial.
        if !entry.join(OBJECT_INFO).exists() {
            let gone = self.occupant(&format!("{OBJECTS}/{name}"))?.is_none();
            return Ok(if gone { Repair::Done } else { Repair::InUse });
        }
        let taken = match self.root.stat(&format!("{OBJECTS}/{name}/{OBJECT_LOCK}"))? {
            Some(lock) => burial.take(&name, last_use(&lock))?.is_some(),
            None => true,
        };
        Ok(if taken { Repair::Done } else { Repair::InUse })
    }
}

impl Cache {
    /// Notes with an object what it takes. Nobody else has the cache open; they count again afterwards.
    fn account_again(&self, object: &Path, measured: u64) -> Result<Repair, CacheError> {
        let path = object.join(OBJECT_INFO);
        let Some(text) = present(std::fs::read(&path), "read", &path)? else { return Ok(Repair::Done) };
        let Some(mut info) = parse_info(&text) else { return Ok(Repair::Left) };
        info.insert(SIZE.to_owned(), measured.into());
        let new = self.directory().join(TEMPORARY).join(format!("kiln.{OBJECT_INFO}-{}", name::random()?));
        std::fs::write(&new, json::dump(&info)).map_err(CacheError::io("write", &new))?;
        std::fs::rename(&new, &path).map_err(CacheError::io("replace", &path))?;
        Ok(Repair::Done)
    }
}

fn forget(path: &Path) -> Result<(), CacheError> {
    present(std::fs::remove_file(path), "remove", path).map(|_| ())
}

fn remove_download(evictor: &Evictor<'_>, path: &Path) -> Result<Repair, CacheError> {
    Ok(if evictor.discard(path)? { Repair::Done } else { Repair::InUse })
}
