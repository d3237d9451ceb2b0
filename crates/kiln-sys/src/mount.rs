//! The part of the mount interface that `rustix` lacks.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::mount::MountAttrFlags;

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Adds attributes to a mount and to all mounts below it, and makes them private.
///
/// `mount` is what `open_tree` returned. Attributes that are not named stay as they are.
pub fn set_attributes_recursive(mount: impl AsFd, attributes: MountAttrFlags) -> io::Result<()> {
    let attributes = MountAttributes {
        set: u64::from(attributes.bits()),
        clear: 0,
        propagation: libc::MS_PRIVATE,
        user_namespace: 0,
    };
    // SAFETY: the path is an empty string, and the size given is that of the structure.
    #[expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
