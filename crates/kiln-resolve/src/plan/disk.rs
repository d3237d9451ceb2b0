//! The disk: a GUID partition table, a BIOS boot partition, and one partition with the root file system.
//!
//! ```text
//! sector 0       boot code, protective table
//!        2048    BIOS boot partition, 1 MiB: GRUB's core
//!        4096    root, up to the backup table in the last 33 sectors, ending on a whole MiB
//! ```

use serde_json::{Value, json};

use super::{ids, stage, tree_of};
use crate::apt::Record;
use crate::definition::{Definition, FileSystem};
use crate::resolve::installed;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Where partitions begin: a multiple of every block size in use.
const FIRST: u64 = MIB / SECTOR;
/// GRUB's core has some tens of kilobytes; a whole MiB keeps what follows aligned.
const BOOT: u64 = MIB / SECTOR;
const ROOT: u64 = FIRST + BOOT;
const BOOT_TYPE: &str = "21686148-6449-6e6f-744e-656564454649";
/// The root partition of x86-64, which systemd finds by its type.
const ROOT_TYPE: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
/// The disk of an image that says nothing: enough for a minimal system with room to work in.
const LEAST: u64 = 2 << 30;
/// What is added to the packages' own size: initramfs, logs, caches, the file system's own structures.
const ROOM: u64 = 512 << 20;
/// The name of the disk inside the manifest's pipelines when it is not itself exported.
pub(super) fn file(definition: &Definition) -> String {
    format!("{}.raw", definition.file_stem())
}

/// The size of the disk in bytes: what was asked for, or what the packages need; always whole MiB.
fn size(definition: &Definition, image: &[Record]) -> u64 {
    let root = definition.customizations.root_size.as_ref().map(|size| size.value);
    let around = (ROOT + FIRST) * SECTOR;
    let wanted = match (&definition.kiln.disk_size, root) {
        (Some(size), root) => size.value.max(root.map_or(0, |root| root.saturating_add(around))),
        (None, Some(root)) => root.saturating_add(around),
        (None, None) => (installed(image) * 3 / 2 + ROOM).max(LEAST),
    };
    wanted.div_ceil(MIB) * MIB
}

/// The stages that make the disk.
pub(super) fn stages(definition: &Definition, image: &[Record]) -> Vec<Value> {
    let file = file(definition);
    let size = size(definition, image);
    // The last MiB is the backup table's, so that the root partition too has whole MiB.
    let root_sectors = (size / SECTOR).saturating_sub(ROOT + FIRST);
    let kind = definition.kiln.root.name();
    let device = |lock: bool| {
        let mut options = json!({ "filename": file, "start": ROOT, "size": root_sectors });
        if lock && let Some(options) = options.as_object_mut() {
            options.insert("lock".to_owned(), json!(true));
        }
        json!({ "device": { "type": "org.osbuild.loopback", "options": options } })
    };
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
    vec![
        stage("org.osbuild.truncate", json!({ "filename": file, "size": size.to_string() })),
        json!({
            "type": "org.osbuild.sfdisk",
            "options": {
                "label": "gpt",
                "uuid": ids::uuid(definition, "disk"),
                "partitions": [
                    {
                        "start": FIRST, "size": BOOT, "type": BOOT_TYPE,
                        "uuid": ids::uuid(definition, "boot partition"), "name": "boot",
                    },
                    {
                        "start": ROOT, "size": root_sectors, "type": ROOT_TYPE,
                        "uuid": ids::uuid(definition, "root partition"), "name": "root",
                    },
                ],
            },
            "devices": {
                "device": { "type": "org.osbuild.loopback", "options": { "filename": file, "lock": true } },
            },
        }),
        json!({ "type": format!("org.osbuild.mkfs.{kind}"), "options": mkfs, "devices": device(true) }),
        json!({
            "type": "org.osbuild.copy",
            "inputs": { "tree": tree_of("tree") },
            "options": { "paths": [{ "from": "input://tree/", "to": "mount://root/" }] },
            "devices": device(false),
            "mounts": [
                { "name": "root", "type": format!("org.osbuild.{kind}"), "source": "device", "target": "/" },
            ],
        }),
        stage(
            "org.osbuild.grub2.inst",
            json!({
                "filename": file,
                "platform": "i386-pc",
                "location": FIRST,
                "core": { "type": "mkimage", "partlabel": "gpt", "filesystem": kind, "binary": "grub-mkimage" },
                // Partitions count from zero here: the second is the root.
                "prefix": { "type": "partition", "partlabel": "gpt", "number": 1, "path": "/boot/grub" },
            }),
        ),
    ]
}

/// The stage that converts the disk.
pub(super) fn qcow2(definition: &Definition, filename: &str) -> Value {
    json!({
        "type": "org.osbuild.qemu",
        "inputs": {
            "image": {
                "type": "org.osbuild.files",
                "origin": "org.osbuild.pipeline",
                "references": { "name:image": { "file": file(definition) } },
            },
        },
        "options": { "filename": filename, "format": { "type": "qcow2" } },
    })
}
