//! `FS_IOC_FIEMAP`: where a file's bytes are on its disk, and whether other files have the same place.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// One piece of a file on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// Where it begins on the disk, in bytes; 0 where it has no place of its own yet.
    pub physical: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Whether another file, or another part of this one, has the same place: a reflink.
    pub shared: bool,
}

/// `_IOWR('f', 11, struct fiemap)`; the size is that of the header alone.
const FS_IOC_FIEMAP: libc::Ioctl = 0xC020_660B_u32 as libc::Ioctl;

const FIEMAP_EXTENT_LAST: u32 = 0x1;
const FIEMAP_EXTENT_SHARED: u32 = 0x2000;

/// How many extents are asked for at once: most files have one.
const BATCH: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [RawExtent; BATCH],
}

/// The extents of a file, in their order in it. None if the file system cannot tell, as one in memory.
///
/// Nothing is written first: what the file system has not placed yet is reported with the place 0.
pub fn extents(file: impl AsFd) -> io::Result<Option<Vec<Extent>>> {
    let mut found = Vec::new();
    let mut start = 0;
    loop {
        let mut request = Request {
            start,
            length: u64::MAX - start,
            flags: 0,
            mapped: 0,
            count: u32::try_from(BATCH).unwrap_or(u32::MAX),
            reserved: 0,
            extents: [RawExtent::default(); BATCH],
        };
        // SAFETY: the descriptor is borrowed for the call. The kernel reads the header and writes to it and to at most `count`
        // extents behind it, which is how many the structure has; all of them are plain numbers.
        #[expect(unsafe_code, reason = "no crate wraps the request")]
        let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FIEMAP, &raw mut request) };
        if result == -1 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL | libc::ENOSYS) => Ok(None),
                Some(libc::EINTR) => continue,
                _ => Err(error),
            };
        }
        let mapped = usize::try_from(request.mapped).unwrap_or(BATCH).min(BATCH);
        let pieces = request.extents.get(..mapped).unwrap_or_default();
        found.extend(pieces.iter().map(|piece| Extent {
            physical: piece.physical,
            length: piece.length,
            shared: piece.flags & FIEMAP_EXTENT_SHARED != 0,
        }));
        match pieces.last() {
            Some(last) if last.flags & FIEMAP_EXTENT_LAST == 0 => {
                start = last.logical.saturating_add(last.length);
            }
            _ => return Ok(Some(found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    #[test]
    fn the_extents_of_a_file_cover_its_data() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[7; 70_000]).expect("written");
        // With holes, so that there are more extents than are asked for at once.
        for index in 1..=100 {
            file.seek(SeekFrom::Start(index * 200_000)).expect("sought");
            file.write_all(&[7; 4096]).expect("written");
        }
        file.sync_all().expect("synced");
        // In memory nothing has a place; everywhere else each piece has one.
        let Some(extents) = extents(&file).expect("asked") else { return };
        assert!(extents.len() > BATCH, "{}", extents.len());
        assert!(extents.iter().map(|extent| extent.length).sum::<u64>() >= 70_000 + 100 * 4096);
        assert!(extents.iter().all(|extent| !extent.shared));
    }

    #[test]
    fn a_file_system_that_cannot_tell_says_so() {
        let file = rustix::fs::memfd_create("extents", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        assert_eq!(extents(&file).expect("asked"), None);
    }
}
