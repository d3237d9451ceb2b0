//! Native mounts.

mod bind;
pub(crate) mod btrfs;
mod ddi;
mod erofs;
pub(crate) mod ext4;
mod fat;
mod noop;
mod ostree_deployment;
mod squashfs;
mod xfs;

/// All native mounts, sorted by name.
pub(crate) const MOUNTS: &[&dyn kiln_api::mount::Mount] = &[
    &bind::Bind,
    &btrfs::Btrfs,
    &ddi::Ddi,
    &erofs::Erofs,
    &ext4::Ext4,
    &fat::Fat,
    &noop::Noop,
    &ostree_deployment::OstreeDeployment,
    &squashfs::Squashfs,
    &xfs::Xfs,
];
