//! The partition table: written by `sfdisk`, and read again, as `sfdisk` chooses what was left out.

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::stage::{DeviceArgument, Stage, StageContext};
use kiln_sys::command::Run;
use serde_json::{Map, Value, json};

use super::{FileSystem, Options, Partition, parsed, with};
use crate::stages::disks::Sfdisk;

/// The size of a sector, whatever the disk is said to have: `sfdisk` takes files for disks with such.
pub(super) const SECTOR: u64 = 512;

/// The types of partitions that firmware or GRUB start from.
const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
const PREP_GPT: &str = "9E1A2D38-C612-4316-AA26-8B49521E5A8B";
const PREP_MBR: &str = "41";

/// The platform whose firmware loads GRUB from a partition of its own.
const OPEN_FIRMWARE: &str = "powerpc-ieee1275";

/// A table as it is on the disk.
pub(super) struct Table {
    is_gpt: bool,
    partitions: Vec<Placed>,
}

/// A partition, and where it is.
pub(super) struct Placed {
    kind: String,
    start: u64,
    size: u64,
    filesystem: Option<FileSystem>,
}

/// Where something is to be: the first sector, and how many bytes there are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) start: u64,
    pub(super) size: u64,
}

impl Placed {
    /// Where the partition is on the disk, in bytes: offset and size.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.start * SECTOR, self.size * SECTOR)
    }
}

impl Table {
    /// Writes the table to an image.
    pub(super) fn write(
        image: &Path,
        options: &Options,
        partitions: Vec<Partition>,
        context: &StageContext,
    ) -> Result<Self, ModuleError> {
        let is_gpt = options.is_gpt();
        let label = if is_gpt { "gpt" } else { "dos" };
        let described: Vec<_> = partitions.iter().map(describe).collect();
        let mut context = with(context, |arguments| {
            let device = DeviceArgument { path: image.to_owned(), data: Map::new() };
            arguments.devices.insert("device".to_owned(), device);
        });
        let table = json!({"uuid": options.ptuuid, "label": label, "partitions": described});
        Sfdisk::run(parsed(table)?, &mut context)?;
        let told = Run::new("sfdisk").arg("--json").arg(image).output()?;
        let told: Value = serde_json::from_slice(&told).unwrap_or_default();
        let told = told.pointer("/partitiontable/partitions").and_then(Value::as_array);
        let placed = partitions.into_iter().zip(told.into_iter().flatten()).map(|(partition, told)| {
            let number = |name: &str| told.get(name).and_then(Value::as_u64).unwrap_or_default();
            let kind = told.get("type").and_then(Value::as_str).unwrap_or_default().to_uppercase();
            Placed { kind, start: number("start"), size: number("size"), filesystem: partition.filesystem }
        });
        Ok(Self { is_gpt, partitions: placed.collect() })
    }

    /// The name of its kind.
    pub(super) const fn label(&self) -> &'static str {
        if self.is_gpt { "gpt" } else { "dos" }
    }

    /// The partitions with file systems, in the order in which they can be mounted.
    pub(super) fn file_systems(&self) -> Vec<(&Placed, &FileSystem)> {
        let found = self.partitions.iter();
        let found = found.filter_map(|partition| Some((partition, partition.filesystem.as_ref()?)));
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|(_, file_system)| file_system.mountpoint.len());
        found
    }

    /// The number of the partition with `/boot`, from zero, and its file system.
    pub(super) fn boot(&self) -> Result<(usize, &FileSystem), ModuleError> {
        let mounted_at = |path: &str| {
            let mut all = self.partitions.iter().enumerate();
            all.find_map(|(number, partition)| {
                let file_system = partition.filesystem.as_ref().filter(|found| found.mountpoint == path);
                Some((number, file_system?))
            })
        };
        mounted_at("/boot").or_else(|| mounted_at("/")).ok_or_else(|| {
            ModuleError::option("partitions", "the boot loader needs one that is mounted at `/boot` or `/`")
        })
    }

    /// The first sector of a partition.
    pub(super) fn start(&self, number: usize) -> u64 {
        self.partitions.get(number).map_or(0, |partition| partition.start)
    }

    /// Where GRUB's core image goes.
    pub(super) fn place_of_grub(&self, platform: &str) -> Result<Place, ModuleError> {
        let of_kind = |kind: &str, name: &str| {
            let found = self.partitions.iter().find(|partition| partition.kind == kind);
            let missing = || ModuleError::option("partitions", format!("GRUB needs a {name} (type {kind})"));
            found.ok_or_else(missing).map(|found| Place { start: found.start, size: found.size * SECTOR })
        };
        if platform == OPEN_FIRMWARE {
            return of_kind(if self.is_gpt { PREP_GPT } else { PREP_MBR }, "PReP partition");
        }
        if self.is_gpt {
            return of_kind(BIOS_BOOT, "BIOS boot partition");
        }
        // After the table, which has the first sector.
        let end = self.partitions.iter().map(|partition| partition.start).min().unwrap_or(1);
        Ok(Place { start: 1, size: end.saturating_sub(1) * SECTOR })
    }
}

/// A partition as the stage that writes tables takes it.
fn describe(partition: &Partition) -> Value {
    let Partition { bootable, name, size, start, r#type, uuid, .. } = partition;
    let members = [
        ("bootable", bootable.map(Value::from)),
        ("name", name.clone().map(Value::from)),
        ("size", size.map(Value::from)),
        ("start", start.map(Value::from)),
        ("type", r#type.clone().map(Value::from)),
        ("uuid", uuid.clone().map(Value::from)),
    ];
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
