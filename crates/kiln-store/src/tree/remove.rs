//! Removing a tree, whatever is in the way.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags};
use rustix::io::Errno;

use super::TreeError;
use super::directory::{open_directory, open_root};
use super::entries::Entry;
use super::walk::{At, Enter, Found, Visit, walk};

/// Removes whatever is at the path: a tree or a single entry. Nothing there is fine too.
///
/// Immutable and append-only flags are cleared, and directories without permissions opened up, where they
/// hinder the removal. Mount points inside the tree are left alone, with what leads to them; all else is
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
    match open_directory(&parent, &name) {
        Err(Errno::XDEV) => return Err(TreeError::MountPoint { path: path.to_owned() }),
        _ => {
            // Best effort: it only decides who removes what.
            let group_bits = kiln_sys::xfs::group_bits(&root).ok().flatten();
            walk(root, path, &Remove { group_bits }, interrupt)?;
        }
    }
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
    group_bits: Option<u32>,
}

impl Visit for Remove {
    type Dir = ();
    const KEEP_GOING: bool = true;

    fn enter(&self, _: &Found<'_, ()>) -> Result<Enter<()>, TreeError> {
        Ok(Enter::Into((), None))
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

    fn group_bits(&self) -> Option<u32> {
        self.group_bits
    }
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
    rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
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

fn parent_and_name(path: &Path) -> Result<(OwnedFd, CString), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Not `O_PATH`: the flags of the parent may have to be cleared.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
    Ok((parent, CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?))
}

fn is(error: &std::io::Error, expected: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|code| expected.iter().any(|errno| errno.raw_os_error() == code))
}
