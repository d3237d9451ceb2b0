//! The system calls of loop devices, with the kernel's layouts (`linux/loop.h`, `linux/fs.h`).

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::{LoopOptions, LoopStatus};

const LOOP_CLR_FD: libc::Ioctl = 0x4C01;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const BLKFLSBUF: libc::Ioctl = 0x1261;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_PARTSCAN: u32 = 8;

#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232 && size_of::<LoopConfig>() == 304);

const EMPTY: LoopInfo64 = LoopInfo64 {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

fn errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// Asks the control device for the number of a device that is free at this moment.
pub(super) fn free_number(control: &File) -> io::Result<u32> {
    // SAFETY: the request takes no argument and touches no memory.
    #[expect(unsafe_code, reason = "no crate offers this request")]
    let result = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    let number = check(result)?;
    u32::try_from(number).map_err(io::Error::other)
}

/// Attaches a file and sets all properties, atomically.
pub(super) fn configure(node: &File, backing: &File, options: &LoopOptions) -> Result<(), Errno> {
    let mut info = EMPTY;
    info.offset = options.offset;
    info.size_limit = options.size_limit;
    info.flags = LO_FLAGS_AUTOCLEAR;
    if options.read_only {
        info.flags |= LO_FLAGS_READ_ONLY;
    }
    if options.partition_scan {
        info.flags |= LO_FLAGS_PARTSCAN;
    }
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let config = LoopConfig { fd, block_size: options.block_size, info, reserved: [0; 8] };
    // SAFETY: `config` has the layout that the request reads, and lives through the call.
    #[expect(unsafe_code, reason = "no crate offers this request")]
    let result = unsafe { libc::ioctl(node.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    check(result).map(|_| ())
}

/// Detaches the device as soon as nobody has it open.
pub(super) fn clear(node: &File) -> Result<(), Errno> {
    // SAFETY: the request takes no argument and touches no memory.
    #[expect(unsafe_code, reason = "no crate offers this request")]
    let result = unsafe { libc::ioctl(node.as_raw_fd(), LOOP_CLR_FD) };
    check(result).map(|_| ())
}

/// Reads the properties of an attached device.
pub(super) fn status(node: &File) -> Result<LoopStatus, Errno> {
    let mut info = EMPTY;
    // SAFETY: `info` has the layout that the request writes, and lives through the call.
    #[expect(unsafe_code, reason = "no crate offers this request")]
    let result = unsafe { libc::ioctl(node.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    check(result)?;
    Ok(LoopStatus {
        backing: (info.device, info.inode),
        offset: info.offset,
        size_limit: info.size_limit,
        autoclear: info.flags & LO_FLAGS_AUTOCLEAR != 0,
        read_only: info.flags & LO_FLAGS_READ_ONLY != 0,
        partition_scan: info.flags & LO_FLAGS_PARTSCAN != 0,
    })
}

/// Writes back and drops the buffer cache of a block device.
pub(super) fn flush(node: &File) -> io::Result<()> {
    // SAFETY: the request ignores its argument and touches no memory.
    #[expect(unsafe_code, reason = "no crate offers this request")]
    let result = unsafe { libc::ioctl(node.as_raw_fd(), BLKFLSBUF, 0) };
    check(result)?;
    Ok(())
}
