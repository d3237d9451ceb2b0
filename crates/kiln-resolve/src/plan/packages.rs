//! Which packages an image and its build root have, beyond those that the definition lists.
//!
//! An image has the distribution's essential packages and `apt`, what its customizations need, and, if machines start
//! from it, a kernel, an init system and the tools of its file system or of a live system. Recommended packages are not
//! installed unless asked for.

use serde_json::{Value, json};

use super::sources::Sources;
use super::{esp, iso, layout, systemd_boot, uki};
use crate::apt::Record;
use crate::definition::{Bootloader, Content, Definition, FileSystem, Output};

/// The solver's pattern for the packages that the distribution cannot do without.
const ESSENTIAL: &str = "?essential";

/// The kernels of images that name none: that of disks, small, for virtual machines, and that of discs, which start
/// any machine.
#[cfg(target_arch = "aarch64")]
const KERNELS: [&str; 2] = ["linux-image-cloud-arm64", "linux-image-arm64"];
#[cfg(not(target_arch = "aarch64"))]
const KERNELS: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-amd64"];

/// What the solver is asked for to make the image's tree.
pub(crate) fn image_packages(definition: &Definition) -> Vec<String> {
    let customizations = &definition.customizations;
    let mut packages: Vec<String> = [ESSENTIAL, "apt"].map(str::to_owned).into();
    let mut need = |name: &str| packages.push(name.to_owned());
    let outputs = definition.outputs();
    let disc = outputs.contains(&Output::Iso);
    if outputs.iter().any(|output| output.starts()) {
        let [of_disks, of_discs] = KERNELS;
        let usual = if disc { of_discs } else { of_disks };
        need(customizations.kernel.as_ref().map_or(usual, |kernel| &kernel.value));
        need("initramfs-tools");
        need("systemd-sysv");
        // Without it there is no logind, and a machine's power button does nothing.
        need("dbus");
        need("udev");
        if disc {
            iso::PACKAGES.into_iter().for_each(&mut need);
        } else {
            storage(definition).into_iter().for_each(&mut need);
            if definition.kiln.encryption.is_some() {
                need("cryptsetup-initramfs");
            }
            if definition.kiln.bootloader == Bootloader::SystemdBoot {
                need(systemd_boot::PACKAGE);
            }
        }
    } else if let Some(kernel) = &customizations.kernel {
        need(&kernel.value);
    }
    if !customizations.users.is_empty() || !customizations.groups.is_empty() {
        need("passwd");
    }
    if customizations.timezone.is_some() {
        need("tzdata");
    }
    if [&customizations.enabled, &customizations.disabled, &customizations.masked]
        .iter()
        .any(|l| !l.is_empty())
    {
        need("systemd");
    }
    packages.extend(definition.packages.iter().map(|package| match &package.value.version {
        Some(version) => format!("{}={version}", package.value.name),
        None => package.value.name.clone(),
    }));
    packages
}

/// What the solver is asked for to make the build root.
pub(crate) fn build_packages(definition: &Definition) -> Vec<String> {
    // systemd: units are enabled, and users of the tree's own kind made, by its programs.
    let mut packages = vec![ESSENTIAL, "passwd", "systemd"];
    if definition.customizations.timezone.is_some() {
        // The zone is looked up among those of the build root.
        packages.push("tzdata");
    }
    let outputs = definition.outputs();
    if outputs.iter().any(|output| output.is_disk()) {
        packages.push("fdisk");
        packages.extend(storage(definition));
        if definition.kiln.encryption.is_some() {
            packages.push("cryptsetup-bin");
        }
        if definition.kiln.boot.has_bios() {
            packages.extend(["grub-common", "grub-pc-bin"]);
        }
    }
    if outputs.contains(&Output::Iso) {
        packages.extend(iso::TOOLS);
        if definition.kiln.boot.has_bios() {
            packages.extend(iso::BIOS_PACKAGES);
        }
    }
    if outputs.iter().any(|output| output.starts()) && definition.kiln.boot.has_uefi() {
        packages.extend(["dosfstools", "mtools"]);
        match definition.kiln.bootloader {
            Bootloader::Grub => packages.push(esp::PACKAGE),
            // It comes from the image's own packages.
            Bootloader::SystemdBoot => {}
            Bootloader::Uki => packages.extend(uki::PACKAGES),
        }
    }
    if outputs.iter().any(|output| output.is_disk() && *output != Output::Raw) {
        packages.push("qemu-utils");
    }
    packages.into_iter().map(str::to_owned).collect()
}

/// The packages with the tools of file systems and volume groups.
fn storage(definition: &Definition) -> Vec<&'static str> {
    let parts = layout::parts(definition);
    let mut packages: Vec<_> =
        layout::mounts(definition, &parts).iter().map(|mount| tools(mount.kind)).collect();
    if definition.partitions.iter().any(|partition| matches!(partition.content, Content::Group { .. })) {
        packages.push("lvm2");
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// The package with a file system's tools.
fn tools(kind: FileSystem) -> &'static str {
    match kind {
        FileSystem::Ext4 => "e2fsprogs",
        FileSystem::Xfs => "xfsprogs",
        FileSystem::Btrfs => "btrfs-progs",
    }
}

/// The stage that installs packages into an empty tree.
pub(super) fn install(records: &[Record], sources: &mut Sources) -> Value {
    let mut references: Vec<String> = records.iter().map(|record| sources.package(record)).collect();
    references.sort_unstable();
    references.dedup();
    json!({
        "type": "org.kiln.deb",
        "inputs": {
            "packages": {
                "type": "org.osbuild.files",
                "origin": "org.osbuild.source",
                "references": references,
            },
        },
    })
}
