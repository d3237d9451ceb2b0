//! Subvolumes of btrfs: directories that are copied and removed in one step.
//!
//! A subvolume is a tree of its own inside a btrfs. It is entered like any directory (no mount point is crossed, only
//! the device number changes), and its root always has the inode number 256. A snapshot of it is a subvolume that
//! shares everything with it until one of them changes. Snapshots end at subvolumes below: where one was is an empty
//! directory then.
//!
//! Anybody may make a subvolume or a snapshot of an own one; removing one in one step needs `CAP_SYS_ADMIN`, or a file
//! system mounted with `user_subvol_rm_allowed`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, StatxFlags};

/// The magic number of btrfs in `statfs`.
const MAGIC: u64 = 0x9123_683e;

/// `BTRFS_FIRST_FREE_OBJECTID`: the inode number of each subvolume's root.
const ROOT_INODE: u64 = 256;

/// `BTRFS_IOC_SUBVOL_CREATE`: `_IOW(0x94, 14, struct btrfs_ioctl_vol_args)`.
const IOC_SUBVOL_CREATE: libc::c_ulong = 0x5000_940e;
/// `BTRFS_IOC_SNAP_DESTROY`: `_IOW(0x94, 15, struct btrfs_ioctl_vol_args)`.
const IOC_SNAP_DESTROY: libc::c_ulong = 0x5000_940f;
/// `BTRFS_IOC_SNAP_CREATE_V2`: `_IOW(0x94, 23, struct btrfs_ioctl_vol_args_v2)`.
const IOC_SNAP_CREATE_V2: libc::c_ulong = 0x5000_9417;
/// `BTRFS_IOC_GET_SUBVOL_ROOTREF`: `_IOWR(0x94, 61, struct btrfs_ioctl_get_subvol_rootref_args)`.
const IOC_GET_SUBVOL_ROOTREF: libc::c_ulong = 0xd000_943d;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`, of which only the first and the last field are used.
#[repr(C)]
struct SnapshotArguments {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_get_subvol_rootref_args`.
#[repr(C)]
struct RootReferences {
    least_tree: u64,
    /// Identifiers of the subvolumes below and of the directories that hold them.
    found: [(u64, u64); 255],
    count: u8,
    padding: [u8; 7],
}

// The numbers above have this size in them.
const _: () = assert!(
    size_of::<VolumeArguments>() == 4096
        && size_of::<SnapshotArguments>() == 4096
        && size_of::<RootReferences>() == 4096
);

/// Whether a file is on a btrfs.
pub fn is_btrfs(file: impl AsFd) -> io::Result<bool> {
    Ok(u64::try_from(rustix::fs::fstatfs(file)?.f_type).ok() == Some(MAGIC))
}

/// Whether a directory is the root of a subvolume.
pub fn is_subvolume(directory: impl AsFd) -> io::Result<bool> {
    let directory = directory.as_fd();
    Ok(has_root_inode(directory)? && is_btrfs(directory)?)
}

/// Whether a directory, which must be on a btrfs, is the root of a subvolume.
pub fn has_root_inode(directory: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok(stat.stx_ino == ROOT_INODE)
}

/// Makes an empty subvolume; its mode is 0755 less the umask.
pub fn create_subvolume(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    change(parent.as_fd(), IOC_SUBVOL_CREATE, name)
}

/// Removes a subvolume with all that is in it; the space comes back in the background.
///
/// Fails with `ENOTEMPTY` if there are subvolumes below it, and with `EINVAL` or `ENOTDIR` if it is none.
pub fn delete_subvolume(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    change(parent.as_fd(), IOC_SNAP_DESTROY, name)
}

/// One of the two commands that take a directory and a name in it.
fn change(parent: BorrowedFd<'_>, command: libc::c_ulong, name: &CStr) -> io::Result<()> {
    let mut arguments = VolumeArguments { fd: 0, name: field(name)? };
    // SAFETY: the descriptor is borrowed for the call, and both commands that are passed here take a structure of this
    // type, which lives as long.
    #[expect(unsafe_code, reason = "no crate wraps the commands of btrfs")]
    let result = unsafe { libc::ioctl(parent.as_raw_fd(), command, &raw mut arguments) };
    outcome(result)
}

/// Makes a writable snapshot of the subvolume whose root is open.
pub fn snapshot(source: impl AsFd, parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let source = source.as_fd();
    let fd = i64::from(source.as_raw_fd());
    let mut arguments =
        SnapshotArguments { fd, transaction: 0, flags: 0, unused: [0; 4], name: field(name)? };
    // SAFETY: both descriptors are borrowed for the call, and the command takes a structure of this type, which lives as
    // long; without flags the kernel follows no pointer in it.
    #[expect(unsafe_code, reason = "no crate wraps the commands of btrfs")]
    let result = unsafe { libc::ioctl(parent.as_fd().as_raw_fd(), IOC_SNAP_CREATE_V2, &raw mut arguments) };
    outcome(result)
}

/// Whether there are other subvolumes in the subvolume that an open directory belongs to.
pub fn has_subvolumes_below(directory: impl AsFd) -> io::Result<bool> {
    let mut arguments = RootReferences { least_tree: 0, found: [(0, 0); 255], count: 0, padding: [0; 7] };
    // SAFETY: the descriptor is borrowed for the call, and the kernel reads and writes a structure of this type, which
    // lives as long and may hold any values.
    #[expect(unsafe_code, reason = "no crate wraps the commands of btrfs")]
    let result =
        unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), IOC_GET_SUBVOL_ROOTREF, &raw mut arguments) };
    match outcome(result) {
        // More than fit.
        Err(error) if error.raw_os_error() == Some(libc::EOVERFLOW) => Ok(true),
        result => result.map(|()| arguments.count > 0),
    }
}

fn outcome(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A name with zeros up to the end of its field.
fn field<const SIZE: usize>(name: &CStr) -> io::Result<[u8; SIZE]> {
    let bytes = name.to_bytes_with_nul();
    let mut field = [0; SIZE];
    let room = field.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidFilename)?;
    room.copy_from_slice(bytes);
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elsewhere_there_are_no_subvolumes() {
        let directory = std::fs::File::open("/proc").expect("open");
        assert!(!is_btrfs(&directory).expect("statfs"));
        assert!(!is_subvolume(&directory).expect("stat"));
        for result in [create_subvolume(&directory, c"x"), delete_subvolume(&directory, c"x")] {
            assert!(result.is_err());
        }
    }

    #[test]
    fn a_name_must_fit_into_its_field() {
        assert_eq!(field::<4>(c"abc").expect("it fits"), *b"abc\0");
        assert_eq!(field::<3>(c"abc").expect_err("no room").kind(), io::ErrorKind::InvalidFilename);
    }
}
