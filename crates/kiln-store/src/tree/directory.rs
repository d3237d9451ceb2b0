//! Opening directories by descriptor.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::TreeError;

/// The longest path that is handed to the kernel in one piece, with room to spare below `PATH_MAX`.
const PIECE: usize = 2048;

/// Opens a directory that is the root of a tree; only the last component is not followed.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd, TreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(CWD, path, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(CWD, path, flags, Mode::empty()),
        other => other,
    };
    opened.map_err(TreeError::io("open directory", path))
}

/// Opens a directory by its name in another one, following no link and crossing no mount point (`EXDEV`).
pub(super) fn open_directory(parent: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    // Reading someone's tree is no use of it: access times stay, where that is permitted.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match rustix::fs::openat2(&parent, name, flags | OFlags::NOATIME, Mode::empty(), resolve) {
        Err(Errno::PERM) => rustix::fs::openat2(&parent, name, flags, Mode::empty(), resolve),
        other => other,
    }
}

/// Opens the directory that a path is in, and says by which name.
pub(super) fn parent_and_name(path: &Path) -> Result<(OwnedFd, CString), Errno> {
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

/// Opens a directory below a root by a path of any length, following no link.
pub(super) fn open_beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    let open = |at: BorrowedFd<'_>, piece: &Path| {
        let piece = if piece.as_os_str().is_empty() { Path::new(".") } else { piece };
        rustix::fs::openat2(at, piece, flags, Mode::empty(), resolve)
    };
    let mut current: Option<OwnedFd> = None;
    let mut piece = PathBuf::new();
    for component in path {
        if piece.as_os_str().len() + component.len() > PIECE {
            let next = open(current.as_ref().unwrap_or(root).as_fd(), &piece)?;
            current = Some(next);
            piece.clear();
        }
        piece.push(component);
    }
    open(current.as_ref().unwrap_or(root).as_fd(), &piece)
}

/// A path that reaches a name in an open directory, for system calls that take no descriptor.
pub(super) fn proc_path(directory: &OwnedFd, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    // Neither part can hold a NUL byte; an empty path would fail to be found, loudly.
    CString::new(path).unwrap_or_default()
}
