//! Roots of trees as subvolumes, where the file system has them: a copy is a snapshot then, and a removal one step.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_sys::btrfs;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::copy::{CopyOptions, copy};
use super::directory::{open_root, parent_and_name};
use super::error::TreeError;
use super::mounts;

/// The mode of a new root, whatever the umask.
const MODE: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP).union(Mode::ROTH).union(Mode::XOTH);

/// Makes an empty directory that is going to be the root of a tree, with mode 0755: a subvolume on btrfs.
///
/// Then [`clone_root()`] and [`remove()`](super::remove()) take the same short time however large the tree is. A
/// subvolume is renamed like any directory, but what is in it can be renamed within it only.
pub fn create_root(path: &Path) -> Result<(), TreeError> {
    let make = || -> Result<(), std::io::Error> {
        let (parent, name) = parent_and_name(path)?;
        // Where it is not permitted or not known, a directory does as well.
        let made = btrfs::is_btrfs(&parent)? && btrfs::create_subvolume(&parent, &name).is_ok();
        if !made {
            rustix::fs::mkdirat(&parent, &name, MODE)?;
        }
        Ok(rustix::fs::chmodat(&parent, &name, MODE, AtFlags::empty())?)
    };
    make().map_err(TreeError::io("create directory", path))
}

/// Copies a tree to a root that does not exist yet: by a snapshot where both are on the same btrfs and the original
/// is the root of a subvolume without others below it, and by [`copy()`] to a new root else.
///
/// Nothing may be mounted inside the original. After an error, or
/// once interrupted, an incomplete copy is left.
pub fn clone_root(
    from: &Path,
    to: &Path,
    options: CopyOptions,
    interrupt: &AtomicBool,
) -> Result<(), TreeError> {
    if interrupt.load(Ordering::Relaxed) {
        return Err(TreeError::Interrupted);
    }
    // Owners change in a copy only.
    if !options.no_preserve_owner && snapshot(from, to)? {
        return Ok(());
    }
    create_root(to)?;
    copy(from, to, options, interrupt)
}

/// Says whether a snapshot was possible.
fn snapshot(from: &Path, to: &Path) -> Result<bool, TreeError> {
    let root = open_root(from)?;
    // A snapshot would take no notice of what is mounted inside; the copy reports it.
    let usable =
        || Ok(btrfs::is_subvolume(&root)? && !btrfs::has_subvolumes_below(&root)? && !mounts::below(&root)?);
    if !usable().map_err(TreeError::io::<std::io::Error>("read attributes of", from))? {
        return Ok(false);
    }
    let (parent, name) = parent_and_name(to).map_err(TreeError::io("create directory", to))?;
    match btrfs::snapshot(&root, &parent, &name) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {
            Err(TreeError::io("create directory", to)(error))
        }
        // Another btrfs, somebody else's subvolume, too many snapshots: a copy does not mind.
        Err(_) => Ok(false),
    }
}
