//! What a tree takes on disk.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::TreeError;
use super::directory::{Entry, open_root};
use super::walk::{Node, Visit, walk};

/// The unit in which the kernel counts allocated space, whatever the file system's block size.
const SECTOR: u64 = 512;

/// Measures the allocated space of a tree in bytes: its root, directories and files.
///
/// A file with several names counts once for each of them, as in the reference, because the size of an
/// object is what both programs must agree on.
pub fn measure(tree: &Path, interrupt: &AtomicBool) -> Result<u64, TreeError> {
    let visitor = Measure { bytes: AtomicU64::new(0) };
    walk(open_root(tree)?, tree, &visitor, interrupt)?;
    Ok(visitor.bytes.into_inner())
}

struct Measure {
    bytes: AtomicU64,
}

impl Measure {
    fn add(&self, stat: Result<Statx, Errno>) -> Result<(), Errno> {
        self.bytes.fetch_add(stat?.stx_blocks * SECTOR, Ordering::Relaxed);
        Ok(())
    }
}

impl Visit for Measure {
    type Dir = ();

    fn enter(&self, _: Option<&Node<()>>, _: &CStr, path: &Path, fd: &OwnedFd) -> Result<(), TreeError> {
        self.add(rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BLOCKS))
            .map_err(TreeError::io("read attributes of", path))
    }

    fn entry(&self, directory: &Node<()>, entry: &Entry) -> Result<(), TreeError> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        self.add(rustix::fs::statx(&directory.fd, &entry.name, flags, StatxFlags::BLOCKS))
            .map_err(|error| TreeError::io("read attributes of", entry.path_below(&directory.path))(error))
    }
}
