//! `org.kiln.fat`
//!
//! What [`fatfs`] writes depends on the tree and the options alone: names are sorted, and all times are that of FAT's
//! epoch, 1 January 1980.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fatfs::{Date, DateTime, Dir, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::stage_devices;

/// The name of the input that holds the tree.
const INPUT: &str = "tree";

/// The size of a label in the file system.
const LABEL: usize = 11;

const SECTOR: u64 = 512;

/// The library's words for a file system without room.
const FULL: &str = "No space left on device";

/// Makes a FAT file system on the device `device` that holds the tree of the input `tree`.
///
/// Nothing is mounted and no program is run, so no kernel has to know FAT: that is how the EFI system partition of an
/// image is made. FAT knows neither owners nor modes nor links; a tree with links is refused. Equal trees and options
/// give equal file systems.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Serial number of the volume: eight hexadecimal digits.
    #[schemars(extend("pattern" = "^[0-9a-fA-F]{8}$"))]
    volid: String,
    /// Label of the file system: capital letters, digits, blanks, `-` and `_`.
    #[schemars(extend("pattern" = "^[A-Z0-9_ -]{1,11}$"))]
    label: Option<String>,
    /// Width of an entry of the file allocation table in bits; by the size of the device if nothing is said.
    #[serde(rename = "fat-size")]
    #[schemars(extend("enum" = [12, 16, 32]))]
    fat_size: Option<u8>,
}

pub(crate) struct Fat;

impl Stage for Fat {
    const NAME: &'static str = "org.kiln.fat";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let inputs = json!({
            "type": "object",
            "additionalProperties": false,
            "required": [INPUT],
            "properties": {INPUT: {"type": "object"}},
        });
        ModuleSchema { inputs: Some(inputs), ..stage_devices::schema::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?.to_owned();
        let input = context.arguments.inputs.get(INPUT);
        let tree = input.ok_or_else(|| ModuleError::option("inputs", "the stage needs a tree as `tree`"))?;
        let tree = tree.path.clone();
        let mut disk =
            File::options().read(true).write(true).open(&device).map_err(ModuleError::io("open", &device))?;
        format(&options, &mut disk).map_err(ModuleError::io("make a FAT file system on", &device))?;
        disk.rewind().map_err(ModuleError::io("read", &device))?;
        let system = FileSystem::new(disk, FsOptions::new().time_provider(&EPOCH))
            .map_err(ModuleError::io("read the FAT file system on", &device))?;
        fill(&system.root_dir(), &tree, &device)?;
        system.unmount().map_err(ModuleError::io("write to", &device))
    }
}

fn format(options: &Options, disk: &mut File) -> io::Result<()> {
    let wrong = |message: &str| io::Error::new(io::ErrorKind::InvalidInput, message.to_owned());
    let serial = u32::from_str_radix(&options.volid, 16).map_err(|_| wrong("`volid` is no number"))?;
    let size = disk.seek(SeekFrom::End(0))?;
    disk.rewind()?;
    let sectors = u32::try_from(size / SECTOR).map_err(|_| wrong("it has more than 2 TiB"))?;
    let mut volume = FormatVolumeOptions::new().volume_id(serial).total_sectors(sectors);
    if let Some(label) = &options.label {
        let mut padded = [b' '; LABEL];
        for (place, byte) in padded.iter_mut().zip(label.bytes()) {
            *place = byte;
        }
        volume = volume.volume_label(padded);
    }
    volume = match options.fat_size {
        Some(12) => volume.fat_type(FatType::Fat12),
        Some(16) => volume.fat_type(FatType::Fat16),
        Some(32) => volume.fat_type(FatType::Fat32),
        _ => volume,
    };
    fatfs::format_volume(disk, volume)
}

/// Copies what is in a directory into one of the file system.
fn fill<D: Read + Write + Seek>(
    target: &Dir<'_, D>,
    source: &Path,
    device: &Path,
) -> Result<(), ModuleError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(source).map_err(ModuleError::io("read directory", source))? {
        names.push(entry.map_err(ModuleError::io("read directory", source))?.file_name());
    }
    names.sort();
    let mut taken: HashMap<String, PathBuf> = HashMap::new();
    for name in names {
        let path = source.join(&name);
        let failed = |error: io::Error| write_error(error, &path, device);
        let name = name.to_str().ok_or_else(|| refused(&path, "its name is not UTF-8"))?;
        if let Some(other) = taken.insert(name.to_uppercase(), path.clone()) {
            let reason = format!("FAT does not tell its name from that of `{}`", other.display());
            return Err(refused(&path, &reason));
        }
        let metadata = path.symlink_metadata().map_err(ModuleError::io("read attributes of", &path))?;
        if metadata.is_dir() {
            let directory = target.create_dir(name).map_err(failed)?;
            fill(&directory, &path, device)?;
        } else if metadata.is_file() {
            if metadata.len() > u64::from(u32::MAX) {
                return Err(refused(&path, "a file has at most 4 GiB less one byte"));
            }
            let mut file = File::open(&path).map_err(ModuleError::io("open", &path))?;
            let mut copy = target.create_file(name).map_err(failed)?;
            io::copy(&mut file, &mut copy).and_then(|_| copy.flush()).map_err(failed)?;
        } else {
            return Err(refused(&path, "FAT has only files and directories"));
        }
    }
    Ok(())
}

fn refused(path: &Path, reason: &str) -> ModuleError {
    ModuleError::invalid(format!("`{}` cannot be in a FAT file system: {reason}", path.display()))
}

fn write_error(error: io::Error, path: &Path, device: &Path) -> ModuleError {
    let text = error.to_string();
    let is_own = error.raw_os_error().is_none();
    if is_own && (text == FULL || error.kind() == io::ErrorKind::WriteZero) {
        let (path, device) = (path.display(), device.display());
        return ModuleError::invalid(format!(
            "`{path}` does not fit into the file system on `{device}` any more"
        ));
    }
    // The library has words of its own for names.
    if is_own { refused(path, &text) } else { ModuleError::io("copy", path)(error) }
}

/// The time of everything.
#[derive(Debug)]
struct Epoch;

static EPOCH: Epoch = Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;
    use crate::stage_test::{self, attribute};

    /// A directory with a disk of so many MiB and an empty tree.
    fn world(mebibytes: u64) -> TempDir {
        let world = tempfile::tempdir().expect("tempdir");
        fs::create_dir(world.path().join("tree")).expect("a directory");
        File::create(world.path().join("disk")).expect("a file").set_len(mebibytes << 20).expect("a size");
        world
    }

    fn run(world: &TempDir, options: &Value) -> Result<PathBuf, ModuleError> {
        let disk = world.path().join("disk");
        let mut context = stage_test::context(&json!({
            "devices": {"device": {"path": disk}},
            "inputs": {INPUT: {"path": world.path().join("tree"), "data": {}}},
        }));
        let options = serde_json::from_value(options.clone()).expect("options");
        Fat::run(options, &mut context).map(|()| disk)
    }

    #[test]
    fn the_tree_is_in_the_file_system() {
        let long = "A long name with blanks, and ümlauts.text";
        let mut digests = Vec::new();
        for (width, mebibytes, (place, kind)) in
            [(None, 64, (54, "FAT16   ")), (Some(12), 2, (54, "FAT12   ")), (Some(32), 64, (82, "FAT32   "))]
        {
            for _ in 0..2 {
                let world = world(mebibytes);
                let tree = world.path().join("tree");
                fs::create_dir_all(tree.join("EFI/BOOT")).expect("directories");
                fs::create_dir_all(tree.join("empty")).expect("directories");
                let content: Vec<u8> = (0..300_001_u32).map(|number| (number % 251) as u8).collect();
                fs::write(tree.join("EFI/BOOT/BOOTX64.EFI"), &content).expect("a file");
                fs::write(tree.join(long), "text").expect("a file");
                fs::write(tree.join("nothing"), "").expect("a file");
                let mut options = json!({"volid": "7b7795e7", "label": "ESP"});
                if let Some(width) = width {
                    options["fat-size"] = json!(width);
                }
                let disk = run(&world, &options).expect("made");
                assert_eq!(attribute(&disk, "UUID"), "7B77-95E7");
                assert_eq!(attribute(&disk, "LABEL"), "ESP");
                assert_eq!(fs::read(&disk).expect("read")[place..place + 8], *kind.as_bytes());
                stage_test::output("fsck.fat", &["-n"], &disk);
                let system =
                    FileSystem::new(File::open(&disk).map(ReadOnly).expect("open"), FsOptions::new());
                let system = system.expect("a file system");
                let read = |path: &str| {
                    let mut bytes = Vec::new();
                    system.root_dir().open_file(path).expect(path).read_to_end(&mut bytes).expect(path);
                    bytes
                };
                assert!(read("efi/boot/bootx64.efi") == content);
                assert_eq!((read(long), read("nothing")), (b"text".to_vec(), Vec::new()));
                assert_eq!(system.root_dir().open_dir("empty").expect("empty").iter().count(), 2);
                digests.push(fs::read(&disk).expect("read"));
            }
            assert!(digests[0] == digests[1], "{kind}");
            digests.clear();
        }
    }

    /// The library asks for what can be written.
    struct ReadOnly(File);

    impl Read for ReadOnly {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Seek for ReadOnly {
        fn seek(&mut self, place: SeekFrom) -> io::Result<u64> {
            self.0.seek(place)
        }
    }

    impl Write for ReadOnly {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let options = json!({"volid": "7b7795e7"});
        let message = |prepare: &dyn Fn(&Path), mebibytes| {
            let world = world(mebibytes);
            let tree = world.path().join("tree");
            prepare(&tree);
            let error = run(&world, &options).expect_err("refused").to_string();
            error.replace(&world.path().display().to_string(), "")
        };
        let write = |path: PathBuf, bytes: usize| fs::write(path, vec![1; bytes]).expect("a file");
        assert_eq!(
            message(&|tree| symlink("a", tree.join("link")).expect("a link"), 4),
            "`/tree/link` cannot be in a FAT file system: FAT has only files and directories"
        );
        assert_eq!(
            message(&|tree| ["name", "NAME"].iter().for_each(|name| write(tree.join(name), 1)), 4),
            "`/tree/name` cannot be in a FAT file system: FAT does not tell its name from that of `/tree/NAME`"
        );
        assert_eq!(
            message(&|tree| write(tree.join("large"), 5 << 20), 4),
            "`/tree/large` does not fit into the file system on `/disk` any more"
        );
        let error = message(&|tree| write(tree.join("a:b"), 1), 4);
        assert!(error.starts_with("`/tree/a:b` cannot be in a FAT file system: "), "{error}");
        let error = message(&|_| {}, 0);
        assert!(error.starts_with("cannot make a FAT file system on `/disk`"), "{error}");
    }
}
