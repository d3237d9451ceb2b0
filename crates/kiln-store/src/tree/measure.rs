//! What a tree takes on disk.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, Statx, StatxFlags};

use super::TreeError;
use super::directory::open_root;
use super::entries::Entry;
use super::walk::{At, Enter, Found, Visit, walk};

/// The unit in which the kernel counts allocated space, whatever the file system's block size.
const SECTOR: u64 = 512;

/// Measures the allocated space of a tree in bytes: its root, directories and files.
///
/// A file with several names counts once for each of them, as in the reference, because the size of an
/// object is what both programs must agree on.
pub fn measure(tree: &Path, interrupt: &AtomicBool) -> Result<u64, TreeError> {
    let visitor = Measure { sum: Sum::default() };
    walk(open_root(tree)?, tree, &visitor, interrupt)?;
    Ok(visitor.sum.bytes())
}

/// Allocated space that several threads add up.
#[derive(Debug, Default)]
pub(super) struct Sum {
    sectors: AtomicU64,
}

impl Sum {
    pub(super) fn add(&self, stat: &Statx) {
        self.sectors.fetch_add(stat.stx_blocks, Ordering::Relaxed);
    }

    pub(super) fn bytes(self) -> u64 {
        self.sectors.into_inner() * SECTOR
    }
}

struct Measure {
    sum: Sum,
}

impl Visit for Measure {
    type Dir = ();

    fn enter(&self, found: &Found<'_, ()>) -> Result<Enter<()>, TreeError> {
        let stat = rustix::fs::statx(found.fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BLOCKS)
            .map_err(|error| TreeError::io("read attributes of", found.path())(error))?;
        self.sum.add(&stat);
        Ok(Enter::Into((), None))
    }

    fn entry(&self, at: &At<'_, ()>, entry: &Entry<'_>) -> Result<(), TreeError> {
        let stat = rustix::fs::statx(at.fd(), entry.name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BLOCKS)
            .map_err(|error| TreeError::io("read attributes of", at.path_of(entry))(error))?;
        self.sum.add(&stat);
        Ok(())
    }
}
