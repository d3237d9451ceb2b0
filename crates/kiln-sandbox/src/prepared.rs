//! What a runner prepared in a build root: kept in a directory, and copied into the build roots of the
//! stages after it.
//!
//! The preparing run ([`PrepareRoot`](crate::PrepareRoot)) has the directory as its `/`, so that everything
//! the distribution's tools do below `/` is captured, wherever they do it. [`finish_prepared`] takes away
//! what is mount point or link of every build root anyway. Owners, permissions, links and extended
//! attributes are kept, times are not. The directory is Kiln's own and small: paths in it are trusted.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::SandboxError;

/// What every build root makes for itself, directly below `/`.
const MADE_BY_THE_PLAN: &[&str] =
    &["bin", "boot", "dev", "lib", "lib64", "ostree", "proc", "run/osbuild", "sbin", "sys", "usr"];

/// Removes from a prepared directory what every build root makes for itself.
///
/// To be called once, when the preparing run has ended well and nothing is mounted in the directory.
pub fn finish_prepared(directory: &Path) -> Result<(), SandboxError> {
    for name in MADE_BY_THE_PLAN {
        let path = directory.join(name);
        let removed = match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(SandboxError::host("remove", &path))?,
        }
    }
    Ok(())
}

/// Copies the content of a prepared directory into a directory. What is there is kept, except that files
/// and links of the same name are replaced and directories take over owner and mode.
pub(crate) fn copy(source: &Path, target: BorrowedFd<'_>) -> io::Result<()> {
    let source = rustix::fs::open(source, DIRECTORY, Mode::empty())?;
    copy_directory(&source, target)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn copy_directory(source: &OwnedFd, target: BorrowedFd<'_>) -> io::Result<()> {
    for entry in Dir::read_from(source)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let from = rustix::fs::openat(source, name, DIRECTORY, Mode::empty())?;
                match rustix::fs::mkdirat(target, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let to = rustix::fs::openat(target, name, DIRECTORY, Mode::empty())?;
                copy_directory(&from, to.as_fd())?;
                copy_owner_and_attributes(&from, &to, &stat)?;
            }
            FileType::RegularFile => copy_file(source, target, name, &stat)?,
            FileType::Symlink => {
                let content = rustix::fs::readlinkat(source, name, Vec::new())?;
                remove_old(target, name)?;
                rustix::fs::symlinkat(&content, target, name)?;
                let (owner, group) = owner(&stat);
                rustix::fs::chownat(target, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            kind
            @ (FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice) => {
                remove_old(target, name)?;
                let mode = Mode::from_raw_mode(stat.st_mode);
                rustix::fs::mknodat(target, name, kind, mode, stat.st_rdev)?;
                let (owner, group) = owner(&stat);
                rustix::fs::chownat(target, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            FileType::Unknown => {}
        }
    }
    Ok(())
}

fn copy_file(source: &OwnedFd, target: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let from = rustix::fs::openat(source, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    remove_old(target, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = rustix::fs::openat(target, name, flags, Mode::from_raw_mode(0o600))?;
    let (mut from, mut to) = (std::fs::File::from(from), std::fs::File::from(to));
    if stat.st_size > 0 {
        io::copy(&mut from, &mut to)?;
    }
    copy_owner_and_attributes(&from, &to, stat)
}

/// In this order: a change of owner clears special mode bits and file capabilities.
fn copy_owner_and_attributes(from: impl AsFd, to: impl AsFd, stat: &Stat) -> io::Result<()> {
    let (owner, group) = owner(stat);
    rustix::fs::fchown(&to, owner, group)?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode))?;
    copy_extended_attributes(from.as_fd(), to.as_fd())
}

fn copy_extended_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let size = match rustix::fs::flistxattr(from, &mut [0u8; 0][..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        result => result?,
    };
    let mut names = vec![0; size];
    let size = rustix::fs::flistxattr(from, &mut names[..])?;
    names.truncate(size);
    for name in names.split_inclusive(|byte| *byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(|_error| Errno::INVAL)?;
        let size = rustix::fs::fgetxattr(from, name, &mut [0u8; 0][..])?;
        let mut value = vec![0; size];
        let size = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        value.truncate(size);
        match rustix::fs::fsetxattr(to, name, &value, rustix::fs::XattrFlags::empty()) {
            // A file system in memory that has no such attributes would not have let the tools set them either.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn remove_old(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
