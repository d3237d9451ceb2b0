//! Pruning: objects and downloads go by one clock, what was used least recently first, and what is in use stays.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::downloads::{Download, Evictor, Keep};
use super::evict::{Burial, LastUse, by_last_use, size_of, time};
use super::inspect::{EntryKind, is_held};
use super::{Cache, CacheError, MaximumSize, OBJECTS};

/// How far a cache is pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneTarget {
    /// Down to its limit. Nothing goes if it has none, and no downloads if it is zero: they are not kept because of it.
    Limit,
    /// Until what is looked at takes no more than so many bytes.
    Size(u64),
    /// Everything that was not used for so long.
    Unused(Duration),
    /// Everything.
    All,
}

/// What is pruned, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneOptions {
    /// How far.
    pub target: PruneTarget,
    /// Whether objects may go.
    pub objects: bool,
    /// Whether downloads may go.
    pub downloads: bool,
    /// Finds out what would go, and changes nothing.
    pub dry_run: bool,
}

/// Why an entry stays that would have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptBecause {
    /// Somebody holds it, or has used it since.
    InUse,
    /// A build that runs uses it, or may.
    Build,
    /// It is linked to from elsewhere: an input of a stage that runs.
    Linked,
    /// It was used within a day, and others have the cache open who may be about to use it.
    Recent,
}

/// One entry that went or stayed.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// What it is.
    pub kind: EntryKind,
    /// Its name, as in a list.
    pub name: String,
    /// The bytes it is accounted with.
    pub size: u64,
    /// When it was last used.
    pub last_used: SystemTime,
}

/// What pruning did, or would do.
#[derive(Clone, Debug, Default)]
pub struct PruneReport {
    /// What went, in this order.
    pub removed: Vec<Pruned>,
    /// What had to stay, and why.
    pub kept: Vec<(Pruned, KeptBecause)>,
    /// The bytes that all of the cache took before.
    pub before: u64,
    /// The bytes that went.
    pub freed: u64,
    /// The bytes that would have to go, but are in use.
    pub missing: u64,
}

enum Candidate {
    /// Its size is read when it is its turn: most stay.
    Object {
        name: String,
        last_used: LastUse,
    },
    Download(Download),
}

impl Candidate {
    fn pruned(&self, size: u64) -> Pruned {
        match self {
            Self::Object { name, last_used } => {
                Pruned { kind: EntryKind::Object, name: name.clone(), size, last_used: time(*last_used) }
            }
            Self::Download(download) => Pruned {
                kind: EntryKind::Download,
                name: download.name(),
                size: download.bytes,
                last_used: download.last_used,
            },
        }
    }

    fn last_used(&self) -> SystemTime {
        match self {
            Self::Object { last_used, .. } => time(*last_used),
            Self::Download(download) => download.last_used,
        }
    }
}

impl Cache {
    /// Removes what the options say, unless it is in use.
    pub fn prune(self: &Arc<Self>, options: &PruneOptions) -> Result<PruneReport, CacheError> {
        // It holds what killed builds have committed for a moment each, which would look as if it were in use.
        self.wait_for_reclaim();
        let before = self.size()?.saturating_add(self.downloads_size()?);
        let mut report = PruneReport { before, ..PruneReport::default() };
        let zero = options.target == PruneTarget::Limit && self.maximum_size() == MaximumSize::Bytes(0);
        let downloads = options.downloads && !zero;
        let candidates = self.candidates(options.objects, downloads)?;
        let fetched = candidates.iter().map(|candidate| match candidate {
            Candidate::Object { .. } => 0,
            Candidate::Download(download) => download.bytes,
        });
        let covered = fetched.sum::<u64>() + if options.objects { self.size()? } else { 0 };
        let mut wanted = match options.target {
            PruneTarget::Size(target) => covered.saturating_sub(target),
            PruneTarget::Limit if !self.has_maximum_size()? => 0,
            PruneTarget::Limit => match self.maximum_size() {
                MaximumSize::Unlimited => 0,
                MaximumSize::Bytes(0) => covered,
                MaximumSize::Bytes(limit) => before.saturating_sub(limit),
            },
            PruneTarget::Unused(_) | PruneTarget::All => u64::MAX,
        };
        if wanted == 0 {
            return Ok(report);
        }
        let oldest_to_stay = match options.target {
            PruneTarget::Unused(unused) => Some(SystemTime::now().checked_sub(unused).unwrap_or(UNIX_EPOCH)),
            _ => None,
        };
        let mut burial = Burial::new(self);
        // Whoever wants to begin a session waits for this: what takes time comes after it.
        let evictor = if downloads { Some(self.evictor()?) } else { None };
        for candidate in candidates {
            if wanted == 0 {
                break;
            }
            if oldest_to_stay.is_some_and(|oldest| candidate.last_used() >= oldest) {
                continue;
            }
            match remove(self, &candidate, options.dry_run, evictor.as_ref(), &mut burial)? {
                Ok(freed) => {
                    report.freed += freed;
                    wanted = wanted.saturating_sub(freed);
                    report.removed.push(candidate.pruned(freed));
                }
                Err(because) => {
                    let size = match &candidate {
                        Candidate::Object { name, .. } => size_of(&self.root, name)?,
                        Candidate::Download(download) => download.bytes,
                    };
                    report.kept.push((candidate.pruned(size), because));
                }
            }
        }
        drop(evictor);
        burial.close()?;
        report.missing = match options.target {
            PruneTarget::Limit | PruneTarget::Size(_) => wanted,
            PruneTarget::Unused(_) | PruneTarget::All => report.kept.iter().map(|(kept, _)| kept.size).sum(),
        };
        Ok(report)
    }

    /// What may go, the least recently used first.
    fn candidates(&self, objects: bool, downloads: bool) -> Result<Vec<Candidate>, CacheError> {
        let mut candidates = Vec::new();
        if objects {
            let objects = by_last_use(&self.root)?.into_iter();
            candidates.extend(objects.map(|(last_used, name)| Candidate::Object { name, last_used }));
        }
        if downloads {
            let mut downloads = self.list_downloads()?;
            downloads.sort_unstable();
            candidates.extend(downloads.into_iter().map(Candidate::Download));
        }
        // Both are in the order of their names where the times are equal.
        candidates.sort_by_key(Candidate::last_used);
        Ok(candidates)
    }
}

fn remove(
    cache: &Cache,
    candidate: &Candidate,
    dry_run: bool,
    evictor: Option<&Evictor<'_>>,
    burial: &mut Burial<'_>,
) -> Result<Result<u64, KeptBecause>, CacheError> {
    match candidate {
        Candidate::Object { name, .. } if dry_run => {
            Ok(if is_held(&cache.directory().join(OBJECTS).join(name))? {
                Err(KeptBecause::InUse)
            } else {
                Ok(size_of(&cache.root, name)?)
            })
        }
        Candidate::Object { name, last_used } => {
            let taken = burial.take(name, *last_used)?;
            Ok(taken.ok_or(KeptBecause::InUse))
        }
        Candidate::Download(download) => {
            let Some(evictor) = evictor else { return Ok(Err(KeptBecause::InUse)) };
            match evictor.keeps(download) {
                Some(Keep::Session) => Ok(Err(KeptBecause::Build)),
                Some(Keep::Linked) => Ok(Err(KeptBecause::Linked)),
                Some(Keep::Young) => Ok(Err(KeptBecause::Recent)),
                None if dry_run => Ok(Ok(download.bytes)),
                None => Ok(evictor.evict(download)?.ok_or(KeptBecause::InUse)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
