//! The disk: a GUID partition table and up to four partitions.
//!
//! ```text
//! sector 0       boot code, protective table
//!        2048    BIOS boot partition, 1 MiB: GRUB's core    (boot bios, hybrid)
//!                EFI system partition, 64 MiB               (boot uefi, hybrid)
//!                swap space                                 (swap-size)
//!                root, up to the backup table in the last 33 sectors, ending on a whole MiB
//! ```
//!
//! All of them begin and end on a whole MiB. No kernel has to know FAT: `org.kiln.fat` fills the EFI system partition.

use serde_json::{Value, json};

use super::{ids, stage, tree_of};
use crate::apt::Record;
use crate::definition::{Definition, FileSystem, Output};
use crate::resolve::installed;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Where partitions begin: a multiple of every block size in use.
const FIRST: u64 = MIB / SECTOR;
/// GRUB's core has some tens of kilobytes; a whole MiB keeps what follows aligned.
const BOOT: u64 = MIB / SECTOR;
/// GRUB with its modules has 4 MiB; updates of firmware and other boot loaders find room, too.
const ESP: u64 = 64 * MIB / SECTOR;
const BOOT_TYPE: &str = "21686148-6449-6e6f-744e-656564454649";
const ESP_TYPE: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const SWAP_TYPE: &str = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f";
/// The root partition of this architecture, which systemd finds by its type.
#[cfg(target_arch = "aarch64")]
const ROOT_TYPE: &str = "b921b045-1df0-41c3-af44-4c6f280d3fae";
#[cfg(not(target_arch = "aarch64"))]
const ROOT_TYPE: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
/// The disk of an image that says nothing: enough for a minimal system with room to work in.
const LEAST: u64 = 2 << 30;
/// What is added to the packages' own size: initramfs, logs, caches, the file system's own structures.
const ROOM: u64 = 512 << 20;

/// The name of the disk inside the manifest's pipelines when it is not itself exported.
pub(super) fn file(definition: &Definition) -> String {
    format!("{}.raw", definition.file_stem())
}

/// A partition.
struct Partition {
    role: Role,
    start: u64,
    sectors: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Boot,
    Esp,
    Swap,
    Root,
}

impl Partition {
    fn entry(&self, definition: &Definition) -> Value {
        let (kind, name, part) = match self.role {
            Role::Boot => (BOOT_TYPE, "boot", "boot partition"),
            Role::Esp => (ESP_TYPE, "esp", "EFI system partition"),
            Role::Swap => (SWAP_TYPE, "swap", "swap partition"),
            Role::Root => (ROOT_TYPE, "root", "root partition"),
        };
        let uuid = ids::uuid(definition, part);
        json!({ "start": self.start, "size": self.sectors, "type": kind, "uuid": uuid, "name": name })
    }

    /// The partition as the only device of a stage.
    fn device(&self, definition: &Definition, lock: bool) -> Value {
        let mut options = json!({ "filename": file(definition), "start": self.start, "size": self.sectors });
        if lock && let Some(options) = options.as_object_mut() {
            options.insert("lock".to_owned(), json!(true));
        }
        json!({ "device": { "type": "org.osbuild.loopback", "options": options } })
    }
}

/// The partitions before that of the root, and where that begins.
fn before_root(definition: &Definition) -> (Vec<Partition>, u64) {
    let swap = definition.kiln.swap_size.map(|size| size.div_ceil(MIB) * MIB / SECTOR);
    let wanted = [
        (Role::Boot, definition.kiln.boot.has_bios().then_some(BOOT)),
        (Role::Esp, definition.kiln.boot.has_uefi().then_some(ESP)),
        (Role::Swap, swap),
    ];
    let mut start = FIRST;
    let mut partitions = Vec::new();
    for (role, sectors) in wanted {
        if let Some(sectors) = sectors {
            partitions.push(Partition { role, start, sectors });
            start += sectors;
        }
    }
    (partitions, start)
}

/// The size of the disk in bytes: what was asked for, or what the packages need; always whole MiB.
fn size(definition: &Definition, image: &[Record], start: u64) -> u64 {
    let root = definition.customizations.root_size.as_ref().map(|size| size.value);
    let around = (start + FIRST) * SECTOR;
    let wanted = match (&definition.kiln.disk_size, root) {
        (Some(size), root) => size.value.max(root.map_or(0, |root| root.saturating_add(around))),
        (None, Some(root)) => root.saturating_add(around),
        (None, None) => {
            let swap = definition.kiln.swap_size.unwrap_or_default();
            (installed(image) * 3 / 2 + ROOM).max(LEAST).saturating_add(swap)
        }
    };
    wanted.div_ceil(MIB) * MIB
}

/// The stages that make the disk.
pub(super) fn stages(definition: &Definition, image: &[Record]) -> Vec<Value> {
    let file = file(definition);
    let (mut partitions, start) = before_root(definition);
    let size = size(definition, image, start);
    // The last MiB is the backup table's, so that the root partition too has whole MiB.
    let sectors = (size / SECTOR).saturating_sub(start + FIRST);
    partitions.push(Partition { role: Role::Root, start, sectors });
    let entries: Vec<Value> = partitions.iter().map(|partition| partition.entry(definition)).collect();
    let mut stages = vec![
        stage("org.osbuild.truncate", json!({ "filename": file, "size": size.to_string() })),
        json!({
            "type": "org.osbuild.sfdisk",
            "options": { "label": "gpt", "uuid": ids::uuid(definition, "disk"), "partitions": entries },
            "devices": {
                "device": { "type": "org.osbuild.loopback", "options": { "filename": file, "lock": true } },
            },
        }),
    ];
    for (index, partition) in partitions.iter().enumerate() {
        match partition.role {
            Role::Boot => {}
            Role::Esp => stages.push(json!({
                "type": "org.kiln.fat",
                "inputs": { "tree": tree_of("esp") },
                "options": { "volid": ids::serial(definition), "label": "ESP" },
                "devices": partition.device(definition, true),
            })),
            Role::Swap => stages.push(json!({
                "type": "org.osbuild.mkswap",
                "options": { "uuid": ids::uuid(definition, "swap space") },
                "devices": partition.device(definition, true),
            })),
            Role::Root => stages.extend(root(definition, partition, index)),
        }
    }
    stages
}

/// The stages that make and fill the root file system, and write the boot loader that finds it as the partition of
/// that number.
fn root(definition: &Definition, partition: &Partition, number: usize) -> Vec<Value> {
    let kind = definition.kiln.root.name();
    let mut mkfs = json!({ "uuid": ids::root(definition) });
    if let Some(options) = mkfs.as_object_mut() {
        if let Some(label) = &definition.customizations.root_label {
            options.insert("label".to_owned(), json!(label.value));
        }
        if definition.kiln.root == FileSystem::Ext4 {
            // GRUB reads neither in the versions that the releases have.
            options.insert("metadata_csum_seed".to_owned(), json!(false));
            options.insert("orphan_file".to_owned(), json!(false));
        }
    }
    let mut stages = vec![
        json!({
            "type": format!("org.osbuild.mkfs.{kind}"),
            "options": mkfs,
            "devices": partition.device(definition, true),
        }),
        json!({
            "type": "org.osbuild.copy",
            "inputs": { "tree": tree_of("tree") },
            "options": { "paths": [{ "from": "input://tree/", "to": "mount://root/" }] },
            "devices": partition.device(definition, false),
            "mounts": [
                { "name": "root", "type": format!("org.osbuild.{kind}"), "source": "device", "target": "/" },
            ],
        }),
    ];
    if definition.kiln.boot.has_bios() {
        stages.push(stage(
            "org.osbuild.grub2.inst",
            json!({
                "filename": file(definition),
                "platform": "i386-pc",
                "location": FIRST,
                "core": { "type": "mkimage", "partlabel": "gpt", "filesystem": kind, "binary": "grub-mkimage" },
                // Partitions count from zero here.
                "prefix": { "type": "partition", "partlabel": "gpt", "number": number, "path": "/boot/grub" },
            }),
        ));
    }
    stages
}

/// The stage that converts the disk.
pub(super) fn converted(definition: &Definition, output: Output, filename: &str) -> Value {
    let mut format = json!({ "type": output.name() });
    if output == Output::Vmdk
        && let Some(format) = format.as_object_mut()
    {
        format.insert("subformat".to_owned(), json!("streamOptimized"));
    }
    json!({
        "type": "org.osbuild.qemu",
        "inputs": {
            "image": {
                "type": "org.osbuild.files",
                "origin": "org.osbuild.pipeline",
                "references": { "name:image": { "file": file(definition) } },
            },
        },
        "options": { "filename": filename, "format": format },
    })
}
