//! Native mounts.

mod btrfs;
mod ext4;
mod xfs;

/// All native mounts, sorted by name.
pub(crate) const MOUNTS: &[&dyn kiln_api::mount::Mount] = &[&btrfs::Btrfs, &ext4::Ext4, &xfs::Xfs];
