//! How XFS divides its space, as far as inode numbers tell.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The magic number of XFS in `statfs`.
const MAGIC: u64 = 0x5846_5342;

/// `XFS_IOC_FSGEOMETRY_V1`: `_IOR('X', 100, struct xfs_fsop_geom_v1)`.
const IOC_FSGEOMETRY_V1: libc::c_ulong = 0x8070_5864;

/// `struct xfs_fsop_geom_v1`, which every XFS answers.
#[derive(Debug, Default)]
#[repr(C)]
struct Geometry {
    block_size: u32,
    realtime_extent_size: u32,
    group_blocks: u32,
    group_count: u32,
    log_blocks: u32,
    sector_size: u32,
    inode_size: u32,
    most_inodes_percent: u32,
    data_blocks: u64,
    realtime_blocks: u64,
    realtime_extents: u64,
    log_start: u64,
    uuid: [u8; 16],
    stripe_unit: u32,
    stripe_width: u32,
    version: i32,
    flags: u32,
    log_sector_size: u32,
    realtime_sector_size: u32,
    directory_block_size: u32,
    padding: u32,
}

const _: () = assert!(size_of::<Geometry>() == 112);

/// How many low bits of an inode number tell inodes of one allocation group apart. The bits above are the group's
/// number: two threads that free inodes of different groups do not wait for each other.
///
/// Nothing if the file system is not XFS, or has one group only.
pub fn group_bits(file: impl AsFd) -> io::Result<Option<u32>> {
    let file = file.as_fd();
    if u64::try_from(rustix::fs::fstatfs(file)?.f_type).ok() != Some(MAGIC) {
        return Ok(None);
    }
    let mut geometry = Geometry::default();
    // SAFETY: the descriptor is borrowed for the call, and the kernel writes one structure of exactly this size, which
    // may hold any values.
    #[expect(unsafe_code, reason = "no crate wraps the geometry of XFS")]
    let result = unsafe { libc::ioctl(file.as_raw_fd(), IOC_FSGEOMETRY_V1, &raw mut geometry) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(bits(&geometry))
}

fn bits(geometry: &Geometry) -> Option<u32> {
    let inodes_per_block = geometry.block_size.checked_div(geometry.inode_size)?;
    let logarithm = |value: u32| value.checked_next_power_of_two().map(u32::trailing_zeros);
    (geometry.group_count > 1).then_some(logarithm(geometry.group_blocks)? + logarithm(inodes_per_block)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_follow_from_the_geometry() {
        let geometry = |group_blocks, group_count| Geometry {
            block_size: 4096,
            inode_size: 512,
            group_blocks,
            group_count,
            ..Geometry::default()
        };
        for (blocks, count, expected) in
            [(262_144, 4, Some(21)), (262_145, 4, Some(22)), (16_384, 2, Some(17)), (262_144, 1, None)]
        {
            assert_eq!(bits(&geometry(blocks, count)), expected, "{count} groups of {blocks}");
        }
    }

    #[test]
    fn other_file_systems_have_no_groups() {
        let file = std::fs::File::open("/proc").expect("open");
        assert_eq!(group_bits(file).expect("statfs"), None);
    }
}
