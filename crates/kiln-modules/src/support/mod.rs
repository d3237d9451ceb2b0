//! What several modules need: numbers as the manifests write them, paths that stay below a root, and the like.

pub(crate) mod boot_entries;
pub(crate) mod chroot;
pub(crate) mod copying;
pub(crate) mod disc_menu;
pub(crate) mod firstboot;
pub(crate) mod grub;
pub(crate) mod ini;
pub(crate) mod number;
pub(crate) mod oci;
pub(crate) mod ostree;
pub(crate) mod packing;
pub(crate) mod random;
pub(crate) mod root;
pub(crate) mod single_file;
pub(crate) mod tar;
pub(crate) mod template;
pub(crate) mod tree_path;
