//! Removing a tree, whatever is in the way.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_sys::{btrfs, xfs};
use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags};
use rustix::io::Errno;

use super::TreeError;
use super::directory::{open_directory, open_root, parent_and_name};
use super::entries::Entry;
use super::mounts;
use super::walk::{At, Enter, Found, Visit, walk};

/// Removes whatever is at the path: a tree or a single entry. Nothing there is fine too.
///
/// Immutable and append-only flags are cleared, and directories without permissions opened up, where they
/// hinder the removal. Subvolumes of btrfs are removed in one step each, where that is permitted; the space
/// they took comes back in the background. Mount points inside the tree are left alone, with what leads to them; all else is
/// removed before that is reported.
pub fn remove(path: &Path, interrupt: &AtomicBool) -> Result<(), TreeError> {
    let fail = TreeError::io::<Errno>;
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(fail("remove", path)(error)),
    }
    let (parent, name) = parent_and_name(path).map_err(fail("remove", path))?;
    let root = match open_root(path) {
        // Not a directory, and yet it could not be unlinked: flags.
        Err(TreeError::Io { source, .. }) if is(&source, &[Errno::NOTDIR, Errno::LOOP]) => {
            return unlink(&parent, &name, Parent::Foreign).map_err(fail("remove", path));
        }
        Err(TreeError::Io { source, .. }) if is(&source, &[Errno::NOENT]) => return Ok(()),
        Err(TreeError::Io { source, .. }) if is(&source, &[Errno::ACCESS]) => {
            loosen(&parent, &name, Errno::ACCESS).map_err(fail("open directory", path))?
        }
        other => other?,
    };
    // A mount on the root itself is as foreign as one below it.
    if let Err(Errno::XDEV) = open_directory(&parent, &name) {
        return Err(TreeError::MountPoint { path: path.to_owned() });
    }
    // Best effort, both: that only decides how it is removed.
    let btrfs = btrfs::is_btrfs(&root).unwrap_or_default();
    let group_bits = xfs::group_bits(&root).unwrap_or_default();
    if btrfs && !interrupt.load(Ordering::Relaxed) && remove_subvolume(&parent, &name, &root) {
        return Ok(());
    }
    walk(root, path, &Remove { btrfs, group_bits }, interrupt)?;
    remove_directory(&parent, &name, Parent::Foreign).map_err(fail("remove directory", path))
}

/// Whether the directory that holds an entry is being removed too.
#[derive(Clone, Copy, PartialEq)]
enum Parent {
    Removed,
    /// Not ours to change.
    Foreign,
}

struct Remove {
    btrfs: bool,
    group_bits: Option<u32>,
}

impl Visit for Remove {
    type Dir = ();
    const KEEP_GOING: bool = true;

    fn enter(&self, found: &Found<'_, ()>) -> Result<Enter<()>, TreeError> {
        match found.parent {
            Some(parent) if self.btrfs && remove_subvolume(parent.fd(), found.name, found.fd) => {
                Ok(Enter::Done)
            }
            _ => Ok(Enter::Into((), None)),
        }
    }

    fn entry(&self, at: &At<'_, ()>, entry: &Entry<'_>) -> Result<(), TreeError> {
        unlink(at.fd(), entry.name, Parent::Removed)
            .map_err(|error| TreeError::io("remove", at.path_of(entry))(error))
    }

    fn leave(&self, at: &At<'_, ()>, parent: Option<&At<'_, ()>>) -> Result<(), TreeError> {
        let Some(parent) = parent else { return Ok(()) };
        remove_directory(parent.fd(), &at.node.name, Parent::Removed)
            .map_err(|error| TreeError::io("remove directory", at.path())(error))
    }

    fn open_again(&self, parent: &OwnedFd, name: &CStr, error: Errno) -> Result<OwnedFd, Errno> {
        loosen(parent, name, error)
    }

    fn shares_directories(&self) -> bool {
        // XFS frees in the background what was in a file: nearly all that is left is done with the directory
        // locked, and threads would only wait for each other.
        self.group_bits.is_none()
    }

    fn group_bits(&self) -> Option<u32> {
        self.group_bits
    }
}

/// Says whether that was the root of a subvolume, and could be removed in one step.
///
/// Where it could not (subvolumes below it, no privilege), it is removed entry by entry, like any directory.
fn remove_subvolume(parent: &OwnedFd, name: &CStr, directory: &OwnedFd) -> bool {
    // The kernel would detach what is mounted in it.
    btrfs::has_root_inode(directory).unwrap_or_default()
        && mounts::below(directory).is_ok_and(|found| !found)
        && btrfs::delete_subvolume(parent, name).is_ok()
}

fn unlink(directory: &OwnedFd, name: &CStr, kind: Parent) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::PERM | Errno::ACCESS) => {
            if kind == Parent::Removed {
                clear_flags(directory);
            }
            if let Some(file) = open_file(directory, name) {
                clear_flags(&file);
            }
            gone(rustix::fs::unlinkat(directory, name, AtFlags::empty()))
        }
        other => gone(other),
    }
}

fn remove_directory(parent: &OwnedFd, name: &CStr, kind: Parent) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::PERM | Errno::ACCESS) => {
            if kind == Parent::Removed {
                clear_flags(parent);
            }
            if let Ok(directory) = open_directory(parent, name) {
                clear_flags(&directory);
            }
            gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
        }
        other => gone(other),
    }
}

/// That somebody else removed it first is as good.
fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Opens a directory that denies it, by giving its owner all permissions.
fn loosen(parent: &OwnedFd, name: &CStr, error: Errno) -> Result<OwnedFd, Errno> {
    if error != Errno::ACCESS {
        return Err(error);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    // By descriptor, though this one is good for nothing but a path: the name may have become a link.
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    rustix::fs::chmodat(CWD, path, Mode::RWXU, AtFlags::empty())?;
    open_directory(parent, name)
}

/// Opens a regular file for its flags; other kinds have none, and opening them may do something.
fn open_file(directory: &OwnedFd, name: &CStr) -> Option<OwnedFd> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).ok()
}

/// Clears the flags that forbid removal. Best effort: whether it helped shows when removal is tried again.
fn clear_flags(file: impl AsFd) {
    let Ok(flags) = rustix::fs::ioctl_getflags(&file) else { return };
    let hindering = IFlags::IMMUTABLE | IFlags::APPEND;
    if flags.intersects(hindering) {
        let _ = rustix::fs::ioctl_setflags(&file, flags - hindering);
    }
}

fn is(error: &std::io::Error, expected: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|code| expected.iter().any(|errno| errno.raw_os_error() == code))
}
