//! The disk: a partition table, what the [`layout`] says is in the partitions, and the boot loader.
//!
//! No kernel has to know FAT: `org.kiln.fat` fills the EFI system partition. What is encrypted or in a volume group needs
//! one with the device mapper.

use serde_json::{Map, Value, json};

use super::layout::{self, Home, Mount, Part, Payload, Placed, Swap};
use super::{ids, stage, tree_of};
use crate::apt::Record;
use crate::definition::{Content, Definition, FileSystem, LONGEST_NAME, Output, PartitionTable, Space};

const SECTOR: u64 = 512;
const BOOT_CODE_TYPE: &str = "21686148-6449-6e6f-744e-656564454649";
const ESP_TYPE: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const SWAP_TYPE: &str = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f";
const BOOT_TYPE: &str = "bc13c2ff-59e6-4262-a352-b275fd6f7172";
const LUKS_TYPE: &str = "ca7d7ccb-63ed-4c53-861c-1742536059cc";
const GROUP_TYPE: &str = "e6d6d379-f507-44c2-a23c-238f2a3df928";
const FILE_SYSTEM_TYPE: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
/// The root partition of this architecture, which systemd finds by its type.
#[cfg(target_arch = "aarch64")]
const ROOT_TYPE: &str = "b921b045-1df0-41c3-af44-4c6f280d3fae";
#[cfg(not(target_arch = "aarch64"))]
const ROOT_TYPE: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";

/// The name of the disk inside the manifest's pipelines when it is not itself exported.
pub(super) fn file(definition: &Definition) -> String {
    format!("{}.raw", definition.file_stem())
}

/// What makes the disk of a definition.
struct Maker<'a> {
    definition: &'a Definition,
    partitions: &'a [Placed],
}

/// The stages that make the disk.
pub(super) fn stages(definition: &Definition, image: &[Record], source_epoch: u64) -> Vec<Value> {
    let file = file(definition);
    let (partitions, size) = layout::place(definition, image);
    let parts = layout::parts(definition);
    let mounts = layout::mounts(definition, &parts);
    let swaps = layout::swaps(definition, &parts);
    let maker = Maker { definition, partitions: &partitions };
    let table = layout::table(definition);
    let (uuid, entries): (_, Vec<Value>) = match table {
        PartitionTable::Gpt => {
            (ids::uuid(definition, "disk"), partitions.iter().map(|placed| maker.gpt_entry(placed)).collect())
        }
        PartitionTable::Dos => {
            (ids::dos(definition), partitions.iter().map(|placed| maker.dos_entry(placed)).collect())
        }
    };
    let mut stages = vec![
        stage("org.osbuild.truncate", json!({ "filename": file, "size": size.to_string() })),
        json!({
            "type": "org.osbuild.sfdisk",
            "options": { "label": table.name(), "uuid": uuid, "partitions": entries },
            "devices": {
                "device": { "type": "org.osbuild.loopback", "options": { "filename": file, "lock": true } },
            },
        }),
    ];
    for placed in &partitions {
        stages.extend(maker.containers(placed));
        let here = |home: &Home| home.part == placed.part.number;
        stages.extend(swaps.iter().filter(|swap| here(&swap.home)).map(|swap| maker.swap(swap)));
        let subvolumes: Vec<&Mount> =
            mounts.iter().filter(|mount| here(&mount.home) && mount.subvolume.is_some()).collect();
        if let Some(first) = subvolumes.first() {
            stages.push(maker.file_system(first));
            stages.push(maker.subvolumes(first, &subvolumes));
        }
        let plain = mounts.iter().filter(|mount| here(&mount.home) && mount.subvolume.is_none());
        stages.extend(plain.map(|mount| maker.file_system(mount)));
    }
    stages.push(maker.copy(&mounts));
    stages.extend(partitions.iter().filter_map(|placed| maker.rename(placed, source_epoch)));
    if definition.kiln.boot.has_bios() {
        stages.extend(grub(definition));
    }
    stages
}

impl Maker<'_> {
    /// The partition in the table of PCs of old.
    fn dos_entry(&self, Placed { part, start, size }: &Placed) -> Value {
        let kind = match &part.payload {
            Payload::System(_) if part.encrypted => "e8",
            Payload::System(Content::Plain(Space::Swap { .. })) => "82",
            Payload::System(Content::Group { .. }) => "8e",
            _ => "83",
        };
        let kind = part.entry.kind.as_deref().unwrap_or(kind);
        let mut entry = json!({ "start": start / SECTOR, "size": size / SECTOR, "type": kind });
        if layout::grub(self.definition).is_some_and(|grub| grub.part == part.number) {
            // Some firmware starts no disk without a partition that is marked.
            entry["bootable"] = json!(true);
        }
        entry
    }

    /// The partition in the GUID partition table.
    fn gpt_entry(&self, Placed { part, start, size }: &Placed) -> Value {
        let points = match &part.payload {
            Payload::System(content) => content.mountpoints(),
            _ => Vec::new(),
        };
        let root = points.contains(&"/");
        let first =
            points.first().map_or(String::new(), |point| point.trim_start_matches('/').replace('/', "-"));
        let (kind, name) = match &part.payload {
            Payload::BootCode => (BOOT_CODE_TYPE, "boot".to_owned()),
            Payload::Esp => (ESP_TYPE, "esp".to_owned()),
            Payload::System(Content::Plain(Space::Swap { .. })) => (SWAP_TYPE, "swap".to_owned()),
            Payload::System(_) if part.encrypted => (LUKS_TYPE, "root".to_owned()),
            Payload::System(Content::Group { name, .. }) => (GROUP_TYPE, name.clone()),
            Payload::System(_) if root => (ROOT_TYPE, "root".to_owned()),
            // The BIOS boot partition has that name.
            Payload::System(_) if points == ["/boot"] => (BOOT_TYPE, "kernels".to_owned()),
            Payload::System(_) => (FILE_SYSTEM_TYPE, first),
        };
        let what = match &part.payload {
            Payload::BootCode => "boot partition".to_owned(),
            Payload::Esp => "EFI system partition".to_owned(),
            Payload::System(_) if root => "root partition".to_owned(),
            Payload::System(Content::Plain(Space::Swap { .. })) if self.is_first_swap(part) => {
                "swap partition".to_owned()
            }
            Payload::System(_) => format!("partition {}", part.number),
        };
        // Names that are longer than the table has room for come from mount points.
        let usual = || name.chars().take(LONGEST_NAME).collect();
        let kind = part.entry.kind.as_deref().unwrap_or(kind);
        let name: String = part.entry.name.clone().unwrap_or_else(usual);
        let uuid = part.entry.uuid.clone().unwrap_or_else(|| ids::uuid(self.definition, &what));
        json!({ "start": start / SECTOR, "size": size / SECTOR, "type": kind, "uuid": uuid, "name": name })
    }

    fn is_first_swap(&self, part: &Part) -> bool {
        let swap = |placed: &&Placed| {
            matches!(placed.part.payload, Payload::System(Content::Plain(Space::Swap { .. })))
        };
        self.partitions.iter().find(swap).is_some_and(|first| first.part.number == part.number)
    }

    fn loopback(&self, placed: &Placed, lock: bool) -> Value {
        let (start, size) = (placed.start / SECTOR, placed.size / SECTOR);
        let mut options = json!({ "filename": file(self.definition), "start": start, "size": size });
        if lock {
            options["lock"] = json!(true);
        }
        json!({ "type": "org.osbuild.loopback", "options": options })
    }

    /// Adds the device of a partition, or of a volume on it, under this name, and those that it stands on.
    fn device(&self, home: &Home, name: &str, lock: bool, devices: &mut Map<String, Value>) {
        let Some(placed) = self.partitions.get(home.part - 1) else { return };
        let part = &placed.part;
        let mut names = vec![format!("disk{}", home.part)];
        names.extend(part.encrypted.then(|| format!("luks{}", home.part)));
        names.extend(home.volume.as_ref().map(|volume| format!("volume-{volume}")));
        if let Some(last) = names.last_mut() {
            *last = name.to_owned();
        }
        let mut names = names.into_iter();
        let mut parent = names.next().unwrap_or_default();
        devices.insert(parent.clone(), self.loopback(placed, lock && parent == name));
        let passphrase = self.definition.kiln.encryption.as_ref().filter(|_| part.encrypted);
        let luks = passphrase
            .map(|encryption| ("org.osbuild.luks2", json!({ "passphrase": encryption.passphrase })));
        let volume = home.volume.as_ref().map(|volume| ("org.osbuild.lvm2.lv", json!({ "volume": volume })));
        for (name, (kind, options)) in names.zip(luks.into_iter().chain(volume)) {
            let device = json!({ "type": kind, "parent": parent, "options": options });
            devices.insert(name.clone(), device);
            parent = name;
        }
    }

    /// The same as the only device of a stage.
    fn only(&self, home: &Home) -> Value {
        let mut devices = Map::new();
        self.device(home, "device", true, &mut devices);
        Value::Object(devices)
    }

    /// The stages that make an EFI system partition, a LUKS container and a volume group.
    fn containers(&self, placed: &Placed) -> Vec<Value> {
        let part = &placed.part;
        let whole = Home { part: part.number, volume: None };
        let mut stages = Vec::new();
        if matches!(part.payload, Payload::Esp) {
            stages.push(json!({
                "type": "org.kiln.fat",
                "inputs": { "tree": tree_of("esp") },
                "options": { "volid": ids::serial(self.definition), "label": "ESP" },
                "devices": self.only(&whole),
            }));
        }
        if let Some(encryption) = self.definition.kiln.encryption.as_ref().filter(|_| part.encrypted) {
            stages.push(json!({
                "type": "org.osbuild.luks2.format",
                "options": {
                    "passphrase": encryption.passphrase,
                    "uuid": layout::luks_uuid(self.definition),
                    "label": "root",
                    // What RFC 9106 (4) recommends where memory is scarce: small machines have to start, too.
                    "pbkdf": { "method": "argon2id", "memory": 65536, "iterations": 4, "parallelism": 4 },
                },
                "devices": { "device": self.loopback(placed, true) },
            }));
        }
        if let Payload::System(Content::Group { volumes, .. }) = &part.payload {
            let sizes = part.extents(placed.size);
            let volumes: Vec<Value> = volumes
                .iter()
                .zip(sizes)
                .map(|(volume, extents)| json!({ "name": volume.name, "extents": extents.to_string() }))
                .collect();
            stages.push(json!({
                "type": "org.osbuild.lvm2.create",
                "options": { "volumes": volumes },
                "devices": self.only(&whole),
            }));
        }
        stages
    }

    fn swap(&self, swap: &Swap) -> Value {
        let mut options = json!({ "uuid": swap.uuid });
        if let Some(label) = &swap.label {
            options["label"] = json!(label);
        }
        json!({ "type": "org.osbuild.mkswap", "options": options, "devices": self.only(&swap.home) })
    }

    fn file_system(&self, mount: &Mount) -> Value {
        let mut options = json!({ "uuid": mount.uuid });
        if let Some(label) = &mount.label {
            options["label"] = json!(label);
        }
        if mount.kind == FileSystem::Ext4 {
            // GRUB reads neither in the versions that the releases have.
            options["metadata_csum_seed"] = json!(false);
            options["orphan_file"] = json!(false);
        }
        json!({
            "type": format!("org.osbuild.mkfs.{}", mount.kind.name()),
            "options": options,
            "devices": self.only(&mount.home),
        })
    }

    /// The stage that makes the subvolumes of a file system, those first that others are in.
    fn subvolumes(&self, first: &Mount, all: &[&Mount]) -> Value {
        let mut names: Vec<&str> = all.iter().filter_map(|mount| mount.subvolume.as_deref()).collect();
        names.sort_unstable();
        let subvolumes: Vec<Value> = names.iter().map(|name| json!({ "name": format!("/{name}") })).collect();
        let mut devices = Map::new();
        self.device(&first.home, "device", false, &mut devices);
        json!({
            "type": "org.osbuild.btrfs.subvol",
            "options": { "subvolumes": subvolumes },
            "devices": devices,
            "mounts": [{ "name": "volume", "type": "org.osbuild.btrfs", "source": "device", "target": "/" }],
        })
    }

    /// The stage that copies the tree into the file systems.
    fn copy(&self, mounts: &[Mount]) -> Value {
        let mut devices = Map::new();
        let mut mounted = Vec::new();
        for (index, mount) in mounts.iter().enumerate() {
            let device = match &mount.home {
                home if mounts.iter().all(|other| other.home == *home) => "device".to_owned(),
                Home { part, volume: None } => format!("partition{part}"),
                Home { volume: Some(volume), .. } => format!("volume-{volume}"),
            };
            self.device(&mount.home, &device, false, &mut devices);
            let name = if mount.mountpoint == "/" { "root".to_owned() } else { format!("mount{index}") };
            let mut mounting = json!({
                "name": name,
                "type": format!("org.osbuild.{}", mount.kind.name()),
                "source": device,
                "target": mount.mountpoint,
            });
            if let Some(subvolume) = &mount.subvolume {
                mounting["options"] = json!({ "subvol": subvolume });
            }
            mounted.push(mounting);
        }
        json!({
            "type": "org.osbuild.copy",
            "inputs": { "tree": tree_of("tree") },
            "options": { "paths": [{ "from": "input://tree/", "to": "mount://root/" }] },
            "devices": devices,
            "mounts": mounted,
        })
    }

    /// The stage that gives a volume group its name: while it is in use here, it has a random one.
    fn rename(&self, placed: &Placed, source_epoch: u64) -> Option<Value> {
        let Payload::System(Content::Group { name, .. }) = &placed.part.payload else { return None };
        let whole = Home { part: placed.part.number, volume: None };
        let options = json!({
            "vg_name": name,
            "creation_host": "localhost",
            "creation_time": source_epoch.to_string(),
            "description": "Made by Kiln",
        });
        let devices = self.only(&whole);
        Some(json!({ "type": "org.osbuild.lvm2.metadata", "options": options, "devices": devices }))
    }
}

/// The stage that installs GRUB for machines without UEFI.
fn grub(definition: &Definition) -> Option<Value> {
    let grub = layout::grub(definition)?;
    let table = layout::table(definition);
    let location = match table {
        // The BIOS boot partition.
        PartitionTable::Gpt => layout::MIB / SECTOR,
        // What is between the table and the first partition.
        PartitionTable::Dos => 1,
    };
    Some(stage(
        "org.osbuild.grub2.inst",
        json!({
            "filename": file(definition),
            "platform": "i386-pc",
            "location": location,
            "core": {
                "type": "mkimage",
                "partlabel": table.name(),
                "filesystem": grub.kind.name(),
                "binary": "grub-mkimage",
            },
            "prefix": {
                "type": "partition",
                "partlabel": table.name(),
                // Partitions count from zero here.
                "number": grub.part - 1,
                "path": grub.directory(),
            },
        }),
    ))
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
