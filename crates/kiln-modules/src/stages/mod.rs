//! Stages: each changes the tree (or a device), inside the build root.

use kiln_api::stage::StageModule;

mod bootctl_install_root;
mod btrfs_subvol;
mod buildstamp;
mod chattr;
mod chmod;
mod chown;
mod clevis_luks_bind;
mod container_deploy;
mod copy;
mod cpio_out;
mod createaddrsize;
mod dd;
mod deb;
mod discinfo;
mod dmverity;
mod erofs;
pub(crate) mod error;
mod fat;
mod fix_bls;
mod fstab;
mod groups;
mod grub2;
mod grub2_d;
pub(crate) mod grub2_inst;
mod grub2_iso;
mod grub2_iso_legacy;
mod grub2_legacy;
mod gunzip;
mod gzip;
mod hmac;
mod hostname;
mod implantisomd5;
mod isolinux;
mod kernel_cmdline;
mod kernel_cmdline_bls_append;
mod ln;
mod locale;
mod luks2_format;
mod luks2_remove_key;
mod lvm2_create;
mod lvm2_metadata;
mod machine_id;
mod mkdir;
mod mkfs_btrfs;
mod mkfs_ext4;
mod mkfs_fat;
mod mkfs_xfs;
mod mkswap;
mod noop;
mod oci_archive;
mod ovf;
mod parted;
mod qemu;
mod sfdisk;
mod sgdisk;
mod squashfs;
mod systemd;
mod systemd_repart_create;
mod tar;
mod timezone;
mod treeinfo;
mod truncate;
mod uki;
mod untar;
mod users;
mod vagrant;
mod write_device;
mod xorrisofs;
mod xz;
mod zip;
mod zipl;
pub(crate) mod zipl_inst;
mod zstd;

/// All native stages, sorted by name.
pub(crate) const STAGES: &[StageModule] = &[
    StageModule::of::<deb::InstallDebs>(),
    StageModule::of::<fat::Fat>(),
    StageModule::of::<bootctl_install_root::BootctlInstallRoot>(),
    StageModule::of::<btrfs_subvol::BtrfsSubvol>(),
    StageModule::of::<buildstamp::Buildstamp>(),
    StageModule::of::<chattr::Chattr>(),
    StageModule::of::<chmod::Chmod>(),
    StageModule::of::<chown::Chown>(),
    StageModule::of::<clevis_luks_bind::ClevisLuksBind>(),
    StageModule::of::<container_deploy::ContainerDeploy>(),
    StageModule::of::<copy::Copy>(),
    StageModule::of::<cpio_out::CpioOut>(),
    StageModule::of::<createaddrsize::Createaddrsize>(),
    StageModule::of::<dd::Dd>(),
    StageModule::of::<discinfo::Discinfo>(),
    StageModule::of::<dmverity::Dmverity>(),
    StageModule::of::<erofs::Erofs>(),
    StageModule::of::<error::Fail>(),
    StageModule::of::<fix_bls::FixBls>(),
    StageModule::of::<fstab::Fstab>(),
    StageModule::of::<groups::Groups>(),
    StageModule::of::<grub2::Grub2>(),
    StageModule::of::<grub2_d::Grub2D>(),
    StageModule::of::<grub2_inst::Grub2Inst>(),
    StageModule::of::<grub2_iso::Grub2Iso>(),
    StageModule::of::<grub2_iso_legacy::Grub2IsoLegacy>(),
    StageModule::of::<grub2_legacy::Grub2Legacy>(),
    StageModule::of::<gunzip::Gunzip>(),
    StageModule::of::<gzip::Gzip>(),
    StageModule::of::<hmac::Hmac>(),
    StageModule::of::<hostname::Hostname>(),
    StageModule::of::<implantisomd5::Implantisomd5>(),
    StageModule::of::<isolinux::Isolinux>(),
    StageModule::of::<kernel_cmdline::KernelCmdline>(),
    StageModule::of::<kernel_cmdline_bls_append::KernelCmdlineBlsAppend>(),
    StageModule::of::<ln::Ln>(),
    StageModule::of::<locale::Locale>(),
    StageModule::of::<luks2_format::Luks2Format>(),
    StageModule::of::<luks2_remove_key::Luks2RemoveKey>(),
    StageModule::of::<lvm2_create::Lvm2Create>(),
    StageModule::of::<lvm2_metadata::Lvm2Metadata>(),
    StageModule::of::<machine_id::MachineId>(),
    StageModule::of::<mkdir::Mkdir>(),
    StageModule::of::<mkfs_btrfs::MkfsBtrfs>(),
    StageModule::of::<mkfs_ext4::MkfsExt4>(),
    StageModule::of::<mkfs_fat::MkfsFat>(),
    StageModule::of::<mkfs_xfs::MkfsXfs>(),
    StageModule::of::<mkswap::Mkswap>(),
    StageModule::of::<noop::Noop>(),
    StageModule::of::<oci_archive::OciArchive>(),
    StageModule::of::<ovf::Ovf>(),
    StageModule::of::<parted::Parted>(),
    StageModule::of::<qemu::Qemu>(),
    StageModule::of::<sfdisk::Sfdisk>(),
    StageModule::of::<sgdisk::Sgdisk>(),
    StageModule::of::<squashfs::Squashfs>(),
    StageModule::of::<systemd::Systemd>(),
    StageModule::of::<systemd_repart_create::SystemdRepartCreate>(),
    StageModule::of::<tar::Tar>(),
    StageModule::of::<timezone::Timezone>(),
    StageModule::of::<treeinfo::Treeinfo>(),
    StageModule::of::<truncate::Truncate>(),
    StageModule::of::<uki::Uki>(),
    StageModule::of::<untar::Untar>(),
    StageModule::of::<users::Users>(),
    StageModule::of::<vagrant::Vagrant>(),
    StageModule::of::<write_device::WriteDevice>(),
    StageModule::of::<xorrisofs::Xorrisofs>(),
    StageModule::of::<xz::Xz>(),
    StageModule::of::<zip::Zip>(),
    StageModule::of::<zipl::Zipl>(),
    StageModule::of::<zipl_inst::ZiplInst>(),
    StageModule::of::<zstd::Zstd>(),
];

/// Stages that assemblers make file systems with.
pub(crate) mod formats {
    pub(crate) use super::mkfs_btrfs::MkfsBtrfs;
    pub(crate) use super::mkfs_ext4::MkfsExt4;
    pub(crate) use super::mkfs_fat::MkfsFat;
    pub(crate) use super::mkfs_xfs::MkfsXfs;
}

/// Stages that assemblers make disks of them with.
pub(crate) mod disks {
    pub(crate) use super::qemu::{Qemu, VmdkSubformat};
    pub(crate) use super::sfdisk::Sfdisk;
    pub(crate) use super::xz::Xz;
}

/// Stages that tests of devices and mounts use.
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::erofs::Erofs;
    pub(crate) use super::luks2_format::Luks2Format;
    pub(crate) use super::lvm2_create::Lvm2Create;
    pub(crate) use super::lvm2_metadata::Lvm2Metadata;
    pub(crate) use super::mkfs_btrfs::MkfsBtrfs;
    pub(crate) use super::mkfs_ext4::MkfsExt4;
    pub(crate) use super::mkfs_fat::MkfsFat;
    pub(crate) use super::mkfs_xfs::MkfsXfs;
    pub(crate) use super::mkswap::Mkswap;
    pub(crate) use super::sfdisk::Sfdisk;
    pub(crate) use super::squashfs::Squashfs;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_are_sorted_and_unique() {
        let names: Vec<_> = STAGES.iter().map(|stage| stage.name).collect();
        assert!(names.is_sorted_by(|one, other| one < other), "{names:?}");
    }

    #[test]
    fn every_file_is_in_the_list() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stages");
        let files: BTreeSet<_> = std::fs::read_dir(directory)
            .expect("the sources are there")
            .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
            .filter(|stem| stem != "mod")
            .collect();
        let listed: BTreeSet<_> = STAGES
            .iter()
            .filter_map(|stage| stage.name.splitn(3, '.').nth(2))
            .map(|name| name.replace(['.', '-'], "_"))
            .collect();
        assert_eq!(files, listed);
    }

    #[test]
    fn every_stage_has_valid_schemas_and_a_summary() {
        for stage in STAGES {
            let schema = (stage.schema)();
            let summary = schema.documentation().lines().next().unwrap_or_default();
            assert!(summary.ends_with('.'), "{}: `{summary}` is no summary", stage.name);
            for part in [Some(schema.options.clone()), schema.inputs, schema.devices, schema.mounts]
                .into_iter()
                .flatten()
            {
                jsonschema::draft202012::meta::validate(&part)
                    .unwrap_or_else(|error| panic!("{}: {error}", stage.name));
            }
        }
    }
}
