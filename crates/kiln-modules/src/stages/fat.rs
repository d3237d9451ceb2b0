//! `org.kiln.fat`
//!
//! What is written depends on the tree and the options alone: names are sorted, and all times are that of FAT's epoch,
//! 1 January 1980.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::stage_devices::{self, flag};

/// The name of the input that holds the tree.
const INPUT: &str = "tree";

/// 1 January 1980, as both tools take the time that it is said to be.
const EPOCH: &str = "315532800";

/// Makes a FAT file system on the device `device` that holds the tree of the input `tree`.
///
/// Runs `mkfs.fat` and `mcopy` of the build root. Nothing is mounted, so no kernel has to know FAT: that is how the EFI
/// system partition of an image is made. FAT knows neither owners nor modes nor links; a tree with links is refused. Equal
/// trees and options give equal file systems.
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
        let device = stage_devices::device(context)?;
        let input = context.arguments.inputs.get(INPUT);
        let tree = input.ok_or_else(|| ModuleError::option("inputs", "the stage needs a tree as `tree`"))?;
        let mut directories = Vec::new();
        list(&tree.path, PathBuf::new(), &mut directories)?;
        let width = options.fat_size.map(|width| width.to_string());
        let tool = |name: &str| {
            // Names are UTF-8 in any environment; a device need not look like a floppy disk.
            Run::new(name)
                .env("SOURCE_DATE_EPOCH", EPOCH)
                .env("LC_ALL", "C.UTF-8")
                .env("MTOOLS_SKIP_CHECK", "1")
        };
        tool("mkfs.fat")
            // The label's time does not heed the epoch.
            .args(["--invariant", "-I", "-i", &options.volid])
            .args(flag("-n", options.label.as_deref()))
            .args(flag("-F", width.as_deref()))
            .arg(device)
            .run()?;
        let made =
            directories.iter().map(|directory| &directory.path).filter(|path| !path.as_os_str().is_empty());
        let made: Vec<_> = made.map(|path| target(path)).collect();
        if !made.is_empty() {
            tool("mmd").arg("-i").arg(device).args(made).run()?;
        }
        for Directory { path, files } in &directories {
            if !files.is_empty() {
                tool("mcopy").arg("-i").arg(device).args(files).arg(target(path)).run()?;
            }
        }
        Ok(())
    }
}

/// A path as mtools have it.
fn target(path: &Path) -> String {
    format!("::/{}", path.display())
}

/// A directory of the tree, and its files.
struct Directory {
    path: PathBuf,
    files: Vec<PathBuf>,
}

/// Lists a directory and what is below it, each before what is in it.
fn list(tree: &Path, path: PathBuf, directories: &mut Vec<Directory>) -> Result<(), ModuleError> {
    let source = tree.join(&path);
    let mut names = Vec::new();
    for entry in fs::read_dir(&source).map_err(ModuleError::io("read directory", &source))? {
        names.push(entry.map_err(ModuleError::io("read directory", &source))?.file_name());
    }
    names.sort();
    let mut taken: HashMap<String, PathBuf> = HashMap::new();
    let mut files = Vec::new();
    let mut below = Vec::new();
    for name in names {
        let file = source.join(&name);
        let name = name.to_str().ok_or_else(|| refused(&file, "its name is not UTF-8"))?;
        if name.contains(['"', '*', ':', '<', '>', '?', '\\', '|']) || name.ends_with(['.', ' ']) {
            return Err(refused(&file, "FAT has no such names"));
        }
        if let Some(other) = taken.insert(name.to_uppercase(), file.clone()) {
            let reason = format!("FAT does not tell its name from that of `{}`", other.display());
            return Err(refused(&file, &reason));
        }
        let metadata = file.symlink_metadata().map_err(ModuleError::io("read attributes of", &file))?;
        if metadata.is_dir() {
            below.push(path.join(name));
        } else if !metadata.is_file() {
            return Err(refused(&file, "FAT has only files and directories"));
        } else if metadata.len() > u64::from(u32::MAX) {
            return Err(refused(&file, "a file has at most 4 GiB less one byte"));
        } else {
            files.push(file);
        }
    }
    directories.push(Directory { path, files });
    below.into_iter().try_for_each(|path| list(tree, path, directories))
}

fn refused(path: &Path, reason: &str) -> ModuleError {
    ModuleError::invalid(format!("`{}` cannot be in a FAT file system: {reason}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use kiln_testkit::host::{MTOOLS, provided};
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

    fn read(disk: &Path, path: &str) -> Vec<u8> {
        let run = Run::new("mcopy").env("MTOOLS_SKIP_CHECK", "1").env("LC_ALL", "C.UTF-8");
        run.arg("-i").arg(disk).args([&format!("::/{path}"), "-"]).output().expect("read")
    }

    #[test]
    fn the_tree_is_in_the_file_system() {
        if !provided("filling FAT file systems", &[MTOOLS]) {
            return;
        }
        let long = "A long name with blanks, and ümlauts.text";
        let cases =
            [(None, 64, (54, "FAT16   ")), (Some(12), 2, (54, "FAT12   ")), (Some(32), 64, (82, "FAT32   "))];
        for (width, mebibytes, (place, kind)) in cases {
            let mut made = Vec::new();
            for names in [["a", "b", "c"], ["c", "b", "a"]] {
                let world = world(mebibytes);
                let tree = world.path().join("tree");
                fs::create_dir_all(tree.join("EFI/BOOT")).expect("directories");
                fs::create_dir_all(tree.join("empty")).expect("directories");
                let content: Vec<u8> = (0..300_001_u32).map(|number| (number % 251) as u8).collect();
                fs::write(tree.join("EFI/BOOT/BOOTX64.EFI"), &content).expect("a file");
                fs::write(tree.join(long), "text").expect("a file");
                for name in names {
                    fs::write(tree.join(name), name).expect("a file");
                }
                fs::write(tree.join("nothing"), "").expect("a file");
                let mut options = json!({"volid": "7b7795e7", "label": "ESP"});
                if let Some(width) = width {
                    options["fat-size"] = json!(width);
                }
                let disk = run(&world, &options).expect("made");
                assert_eq!(attribute(&disk, "UUID"), "7B77-95E7");
                assert_eq!(attribute(&disk, "LABEL"), "ESP");
                stage_test::output("fsck.fat", &["-n"], &disk);
                assert!(read(&disk, "efi/boot/bootx64.efi") == content);
                assert_eq!((read(&disk, long), read(&disk, "nothing")), (b"text".to_vec(), Vec::new()));
                let bytes = fs::read(&disk).expect("read");
                assert_eq!(bytes[place..place + 8], *kind.as_bytes());
                made.push(bytes);
            }
            assert!(made[0] == made[1], "{kind}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        if !provided("filling FAT file systems", &[MTOOLS]) {
            return;
        }
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
            message(&|tree| write(tree.join("a:b"), 1), 4),
            "`/tree/a:b` cannot be in a FAT file system: FAT has no such names"
        );
        let error = message(&|tree| write(tree.join("large"), 5 << 20), 4);
        assert!(error.starts_with("`mcopy` failed with ") && error.contains("Disk full"), "{error}");
        let error = message(&|_| {}, 0);
        assert!(error.starts_with("`mkfs.fat` failed with "), "{error}");
    }
}
