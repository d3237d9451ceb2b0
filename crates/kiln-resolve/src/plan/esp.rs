//! The EFI system partition: GRUB where firmware looks for it on a disk that it does not know, and what leads GRUB
//! to its menu.
//!
//! ```text
//! /EFI/BOOT/BOOTX64.EFI   GRUB with all its modules, as Debian's package has it
//! /EFI/debian/grub.cfg    where this GRUB looks first: it names the file system with the menu
//! ```

use serde_json::{Value, json};

use super::sources::Sources;
use super::{layout, stage, tree_of};
use crate::definition::Definition;

/// Where it is in the running system.
pub(super) const MOUNT_POINT: &str = "/boot/efi";

/// The package of the build root, GRUB's name for the platform, its file there, and the firmware's name for it.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: [&str; 4] = ["grub-efi-arm64-bin", "arm64-efi", "grubaa64.efi", "BOOTAA64.EFI"];
#[cfg(not(target_arch = "aarch64"))]
const ARCHITECTURE: [&str; 4] = ["grub-efi-amd64-bin", "x86_64-efi", "grubx64.efi", "BOOTX64.EFI"];

pub(super) const PACKAGE: &str = ARCHITECTURE[0];
pub(super) const PLATFORM: &str = ARCHITECTURE[1];

/// The stages that make its content.
pub(super) fn stages(definition: &Definition, sources: &mut Sources) -> Vec<Value> {
    let [_, platform, file, name] = ARCHITECTURE;
    let menu = layout::grub(definition).map(|grub| {
        let (uuid, directory) = (&grub.uuid, grub.directory());
        format!("search.fs_uuid {uuid} root\nset prefix=($root){directory}\nconfigfile $prefix/grub.cfg\n")
    });
    let menu = sources.text(&menu.unwrap_or_default());
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
