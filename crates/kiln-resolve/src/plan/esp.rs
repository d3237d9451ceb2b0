//! The EFI system partition: what firmware starts on a disk that it does not know, and what leads that to the kernel.
//!
//! With GRUB, on disks and discs:
//!
//! ```text
//! /EFI/BOOT/BOOTX64.EFI   GRUB with all its modules, as Debian's package has it
//! /EFI/debian/grub.cfg    where this GRUB looks first: it names the file system with the menu, or is the menu of a disc
//! ```

use serde_json::{Value, json};

use super::sources::Sources;
use super::{iso, layout, stage, systemd_boot, tree_of, uki};
use crate::ResolveError;
use crate::apt::Record;
use crate::definition::{Bootloader, Definition, Output, Release};

/// Where it is in the running system.
pub(super) const MOUNT_POINT: &str = "/boot/efi";

/// The package of the build root, GRUB's name for the platform, its file there, the firmware's name for it, and
/// systemd-boot's file.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: [&str; 5] =
    ["grub-efi-arm64-bin", "arm64-efi", "grubaa64.efi", "BOOTAA64.EFI", "systemd-bootaa64.efi"];
#[cfg(not(target_arch = "aarch64"))]
const ARCHITECTURE: [&str; 5] =
    ["grub-efi-amd64-bin", "x86_64-efi", "grubx64.efi", "BOOTX64.EFI", "systemd-bootx64.efi"];

/// GRUB's package of the build root, and its platform.
pub(super) const PACKAGE: &str = ARCHITECTURE[0];
pub(super) const PLATFORM: &str = ARCHITECTURE[1];

/// What firmware starts on a disk that it does not know.
pub(super) const DEFAULT_PROGRAM: &str = ARCHITECTURE[3];

/// systemd-boot.
pub(super) const SYSTEMD_BOOT: &str = ARCHITECTURE[4];

/// The stages that make its content.
pub(super) fn stages(
    definition: &Definition,
    release: &Release,
    image: &[Record],
    sources: &mut Sources,
) -> Result<Vec<Value>, ResolveError> {
    match definition.kiln.bootloader {
        Bootloader::Grub => Ok(grub(definition, sources)),
        Bootloader::SystemdBoot => systemd_boot::stages(definition, release, image, sources),
        Bootloader::Uki => uki::stages(definition, image),
    }
}

fn grub(definition: &Definition, sources: &mut Sources) -> Vec<Value> {
    let [_, platform, file, name, _] = ARCHITECTURE;
    let menu = if definition.outputs().contains(&Output::Iso) {
        iso::grub(definition)
    } else {
        let grub = layout::grub(definition).map(|grub| {
            let (uuid, directory) = (&grub.uuid, grub.directory());
            format!(
                "search.fs_uuid {uuid} root\nset prefix=($root){directory}\nconfigfile $prefix/grub.cfg\n"
            )
        });
        grub.unwrap_or_default()
    };
    let menu = sources.text(&menu);
    let directories = ["/EFI/BOOT", "/EFI/debian"];
    let directories = directories.map(|path| json!({ "path": path, "parents": true, "exist_ok": true }));
    vec![
        stage("org.osbuild.mkdir", json!({ "paths": directories })),
        json!({
            "type": "org.osbuild.copy",
            "inputs": {
                "build": tree_of("build"),
                "files": { "type": "org.osbuild.files", "origin": "org.osbuild.source", "references": [menu] },
            },
            "options": {
                "paths": [
                    {
                        "from": format!("input://build/usr/lib/grub/{platform}/monolithic/{file}"),
                        "to": format!("tree:///EFI/BOOT/{name}"),
                    },
                    { "from": format!("input://files/{menu}"), "to": "tree:///EFI/debian/grub.cfg" },
                ],
            },
        }),
    ]
}
