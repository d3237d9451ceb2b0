//! `org.osbuild.qemu`
//!
//! ```text
//! the image         as long as asked for, with the partition table
//! GRUB              before the first partition, or in one of its own
//! file systems      one after the other, each on a loop device, and mounted below the one before
//! the tree          copied to where they are mounted
//! zipl              on the disk
//! the result        the image, or what it is converted to
//! ```

mod file_systems;
mod table;

use std::fs::File;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::stage::{InputArgument, Stage, StageArguments, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use self::file_systems::Mounted;
use self::table::Table;
use crate::stages::disks::{Qemu as Convert, VmdkSubformat, Xz};
use crate::stages::grub2_inst;
use crate::support::root::Root;

/// Where the image is while it is none of the result; as large as a disk.
const SCRATCH: &str = "/var/tmp";
/// The name of the image there.
const RAW: &str = "image.raw";
/// The platform of machines with BIOS.
const BIOS: &str = "i386-pc";

/// Makes a disk image of the tree, with partitions, file systems and a boot loader.
///
/// Without `partitions`, the disk has one, with the root file system. GRUB is installed if the table is an MBR, or if
/// `bootloader` says so: in the gap before the first partition of an MBR, in the BIOS boot partition of a GPT, or in a
/// PReP partition. The tools are those of the build root: `sfdisk`, `mkfs.*`, `grub2-mkimage` (or `grub-mkimage`),
/// `qemu-img`. The tree goes where the file systems are mounted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["root_fs_uuid"]}, {"required": ["pttype", "partitions"]}]))]
pub(crate) struct Options {
    /// The boot loader.
    #[serde(default)]
    bootloader: BootLoader,
    /// Format of the image.
    format: Format,
    /// The version of qcow2, as `0.10` or `1.1`.
    qcow2_compat: Option<String>,
    /// The layout of an image for VMware.
    vmdk_subformat: Option<VmdkSubformat>,
    /// Name of the image.
    filename: String,
    /// The partitions in the order of the table.
    partitions: Option<Vec<Partition>>,
    /// UUID of the partition table (GPT), or its 32-bit identifier, as `0x1234abcd` (MBR).
    ptuuid: String,
    /// Type of the partition table; `mbr` is another name of `dos`.
    pttype: Option<TableType>,
    /// UUID of the root file system, if it has the only partition.
    root_fs_uuid: Option<String>,
    /// Size of the disk in bytes, a multiple of 512.
    size: i64,
    /// The kind of the root file system, if it has the only partition.
    root_fs_type: Option<RootFileSystem>,
}

#[derive(Default, Deserialize, JsonSchema)]
struct BootLoader {
    /// Which one.
    r#type: Option<BootLoaderType>,
    /// GRUB's name of the platform; `i386-pc` if nothing is said.
    #[schemars(skip)]
    platform: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum BootLoaderType {
    Grub2,
    Zipl,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum Format {
    #[serde(rename = "raw")]
    Raw,
    #[serde(rename = "raw.xz")]
    RawXz,
    #[serde(rename = "qcow2")]
    Qcow2,
    #[serde(rename = "vdi")]
    Vdi,
    #[serde(rename = "vmdk")]
    Vmdk,
    #[serde(rename = "vpc")]
    Vpc,
    #[serde(rename = "vhdx")]
    Vhdx,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum TableType {
    Mbr,
    #[default]
    Dos,
    Gpt,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RootFileSystem {
    #[default]
    Ext4,
    Xfs,
    Btrfs,
}

/// A partition.
#[derive(Deserialize, JsonSchema)]
struct Partition {
    /// Whether the partition is marked as bootable (MBR).
    bootable: Option<bool>,
    /// Name (GPT).
    name: Option<String>,
    /// Size in sectors of 512 bytes; what is left if nothing is said.
    size: Option<i64>,
    /// First sector; after the partition before if nothing is said.
    start: Option<i64>,
    /// Type: a UUID (GPT), a hexadecimal number (MBR), or an alias that `sfdisk` knows.
    r#type: Option<String>,
    /// UUID (GPT).
    uuid: Option<String>,
    /// What is made in the partition.
    filesystem: Option<FileSystem>,
}

#[derive(Deserialize, JsonSchema)]
struct FileSystem {
    /// Label of the file system.
    label: Option<String>,
    /// Where it is mounted.
    mountpoint: String,
    /// Its kind.
    r#type: FileSystemType,
    /// UUID of the file system; for FAT, the serial number of the volume.
    uuid: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FileSystemType {
    Ext4,
    Xfs,
    Vfat,
    Btrfs,
}

impl From<RootFileSystem> for FileSystemType {
    fn from(kind: RootFileSystem) -> Self {
        match kind {
            RootFileSystem::Ext4 => Self::Ext4,
            RootFileSystem::Xfs => Self::Xfs,
            RootFileSystem::Btrfs => Self::Btrfs,
        }
    }
}

impl FileSystemType {
    /// The kernel's name, which is also that of GRUB's core image.
    const fn kind(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Vfat => "vfat",
            Self::Btrfs => "btrfs",
        }
    }
}

impl Options {
    fn is_gpt(&self) -> bool {
        self.pttype.unwrap_or_default() == TableType::Gpt
    }

    /// The boot loader, if there is one: disks with an MBR have GRUB if nothing else is said.
    fn boot_loader(&self) -> Option<BootLoaderType> {
        self.bootloader.r#type.or_else(|| (!self.is_gpt()).then_some(BootLoaderType::Grub2))
    }

    /// The partitions, of which there is one if they are not told.
    fn take_partitions(&mut self) -> Vec<Partition> {
        self.partitions.take().unwrap_or_else(|| {
            let filesystem = FileSystem {
                label: None,
                mountpoint: "/".to_owned(),
                r#type: self.root_fs_type.unwrap_or_default().into(),
                uuid: self.root_fs_uuid.clone().unwrap_or_default(),
            };
            vec![Partition {
                bootable: Some(true),
                name: None,
                size: None,
                start: None,
                r#type: Some("83".to_owned()),
                uuid: None,
                filesystem: Some(filesystem),
            }]
        })
    }

    fn size(&self) -> Result<u64, ModuleError> {
        let size = u64::try_from(self.size).ok().filter(|size| size % table::SECTOR == 0);
        size.ok_or_else(|| {
            ModuleError::option("size", format!("`{}` is no multiple of {}", self.size, table::SECTOR))
        })
    }

    /// What the stage that converts images is told; nothing if the image is not converted by it.
    fn conversion(&self) -> Option<Value> {
        let compat = self.qcow2_compat.as_deref().filter(|compat| !compat.is_empty());
        let format = match self.format {
            Format::Raw | Format::RawXz => return None,
            Format::Qcow2 => {
                compat.map_or(json!({"type": "qcow2"}), |compat| json!({"type": "qcow2", "compat": compat}))
            }
            Format::Vdi => json!({"type": "vdi"}),
            Format::Vmdk => self.vmdk_subformat.map_or(
                json!({"type": "vmdk"}),
                |subformat| json!({"type": "vmdk", "subformat": subformat.name()}),
            ),
            Format::Vpc => json!({"type": "vpc"}),
            Format::Vhdx => json!({"type": "vhdx"}),
        };
        Some(json!({"filename": self.filename, "format": format}))
    }
}

pub(crate) struct Qemu;

impl Stage for Qemu {
    const NAME: &'static str = "org.osbuild.qemu";
    type Options = Options;

    fn run(mut options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let size = options.size()?;
        let result = Root::open(context.tree())?.resolve_parent(&options.filename)?;
        // A build root that no runner has prepared may lack it.
        std::fs::create_dir_all(SCRATCH).map_err(ModuleError::io("create directory", SCRATCH))?;
        let scratch = tempfile::Builder::new().prefix("osbuild-image-").tempdir_in(SCRATCH);
        let scratch = scratch.map_err(ModuleError::io("create a directory in", SCRATCH))?;
        let image = match options.format {
            // It is the result as it is.
            Format::Raw => result,
            _ => scratch.path().join(RAW),
        };
        File::create(&image)
            .and_then(|file| file.set_len(size))
            .map_err(ModuleError::io("create", &image))?;
        let partitions = options.take_partitions();
        let table = Table::write(&image, &options, partitions, context)?;
        let boot_loader = options.boot_loader();
        if boot_loader == Some(BootLoaderType::Grub2) {
            let platform = options.bootloader.platform.as_deref().unwrap_or(BIOS);
            install_grub(&image, &table, platform, context)?;
        }
        let tree = super::source(context)?.to_owned();
        let mut mounted = Mounted::new(&image, &context.arguments.paths.devices)?;
        let filled = mounted.fill(&table, &tree, context).and_then(|()| match boot_loader {
            Some(BootLoaderType::Zipl) => mounted.install_zipl(&table),
            _ => Ok(()),
        });
        // Whatever failed first is told; all of it is taken away.
        let closed = mounted.close();
        filled.and(closed)?;
        convert(&options, scratch.path(), context)
    }
}

/// Installs GRUB where the table has room for it.
fn install_grub(
    image: &Path,
    table: &Table,
    platform: &str,
    context: &StageContext,
) -> Result<(), ModuleError> {
    let (number, boot) = table.boot()?;
    let place = table.place_of_grub(platform)?;
    let filesystem = match boot.r#type {
        FileSystemType::Vfat => {
            return Err(ModuleError::option(
                "partitions",
                "GRUB's modules must be on ext4, xfs or btrfs, not on vfat",
            ));
        }
        kind => kind.kind(),
    };
    let (directory, name) = parts(image)?;
    let path = if boot.mountpoint == "/boot" { "/grub2" } else { "/boot/grub2" };
    let label = table.label();
    let options = json!({
        "filename": name,
        "platform": platform,
        "location": place.start,
        "core": {"type": "mkimage", "partlabel": label, "filesystem": filesystem},
        "prefix": {"type": "partition", "partlabel": label, "number": number, "path": path},
    });
    let mut context = with(context, |arguments| arguments.tree = directory.to_owned());
    grub2_inst::run(&parsed(options)?, Some(place.size), &mut context)
}

/// Makes the result of the image in the directory.
fn convert(options: &Options, directory: &Path, context: &StageContext) -> Result<(), ModuleError> {
    let input = |name: &str| {
        let data = json!({"files": {RAW: {}}});
        let input = InputArgument { path: directory.to_owned(), data };
        with(context, |arguments| {
            arguments.inputs.insert(name.to_owned(), input);
        })
    };
    if let Some(conversion) = options.conversion() {
        return Convert::run(parsed(conversion)?, &mut input("image"));
    }
    match options.format {
        Format::RawXz => Xz::run(parsed(json!({"filename": options.filename}))?, &mut input("file")),
        _ => Ok(()),
    }
}

/// A context for a stage, with other arguments.
fn with(context: &StageContext, change: impl FnOnce(&mut StageArguments)) -> StageContext {
    let mut arguments = context.arguments.clone();
    change(&mut arguments);
    StageContext::new(arguments, context.metadata_path.clone(), Box::new(std::io::stdout()))
}

/// The options of a stage.
fn parsed<Options: serde::de::DeserializeOwned>(options: Value) -> Result<Options, ModuleError> {
    serde_json::from_value(options).map_err(|error| ModuleError::option("options", error.to_string()))
}

/// The directory and the name of a file.
fn parts(path: &Path) -> Result<(&Path, &str), ModuleError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let parts = path.parent().zip(name);
    parts.ok_or_else(|| ModuleError::option("filename", format!("`{}` is no name of a file", path.display())))
}

#[cfg(test)]
mod tests;
