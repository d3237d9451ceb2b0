//! Reading and setting what an entry has beside its content: owner, mode, times, extended attributes.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Gid, Mode, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// The permission bits of a mode, with set-id and sticky bits.
const PERMISSIONS: u32 = 0o7777;

/// Room for the names, and for a value, of most files' extended attributes.
const USUAL_SIZE: usize = 256;

/// The extended attributes that a new file inherits from its directory's default ACL.
const ACLS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

/// The same on XFS, which lists each ACL by both names. Under this one other file systems would take it for an
/// attribute like any other.
const ACL_ALIASES: [&CStr; 2] = [c"trusted.SGI_ACL_FILE", c"trusted.SGI_ACL_DEFAULT"];

/// An open file or directory, or an entry that cannot be opened, by an absolute path that reaches it.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Open(&'a OwnedFd),
    Path(&'a CStr),
}

/// Extended attributes, names in the kernel's order.
pub(super) type Xattrs = Vec<(CString, Vec<u8>)>;

/// Attributes of an open file.
pub(super) fn stat(file: &OwnedFd) -> Result<Statx, Errno> {
    rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

/// Attributes of an entry, which is not followed.
pub(super) fn stat_at(directory: &OwnedFd, name: &CStr) -> Result<Statx, Errno> {
    rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
}

pub(super) fn mode(stat: &Statx) -> Mode {
    Mode::from_raw_mode(u32::from(stat.stx_mode) & PERMISSIONS)
}

/// What a new entry is made with: set-id and sticky bits come when it belongs to whom it should.
pub(super) fn permissions(stat: &Statx) -> Mode {
    mode(stat) & (Mode::RWXU | Mode::RWXG | Mode::RWXO)
}

pub(super) fn owner(stat: &Statx) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.stx_uid)), Some(Gid::from_raw(stat.stx_gid)))
}

pub(super) fn times(stat: &Statx) -> Timestamps {
    let time = |time: StatxTimestamp| Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec.into() };
    Timestamps { last_access: time(stat.stx_atime), last_modification: time(stat.stx_mtime) }
}

/// Reads all extended attributes, ACLs once; a file system that knows none has none.
pub(super) fn xattrs(target: Target<'_>) -> Result<Xattrs, Errno> {
    let list = grow(|buffer| match target {
        Target::Open(file) => rustix::fs::flistxattr(file, buffer),
        Target::Path(path) => rustix::fs::llistxattr(path, buffer),
    });
    let list = match list {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut attributes = Vec::new();
    let names = || list.split_inclusive(|byte| *byte == 0).flat_map(CStr::from_bytes_with_nul);
    for name in names() {
        let alias = ACL_ALIASES.iter().position(|alias| *alias == name);
        if alias.and_then(|index| ACLS.get(index)).is_some_and(|acl| names().any(|name| name == *acl)) {
            continue;
        }
        let value = grow(|buffer| match target {
            Target::Open(file) => rustix::fs::fgetxattr(file, name, buffer),
            Target::Path(path) => rustix::fs::lgetxattr(path, name, buffer),
        });
        match value {
            // Removed since it was listed, or listed by a security module that keeps no value.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            value => attributes.push((name.to_owned(), value?)),
        }
    }
    Ok(attributes)
}

/// Sets one extended attribute.
pub(super) fn set_xattr(target: Target<'_>, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    match target {
        Target::Open(file) => rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()),
        Target::Path(path) => rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()),
    }
}

/// Whether new entries of a directory inherit an ACL from it.
pub(super) fn has_default_acl(directory: &OwnedFd) -> bool {
    rustix::fs::fgetxattr(directory, ACLS[1], &mut [0; USUAL_SIZE][..]).is_ok_and(|size| size > 0)
}

/// Removes what an entry has inherited from its directory's default ACL.
pub(super) fn drop_acls(target: Target<'_>) -> Result<(), Errno> {
    for name in ACLS {
        let result = match target {
            Target::Open(file) => rustix::fs::fremovexattr(file, name),
            Target::Path(path) => rustix::fs::lremovexattr(path, name),
        };
        match result {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads into a buffer that grows until what is read fits.
fn grow(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; USUAL_SIZE];
    match read(&mut small) {
        Err(Errno::RANGE) => {}
        result => return Ok(small.get(..result?).unwrap_or_default().to_vec()),
    }
    let mut buffer = vec![0; 4 * USUAL_SIZE];
    loop {
        match read(&mut buffer) {
            Err(Errno::RANGE) => buffer.resize(buffer.len() * 4, 0),
            result => {
                buffer.truncate(result?);
                return Ok(buffer);
            }
        }
    }
}
