//! What entries take: as their content says, on disk, and alone.
//!
//! Files with several names count once for each entry. What blocks several files share is asked of the file system
//! (`FIEMAP`); where it knows no sharing the answer is zero without asking, and where it cannot tell there is no answer.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_sys::extents::{Extent, extents};
use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{EntryKind, Place};
use crate::cache::{Cache, CacheError};

/// The unit in which the kernel counts allocated space, whatever the file system's block size.
const SECTOR: u64 = 512;

/// File systems on which files never share blocks.
const NEVER_SHARING: [&str; 5] = ["ext2", "ext3", "ext4", "tmpfs", "vfat"];

/// How far a long operation is, for somebody who watches it from another thread.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes done so far.
    pub bytes: AtomicU64,
    /// Bytes to be done in the end, as far as that is known.
    pub total: AtomicU64,
}

impl Progress {
    pub(in crate::cache) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(in crate::cache) fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What one entry takes.
#[derive(Clone, Debug)]
pub struct Usage {
    /// What it is.
    pub kind: EntryKind,
    /// Its name, as in a list.
    pub name: String,
    /// How many files, directories and other things it consists of.
    pub files: u64,
    /// The length of its content.
    pub apparent: u64,
    /// The bytes on disk.
    pub on_disk: u64,
    /// Those of them that other files have too; none if the file system cannot tell.
    pub shared: Option<u64>,
}

impl Usage {
    /// The bytes on disk that would be free without it; none if the file system cannot tell.
    pub fn unique(&self) -> Option<u64> {
        self.shared.map(|shared| self.on_disk.saturating_sub(shared))
    }
}

/// What the entries of a cache take.
#[derive(Clone, Debug, Default)]
pub struct UsageReport {
    /// The entries, by name.
    pub entries: Vec<Usage>,
    /// What all of them take together on disk, with blocks that they share counted once; none if the file system
    /// cannot tell.
    pub occupied: Option<u64>,
}

/// What is being added up for one entry.
#[derive(Default)]
struct Sum {
    files: AtomicU64,
    apparent: AtomicU64,
    on_disk: AtomicU64,
    unknown: AtomicBool,
    /// Inodes of files with several names.
    seen: Mutex<HashSet<(u64, u64)>>,
    shared: Mutex<Vec<Extent>>,
}

struct Walk<'a> {
    asks_for_sharing: bool,
    progress: &'a Progress,
    interrupt: &'a AtomicBool,
    failure: Mutex<Option<CacheError>>,
}

impl Cache {
    /// Measures all entries for which the filter says so, in parallel.
    pub fn usage(
        &self,
        wanted: &(dyn Fn(EntryKind, &str) -> bool + Sync),
        progress: &Progress,
        interrupt: &AtomicBool,
    ) -> Result<UsageReport, CacheError> {
        let mut entries = self.list()?;
        entries.retain(|entry| wanted(entry.kind, &entry.name));
        entries.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
        for entry in &entries {
            progress.expect(entry.size);
        }
        let kind = Place::of(self.directory())?.kind;
        let asks_for_sharing = !kind.is_some_and(|kind| NEVER_SHARING.contains(&kind.as_str()));
        let walk = Walk { asks_for_sharing, progress, interrupt, failure: Mutex::default() };
        let sums: Vec<Sum> = entries
            .par_iter()
            .map(|entry| {
                let sum = Sum::default();
                rayon::scope(|scope| walk.root(scope, &sum, &entry.path));
                sum
            })
            .collect();
        if let Some(error) = walk.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut report = UsageReport { entries: Vec::new(), occupied: Some(0) };
        let mut all_shared = Vec::new();
        for (entry, sum) in entries.into_iter().zip(sums) {
            let shared = sum.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
            let on_disk = sum.on_disk.into_inner();
            let shared_bytes: u64 = shared.iter().map(|extent| extent.length).sum();
            let usage = Usage {
                kind: entry.kind,
                name: entry.name,
                files: sum.files.into_inner(),
                apparent: sum.apparent.into_inner(),
                on_disk,
                // Extents may reach beyond what a file has of them.
                shared: (!sum.unknown.into_inner()).then_some(shared_bytes.min(on_disk)),
            };
            report.occupied = report.occupied.zip(usage.unique()).map(|(sum, unique)| sum + unique);
            all_shared.extend(shared);
            report.entries.push(usage);
        }
        report.occupied = report.occupied.map(|unique| unique + distinct(all_shared));
        Ok(report)
    }
}

/// The bytes that extents cover, each counted once.
fn distinct(mut extents: Vec<Extent>) -> u64 {
    extents.sort_unstable();
    let (mut bytes, mut end) = (0, 0);
    for extent in extents {
        let until = extent.physical.saturating_add(extent.length);
        bytes += until.saturating_sub(extent.physical.max(end));
        end = end.max(until);
    }
    bytes
}

impl Walk<'_> {
    fn root<'scope>(&'scope self, scope: &rayon::Scope<'scope>, sum: &'scope Sum, path: &Path) {
        let result = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).and_then(|stat| {
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.count(sum, &stat);
                let directory = open(CWD, path, OFlags::DIRECTORY)?;
                self.directory(scope, sum, &Arc::new(directory))
            } else {
                self.file(sum, CWD, path, &stat)
            }
        });
        match result {
            // It was evicted meanwhile.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => self.fail(CacheError::io("measure", path)(error)),
        }
    }

    fn directory<'scope>(
        &'scope self,
        scope: &rayon::Scope<'scope>,
        sum: &'scope Sum,
        directory: &Arc<OwnedFd>,
    ) -> Result<(), Errno> {
        for entry in Dir::read_from(directory)? {
            if self.interrupt.load(Ordering::Relaxed) {
                self.fail(CacheError::Interrupted);
                return Ok(());
            }
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                self.file(sum, directory, name, &stat)?;
                continue;
            }
            self.count(sum, &stat);
            let (parent, name) = (Arc::clone(directory), name.to_owned());
            // Opened by the task, so that a wide directory does not have all of its own open at once.
            scope.spawn(move |scope| {
                let opened = open(&parent, name.as_c_str(), OFlags::DIRECTORY);
                drop(parent);
                match opened.and_then(|opened| self.directory(scope, sum, &Arc::new(opened))) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => {
                        let name = name.to_string_lossy().into_owned();
                        self.fail(CacheError::io("measure", Path::new(&name))(error));
                    }
                }
            });
        }
        Ok(())
    }

    fn file(
        &self,
        sum: &Sum,
        parent: impl AsFd,
        name: impl rustix::path::Arg,
        stat: &Stat,
    ) -> Result<(), Errno> {
        let is_new = stat.st_nlink < 2
            || sum.seen.lock().unwrap_or_else(PoisonError::into_inner).insert((stat.st_dev, stat.st_ino));
        if !is_new {
            return Ok(());
        }
        self.count(sum, stat);
        let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_regular && stat.st_blocks > 0 && self.asks_for_sharing {
            let file = match open(parent, name, OFlags::NONBLOCK) {
                Err(Errno::NOENT) => return Ok(()),
                other => other?,
            };
            match extents(&file) {
                Ok(Some(mut found)) => {
                    found.retain(|extent| extent.shared);
                    sum.shared.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                }
                Ok(None) => sum.unknown.store(true, Ordering::Relaxed),
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
        Ok(())
    }

    fn count(&self, sum: &Sum, stat: &Stat) {
        let on_disk = u64::try_from(stat.st_blocks).unwrap_or(0) * SECTOR;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if matches!(kind, FileType::RegularFile | FileType::Symlink) {
            sum.apparent.fetch_add(u64::try_from(stat.st_size).unwrap_or(0), Ordering::Relaxed);
        }
        sum.files.fetch_add(1, Ordering::Relaxed);
        sum.on_disk.fetch_add(on_disk, Ordering::Relaxed);
        self.progress.add(on_disk);
    }

    fn fail(&self, error: CacheError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Opens without changing the access time, where that is allowed.
fn open(parent: impl AsFd, name: impl rustix::path::Arg, more: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
    name.into_with_c_str(|name: &CStr| {
        match rustix::fs::openat(&parent, name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rustix::fs::openat(&parent, name, flags, Mode::empty()),
            other => other,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_extents_cover_counts_once() {
        let extent = |physical, length| Extent { physical, length, shared: true };
        let cases = [
            (vec![], 0),
            (vec![extent(10, 5)], 5),
            (vec![extent(10, 5), extent(10, 5)], 5),
            (vec![extent(12, 10), extent(10, 5)], 12),
            (vec![extent(0, 100), extent(10, 5), extent(50, 100)], 150),
            (vec![extent(0, 5), extent(5, 5)], 10),
        ];
        for (extents, expected) in cases {
            assert_eq!(distinct(extents.clone()), expected, "{extents:?}");
        }
    }
}
