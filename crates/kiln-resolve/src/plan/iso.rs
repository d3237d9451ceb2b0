//! The image of a disc that a live system starts from; written to a USB stick it starts from there, too.
//!
//! ```text
//! /live/filesystem.squashfs   the tree, which live-boot puts a file system in memory above
//! /live/vmlinuz               the kernel
//! /live/initrd.img            its first file system
//! /isolinux                   ISOLINUX and its menu                                       (boot bios, hybrid)
//! /boot/grub/efi.img          the EFI system partition, which has /EFI                    (boot uefi, hybrid)
//! /EFI                        GRUB and its menu, which it looks for on the disc, too
//! /.disk/id/UUID              what GRUB knows the disc by
//! ```
//!
//! From a disc firmware starts what El Torito's catalogue names, ISOLINUX or the EFI system partition. For sticks there
//! are ISOLINUX's boot sector and a partition table in which the EFI system partition is a partition.

use serde_json::{Value, json};

use super::sources::Sources;
use super::{ids, kernel, stage, tree_of};
use crate::ResolveError;
use crate::apt::Record;
use crate::definition::Definition;

/// Packages of the image: what finds the disc and the tree on it.
pub(super) const PACKAGES: [&str; 2] = ["live-boot", "live-boot-initramfs-tools"];

/// Packages of the build root, whatever the firmware is.
pub(super) const TOOLS: [&str; 2] = ["squashfs-tools", "xorriso"];

/// Packages of the build root for BIOS: ISOLINUX, and the module that it has most of itself in.
pub(super) const BIOS_PACKAGES: [&str; 2] = ["isolinux", "syslinux-common"];

const ISOLINUX: &str = "usr/lib/ISOLINUX/isolinux.bin";
const ISOLINUX_MODULE: &str = "usr/lib/syslinux/modules/bios/ldlinux.c32";
/// The boot sector for sticks.
const ISOLINUX_SECTOR: &str = "/usr/lib/ISOLINUX/isohdpfx.bin";

/// The EFI system partition: GRUB has 4 MiB; El Torito counts at most 32.
const ESP_FILE: &str = "boot/grub/efi.img";
const ESP_SIZE: u64 = 8 << 20;

/// The longest name of a volume.
const LONGEST_VOLUME: usize = 32;

/// The stages that make the files of the disc.
pub(super) fn files(
    definition: &Definition,
    image: &[Record],
    sources: &mut Sources,
) -> Result<Vec<Value>, ResolveError> {
    let versions = kernel::versions(image);
    let version = versions.first().ok_or(ResolveError::NoKernel)?;
    let boot = definition.kiln.boot;
    let mut directories = vec!["/.disk/id", "/live"];
    let mut inputs = json!({ "tree": tree_of("tree") });
    let mut references = Vec::new();
    let id = ids::uuid(definition, "disc");
    let mut paths = vec![
        json!({ "from": format!("input://tree/{}", kernel::file(version)), "to": "tree:///live/vmlinuz" }),
        json!({ "from": format!("input://tree/{}", kernel::initramfs(version)), "to": "tree:///live/initrd.img" }),
    ];
    let mut file = |text: &str, target: &str| {
        let checksum = sources.text(text);
        let path = json!({ "from": format!("input://files/{checksum}"), "to": format!("tree:///{target}") });
        references.push(checksum);
        path
    };
    paths.push(file(&format!("{id}\n"), &format!(".disk/id/{id}")));
    if boot.has_bios() {
        directories.push("/isolinux");
        for source in [ISOLINUX, ISOLINUX_MODULE] {
            paths.push(json!({ "from": format!("input://build/{source}"), "to": "tree:///isolinux/" }));
        }
        paths.push(file(&isolinux(definition), "isolinux/isolinux.cfg"));
        inputs["build"] = tree_of("build");
    }
    if boot.has_uefi() {
        directories.push("/boot/grub");
        paths.push(json!({ "from": "input://esp/EFI", "to": "tree:///" }));
        inputs["esp"] = tree_of("esp");
    }
    references.sort_unstable();
    inputs["files"] =
        json!({ "type": "org.osbuild.files", "origin": "org.osbuild.source", "references": references });
    let directories: Vec<Value> =
        directories.iter().map(|path| json!({ "path": path, "parents": true })).collect();
    let mut stages = vec![
        stage("org.osbuild.mkdir", json!({ "paths": directories })),
        json!({
            "type": "org.osbuild.squashfs",
            "inputs": { "tree": tree_of("tree") },
            // The first file systems are on the disc already, and are large.
            "options": {
                "filename": "live/filesystem.squashfs",
                "compression": { "method": "zstd" },
                "exclude_paths": ["boot/initrd.img-.*"],
            },
        }),
        json!({ "type": "org.osbuild.copy", "inputs": inputs, "options": { "paths": paths } }),
    ];
    if boot.has_uefi() {
        stages.push(stage(
            "org.osbuild.truncate",
            json!({ "filename": ESP_FILE, "size": ESP_SIZE.to_string() }),
        ));
        stages.push(json!({
            "type": "org.kiln.fat",
            "inputs": { "tree": tree_of("esp") },
            "options": { "volid": ids::serial(definition), "label": "ESP" },
            "devices": {
                "device": { "type": "org.osbuild.loopback", "options": { "filename": ESP_FILE, "lock": true } },
            },
        }));
    }
    Ok(stages)
}

/// The stage that makes the image.
pub(super) fn image(definition: &Definition, filename: &str) -> Value {
    let boot = definition.kiln.boot;
    let mut options = json!({ "filename": filename, "volid": volume(definition), "isolevel": 3 });
    if boot.has_bios() {
        options["boot"] = json!({ "image": "isolinux/isolinux.bin", "catalog": "isolinux/boot.cat" });
        options["isohybridmbr"] = json!(ISOLINUX_SECTOR);
    }
    if boot.has_uefi() {
        options["efi"] = json!(ESP_FILE);
    }
    json!({ "type": "org.osbuild.xorrisofs", "inputs": { "tree": tree_of("disc") }, "options": options })
}

/// The name of the volume, of the letters that there are.
fn volume(definition: &Definition) -> String {
    let upper = definition.name.to_uppercase();
    let letter = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
    upper.chars().map(letter).take(LONGEST_VOLUME).collect()
}

/// The kernel's command line: the root is for live-boot to find.
fn command_line(definition: &Definition) -> String {
    format!("boot=live {}", kernel::own_options(definition))
}

/// ISOLINUX's menu: one entry, on the screen and on the serial line.
fn isolinux(definition: &Definition) -> String {
    format!(
        "serial 0 115200\ndefault live\ntimeout 10\nlabel live\n  kernel /live/vmlinuz\n  initrd /live/initrd.img\n  \
         append {}\n",
        command_line(definition)
    )
}

/// GRUB's menu. The firmware's console is on the serial line where the firmware is.
pub(super) fn grub(definition: &Definition) -> String {
    format!(
        "search --no-floppy --set=root --file /.disk/id/{}\nset timeout=1\nmenuentry \"{}\" {{\n  \
         linux /live/vmlinuz {}\n  initrd /live/initrd.img\n}}\n",
        ids::uuid(definition, "disc"),
        kernel::title(definition),
        command_line(definition),
    )
}
