//! `org.osbuild.grub2.inst`
//!
//! What lies where in the image of a BIOS machine, in bytes:
//!
//! ```text
//! 0      boot.img without its last 72 bytes: the rest of the sector is the partition table's
//! 0x5c   the core image's first sector, as a 64-bit little-endian number
//! L      the core image (L = location × sector size), in the gap before the first partition or in the BIOS boot partition
//! L+500  the sector after the core image's first one, as a 64-bit number: the core image loads the rest of itself from there
//! ```
//!
//! The number at `L+500` is 2 before it is patched, which is right only for a core image in sector 1.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

/// How much of `boot.img` is code.
const BOOT_CODE: usize = 440;

/// Where `boot.img` has the core image's first sector (`GRUB_BOOT_MACHINE_KERNEL_SECTOR`).
const BOOT_KERNEL_SECTOR: u64 = 0x5c;

/// Where the core image's first sector has the place of the second one: the block list at the end of the sector.
const CORE_LIST_START: u64 = 0x200 - 12;

/// The first sector of a disk, which holds the boot image.
const BOOT_SECTOR: u64 = 512;

/// The program that makes core images, as Fedora and its relatives name it, and as Debian and others do.
const MKIMAGE_NAMES: [&str; 2] = ["grub2-mkimage", "grub-mkimage"];

/// Installs the GRUB boot loader in a disk image, for machines without UEFI.
///
/// Makes a core image with the modules that GRUB needs to find the rest of itself, and writes it to `location`: the gap
/// before the first partition (MBR), a BIOS boot partition (GPT), or a PReP partition (Open Firmware). For `i386-pc`
/// the boot image is written to the disk's first sector and told where the core image is. Without a location, the file
/// becomes the core image itself, as for the boot image of a CD.
///
/// GRUB's modules are taken from `/usr/lib/grub/PLATFORM` of the build root, and the core image is made by its
/// `grub2-mkimage`, or by `grub-mkimage` where it has that name (Debian: package `grub-pc-bin`).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Path of the disk image in the tree.
    filename: String,
    /// GRUB's name of the platform, as `i386-pc`.
    platform: String,
    /// First sector of the core image.
    location: Option<i64>,
    /// How the core image is made.
    core: Core,
    /// Where GRUB finds its modules and configuration.
    prefix: Prefix,
    /// Size of a sector in bytes; 512 if nothing is said.
    #[serde(rename = "sector-size")]
    sector_size: Option<f64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Core {
    /// By `grub2-mkimage`.
    #[serde(rename = "type")]
    _type: CoreType,
    /// Partition table of the disk.
    partlabel: PartitionTable,
    /// File system that holds GRUB's modules.
    filesystem: FileSystem,
    /// Program that makes the core image; `grub2-mkimage` or `grub-mkimage` if nothing is said.
    binary: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum CoreType {
    Mkimage,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum PartitionTable {
    Gpt,
    Dos,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
    Iso9660,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Prefix {
    /// A directory of a partition of the disk that GRUB was loaded from.
    Partition(PartitionPrefix),
    /// A directory of the file system that GRUB was loaded from.
    Path(PathPrefix),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PartitionPrefix {
    #[serde(rename = "type")]
    _type: PrefixType,
    /// Partition table of the disk.
    partlabel: PartitionTable,
    /// Number of the partition, from zero.
    number: f64,
    /// Directory in the partition.
    #[schemars(regex(pattern = "/.*"))]
    path: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum PrefixType {
    Partition,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PathPrefix {
    /// Directory in the file system.
    #[schemars(regex(pattern = "/.*"))]
    path: String,
}

impl PartitionTable {
    /// The GRUB module that reads it, and its name in GRUB's names of partitions.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Gpt => ("part_gpt", "gpt"),
            Self::Dos => ("part_msdos", "msdos"),
        }
    }
}

impl FileSystem {
    const fn module(self) -> &'static str {
        match self {
            Self::Ext4 => "ext2",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Iso9660 => "iso9660",
        }
    }
}

impl Prefix {
    fn text(&self) -> Result<String, ModuleError> {
        match self {
            Self::Path(prefix) => Ok(prefix.path.clone()),
            Self::Partition(prefix) => {
                let number = whole("prefix.number", prefix.number)? + 1;
                let (_, table) = prefix.partlabel.names();
                Ok(format!("(,{table}{number})/{}", prefix.path.trim_start_matches('/')))
            }
        }
    }
}

/// A number without a sign and a fraction.
fn whole(option: &str, value: f64) -> Result<u64, ModuleError> {
    // Above 2^53 not every whole number is one of these.
    if value < 0.0 || value.fract() != 0.0 || value > 9_007_199_254_740_992.0 {
        return Err(ModuleError::option(option, format!("must be a whole number from zero: {value}")));
    }
    Ok(value as u64)
}

impl Options {
    /// The first sector of the core image and the size of a sector; `None` if the file is to become the core image.
    fn location(&self) -> Result<Option<(u64, u64)>, ModuleError> {
        let sector_size = whole("sector-size", self.sector_size.unwrap_or(512.0))?;
        let Some(location) = self.location.filter(|location| *location != 0) else { return Ok(None) };
        let location = u64::try_from(location)
            .ok()
            .filter(|location| location.checked_mul(sector_size).is_some())
            .ok_or_else(|| ModuleError::option("location", format!("is no sector of a disk: {location}")))?;
        Ok(Some((location, sector_size)))
    }

    /// The arguments of the program that makes the core image.
    fn mkimage_arguments(&self, modules: &Path, prefix: &str, output: &Path) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let format = match self.core.filesystem {
            FileSystem::Iso9660 => "i386-pc-eltorito",
            _ => &self.platform,
        };
        let options = [
            ("--directory", text(modules)),
            ("--prefix", prefix.to_owned()),
            ("--format", format.to_owned()),
            ("--compression", "auto".to_owned()),
            ("--output", text(output)),
        ];
        let mut arguments = vec!["--verbose".to_owned()];
        arguments.extend(options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
        if self.platform == "i386-pc" {
            arguments.push("biosdisk".to_owned());
        }
        arguments.extend([self.core.partlabel.names().0, self.core.filesystem.module()].map(str::to_owned));
        arguments
    }

    fn mkimage_program(&self) -> Result<&str, ModuleError> {
        if let Some(program) = &self.core.binary {
            return Ok(program);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there =
            |name: &&str| std::env::split_paths(&path).any(|directory| directory.join(name).exists());
        MKIMAGE_NAMES.into_iter().find(is_there).ok_or_else(|| {
            ModuleError::invalid(
                "the build root has neither `grub2-mkimage` nor `grub-mkimage`: install GRUB's tools in it, or name \
                 the program in the option `core.binary`",
            )
        })
    }
}

/// Puts a core image, and for BIOS machines the boot image, into a disk image.
fn install(
    image: &File,
    core: &[u8],
    boot: Option<&[u8]>,
    location: u64,
    sector_size: u64,
) -> std::io::Result<()> {
    let start = location * sector_size;
    image.write_all_at(core, start)?;
    let Some(boot) = boot else { return Ok(()) };
    if start > BOOT_SECTOR {
        image.write_all_at(&(location + 1).to_le_bytes(), start + CORE_LIST_START)?;
    }
    image.write_all_at(boot.get(..BOOT_CODE).unwrap_or(boot), 0)?;
    image.write_all_at(&location.to_le_bytes(), BOOT_KERNEL_SECTOR)
}

pub(crate) struct Grub2Inst;

impl Stage for Grub2Inst {
    const NAME: &'static str = "org.osbuild.grub2.inst";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        run(&options, None, context)
    }
}

/// Runs the stage for a core image that may have so many bytes at most.
pub(crate) fn run(
    options: &Options,
    room: Option<u64>,
    context: &mut StageContext,
) -> Result<(), ModuleError> {
    let image_path = context.tree().join(options.filename.trim_start_matches('/'));
    let prefix = options.prefix.text()?;
    context.say(format_args!("prefix: {prefix}"));
    let location = options.location()?;
    let scratch =
        tempfile::tempdir().map_err(ModuleError::io("make a directory in", std::env::temp_dir()))?;
    let core_path = scratch.path().join("core.img");
    let modules = PathBuf::from(format!("/usr/lib/grub/{}", options.platform));
    Run::new(options.mkimage_program()?)
        .args(options.mkimage_arguments(&modules, &prefix, &core_path))
        .run()?;
    let Some((location, sector_size)) = location else {
        fs::copy(&core_path, &image_path).map_err(ModuleError::io("write", &image_path))?;
        return Ok(());
    };
    let read = |path: &Path| fs::read(path).map_err(ModuleError::io("read", path));
    let core = read(&core_path)?;
    if let Some(room) = room.filter(|room| *room < core.len() as u64) {
        let reason = format!("GRUB's core image has {} bytes, and there is room for {room}", core.len());
        return Err(ModuleError::invalid(reason));
    }
    let boot = match options.platform.as_str() {
        // Elsewhere the firmware loads the core image itself.
        "i386-pc" => Some(read(&modules.join("boot.img"))?),
        _ => None,
    };
    context.say(format_args!("core image: {} bytes at sector {location}", core.len()));
    let image =
        OpenOptions::new().write(true).open(&image_path).map_err(ModuleError::io("open", &image_path))?;
    install(&image, &core, boot.as_deref(), location, sector_size)
        .map_err(ModuleError::io("write", &image_path))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::run_reference;
    use crate::stage_test;

    fn options(location: u64, partlabel: &str, filesystem: &str) -> Value {
        json!({
            "filename": "/disk.img",
            "platform": "i386-pc",
            "location": location,
            "core": {"type": "mkimage", "partlabel": partlabel, "filesystem": filesystem, "binary": "grub-mkimage"},
            "prefix": {"type": "partition", "partlabel": partlabel, "number": 1, "path": "/boot/grub"},
        })
    }

    fn parse(options: Value) -> Options {
        serde_json::from_value(options).expect("valid options")
    }

    /// A disk image of noise: what must not be written is seen.
    fn disk(tree: &Path) -> Vec<u8> {
        let content: Vec<u8> =
            (0..4_u32 << 20).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(tree.join("disk.img"), &content).expect("write");
        content
    }

    fn run(options: Value) -> (Vec<u8>, Vec<u8>) {
        let tree = tempfile::tempdir().expect("tempdir");
        let before = disk(tree.path());
        let mut context = stage_test::context(&json!({"tree": tree.path()}));
        Grub2Inst::run(parse(options), &mut context).expect("install");
        (before, fs::read(tree.path().join("disk.img")).expect("read"))
    }

    fn core(partlabel: &str, module: &str, prefix: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("core");
        let arguments = ["-d", "/usr/lib/grub/i386-pc", "-p", prefix, "-O", "i386-pc", "-o"];
        Run::new("grub-mkimage")
            .args(arguments)
            .arg(&path)
            .args(["biosdisk", partlabel, module])
            .output()
            .expect("grub-mkimage");
        fs::read(path).expect("read")
    }

    #[test]
    fn schema() {
        let mut path = options(1, "dos", "iso9660");
        path["prefix"] = json!({"path": "/boot/grub2"});
        path["sector-size"] = json!(2048);
        let with = |pointer: &str, value: Value| {
            let mut options = options(1, "gpt", "ext4");
            *options.pointer_mut(pointer).expect("there") = value;
            options
        };
        Agreement::stage::<Grub2Inst>().accepts([options(2048, "gpt", "ext4"), path]).refuses([
            with("/core/type", json!("install")),
            with("/core/filesystem", json!("vfat")),
            with("/prefix/partlabel", json!("mbr")),
            with("/prefix/path", json!("boot")),
            with("/prefix", json!({"path": "/boot", "number": 1})),
            with("/location", json!("1")),
        ]);
    }

    #[test]
    fn prefixes_name_partitions_from_one() {
        let cases = [
            (
                json!({"type": "partition", "partlabel": "gpt", "number": 2, "path": "//boot/grub2"}),
                "(,gpt3)/boot/grub2",
            ),
            (json!({"type": "partition", "partlabel": "dos", "number": 0.0, "path": "/"}), "(,msdos1)/"),
            (json!({"path": "/boot/grub2"}), "/boot/grub2"),
        ];
        for (prefix, expected) in cases {
            let prefix: Prefix = serde_json::from_value(prefix).expect("valid");
            assert_eq!(prefix.text().expect("text"), expected);
        }
        let half = json!({"type": "partition", "partlabel": "gpt", "number": 0.5, "path": "/"});
        let half: Prefix = serde_json::from_value(half).expect("valid");
        assert!(half.text().expect_err("no number").to_string().contains("`prefix.number`"));
    }

    #[test]
    fn the_core_image_gets_what_it_needs_to_find_the_rest() {
        let mut cd = options(0, "dos", "iso9660");
        cd["platform"] = json!("powerpc-ieee1275");
        let arguments =
            |options| parse(options).mkimage_arguments(Path::new("/m"), "/p", Path::new("/o")).join(" ");
        let cases = [
            (options(1, "gpt", "xfs"), "i386-pc", "biosdisk part_gpt xfs"),
            (options(1, "dos", "btrfs"), "i386-pc", "biosdisk part_msdos btrfs"),
            (cd, "i386-pc-eltorito", "part_msdos iso9660"),
        ];
        for (options, format, modules) in cases {
            let expected = format!(
                "--verbose --directory /m --prefix /p --format {format} --compression auto --output /o {modules}"
            );
            assert_eq!(arguments(options), expected);
        }
    }

    #[test]
    fn a_core_image_in_the_bios_boot_partition_knows_its_place() {
        let (before, after) = run(options(2048, "gpt", "ext4"));
        let boot = fs::read("/usr/lib/grub/i386-pc/boot.img").expect("boot.img");
        let mut core = core("part_gpt", "ext2", "(,gpt2)/boot/grub");
        core[500..508].copy_from_slice(&2049_u64.to_le_bytes());
        let start = 2048 * 512;
        assert_eq!(after[..0x5c], boot[..0x5c]);
        assert_eq!(after[0x5c..0x64], 2048_u64.to_le_bytes());
        assert_eq!(after[0x64..440], boot[0x64..440]);
        assert_eq!(after[440..start], before[440..start], "the partition table and the gap are untouched");
        assert_eq!(after[start..start + core.len()], core);
        assert_eq!(after[start + core.len()..], before[start + core.len()..]);
    }

    #[test]
    fn a_core_image_in_the_gap_is_not_patched() {
        let (before, after) = run(options(1, "dos", "ext4"));
        let core = core("part_msdos", "ext2", "(,msdos2)/boot/grub");
        assert_eq!(after[0x5c..0x64], 1_u64.to_le_bytes());
        assert_eq!(after[440..512], before[440..512]);
        assert_eq!(after[512..512 + core.len()], core);
        assert_eq!(core[500..504], 2_u32.to_le_bytes());
    }

    #[test]
    fn debians_name_of_the_program_is_found() {
        let mut options = options(2048, "gpt", "ext4");
        options["core"].as_object_mut().expect("object").remove("binary");
        let options = parse(options);
        let program = options.mkimage_program().expect("GRUB's tools are installed");
        assert!(MKIMAGE_NAMES.contains(&program), "{program}");
    }

    #[test]
    fn images_are_equal_to_the_references() {
        let mut sectors = options(256, "gpt", "xfs");
        sectors["sector-size"] = json!(4096);
        let mut own_file = options(0, "gpt", "btrfs");
        own_file["prefix"] = json!({"path": "/boot/grub"});
        for options in [options(2048, "gpt", "ext4"), options(1, "dos", "btrfs"), sectors, own_file] {
            let tree = tempfile::tempdir().expect("tempdir");
            disk(tree.path());
            let arguments = json!({"tree": tree.path(), "options": options});
            let Some((succeeded, said)) = run_reference(Grub2Inst::NAME, &arguments) else { return };
            assert!(succeeded, "{said}");
            let theirs = fs::read(tree.path().join("disk.img")).expect("read");
            assert!(run(options.clone()).1 == theirs, "{options}");
        }
    }
}
