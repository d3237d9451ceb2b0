//! `org.osbuild.zipl.inst`

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::boot_entries::{self, Entry};
use crate::support::number::Number;
use crate::support::root::Root;

/// The program, whatever the search path is.
const PROGRAM: &str = "/usr/sbin/zipl";

/// Installs the boot loader of IBM Z on a disk, with a kernel of the system that is mounted.
///
/// Runs `zipl` of the build root. The kernel and its first file system are those of an entry of the boot menu (Boot Loader
/// Specification) in `/boot/loader/entries` of the mounts, which `/boot` is one of, or in one. The device `disk` is the
/// whole disk.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The version of the kernel, as its entry tells it.
    kernel: String,
    /// The first sector of the partition with `/boot`.
    location: Number,
    /// Words that are added to the command line of the entry.
    #[serde(default)]
    kernel_opts_append: Vec<String>,
    /// Size of a sector in bytes; 512 if nothing is said.
    blocksize: Option<Number>,
}

pub(crate) struct ZiplInst;

impl Stage for ZiplInst {
    const NAME: &'static str = "org.osbuild.zipl.inst";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let devices = json!({
            "type": "object",
            "required": ["disk"],
            "properties": {"disk": {"type": "object"}},
        });
        ModuleSchema {
            devices: Some(devices),
            mounts: Some(json!({"type": "array", "minItems": 1})),
            ..ModuleSchema::of::<Options>()
        }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        Ok(command(&options, context, Path::new(PROGRAM))?.run()?)
    }
}

fn command(options: &Options, context: &StageContext, program: &Path) -> Result<Run, ModuleError> {
    let disk = context.arguments.devices.get("disk");
    let disk = disk.ok_or_else(|| ModuleError::option("devices", "the stage needs a device named `disk`"))?;
    let root = Root::open(&context.arguments.paths.mounts)?;
    let entry = entry(&root, &options.kernel)?;
    let words = match options.kernel_opts_append.as_slice() {
        [] => entry.options.clone(),
        more => format!("{} {}", entry.options, more.join(" ")),
    };
    let block_size = options.blocksize.as_ref().map_or(Ok(512), |size| size.whole("blocksize"))?;
    let place = Place {
        device: &context.arguments.paths.devices.join(&disk.path),
        block_size,
        offset: options.location.whole("location")?,
    };
    install(program, &root, &entry, &words, &place)
}

/// The entry of a kernel.
fn entry(root: &Root, version: &str) -> Result<Entry, ModuleError> {
    let mut others = Vec::new();
    for entry in boot_entries::kernels(root)? {
        if entry.version.as_deref() == Some(version) {
            return Ok(entry);
        }
        others.extend(entry.version.map(|version| format!("`{version}`")));
    }
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    Err(ModuleError::option(
        "kernel",
        format!("`{version}` has no entry in /boot/loader/entries, but {others}"),
    ))
}

/// Where the boot loader goes.
pub(crate) struct Place<'a> {
    /// The whole disk.
    pub(crate) device: &'a Path,
    /// Size of a sector in bytes.
    pub(crate) block_size: i64,
    /// The first sector of the partition with `/boot`.
    pub(crate) offset: i64,
}

/// The command that installs the boot loader with the kernel of an entry.
pub(crate) fn install(
    program: &Path,
    root: &Root,
    entry: &Entry,
    words: &str,
    place: &Place,
) -> Result<Run, ModuleError> {
    let file = |path: &Option<String>, name: &str| {
        let missing =
            || ModuleError::invalid(format!("the entry `{}` has no `{name}`", entry.path.display()));
        root.resolve(path.as_deref().ok_or_else(missing)?)
    };
    let run = Run::new(program)
        .args(["--verbose", "--target"])
        .arg(root.resolve("boot")?)
        .arg("--image")
        .arg(file(&entry.linux, "linux")?)
        .arg("--ramdisk")
        .arg(file(&entry.initrd, "initrd")?)
        .args(["--parameters", words, "--targetbase"])
        .arg(place.device);
    Ok(run
        .args(["--targettype", "SCSI", "--targetblocksize", &place.block_size.to_string()])
        .args(["--targetoffset", &place.offset.to_string()]))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<ZiplInst>()
            .around(json!({"devices": {"disk": {}}, "mounts": [{}]}))
            .accepts([
                json!({"kernel": "6.1", "location": 2048}),
                json!({"kernel": "6.1", "location": 1.5, "blocksize": 4096, "kernel_opts_append": ["ro"]}),
            ])
            .refuses([
                json!({"kernel": "6.1"}),
                json!({"kernel": 6, "location": 1}),
                json!({"kernel": "6", "location": "1"}),
                json!({"kernel": "6", "location": 1, "kernel_opts_append": "ro"}),
            ]);
        let around =
            || Agreement::stage::<ZiplInst>().around(json!({"options": {"kernel": "6", "location": 1}}));
        around()
            .member("devices")
            .accepts([json!({"disk": {}, "more": {}})])
            .refuses([json!({}), json!({"device": {}})]);
        around().member("mounts").accepts([json!([{}])]).refuses([json!([])]);
    }

    /// A system with entries; only `6.2-1` is whole.
    fn system() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, text).expect("written");
        };
        let entry = |version: &str| {
            format!(
                "title Kiln\nversion {version}\nlinux /boot/vmlinuz-{version}\ninitrd /boot/initrd-{version}\n"
            )
        };
        write("boot/loader/entries/a-6.1.conf", &(entry("6.1-1") + "options root=/dev/sda1\n"));
        write(
            "boot/loader/entries/b-6.2.conf",
            &(entry("6.2-1") + "\n# a comment\noptions  root=/dev/sda2  ro \n"),
        );
        write("boot/loader/entries/c-0-rescue.conf", &entry("0-rescue"));
        write("boot/loader/entries/d.conf", "version 7\nlinux /boot/vmlinuz-6.2-1\n");
        write("boot/vmlinuz-6.2-1", "kernel");
        write("boot/initrd-6.2-1", "first");
        directory
    }

    fn words(system: &Path, options: Value) -> Result<String, ModuleError> {
        let context = stage_test::context(&json!({
            "devices": {"disk": {"path": "sda"}},
            "paths": {"devices": "/dev", "inputs": "/nonexistent", "mounts": system},
        }));
        let run = command(&serde_json::from_value(options).expect("valid"), &context, Path::new("zipl"))?;
        let words: Vec<_> = run.words().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let root = system.canonicalize().expect("a path");
        Ok(words.join("|").replace(root.to_str().expect("UTF-8"), ""))
    }

    #[test]
    fn the_kernel_is_that_of_an_entry() {
        // Debian has no `zipl` for other machines: what it is told is all that is tested.
        let system = system();
        let told = words(system.path(), json!({"kernel": "6.2-1", "location": 2048.0})).expect("found");
        let expected = "zipl|--verbose|--target|/boot|--image|/boot/vmlinuz-6.2-1|--ramdisk|/boot/initrd-6.2-1|\
                        --parameters|root=/dev/sda2  ro|--targetbase|/dev/sda|--targettype|SCSI|--targetblocksize|512|\
                        --targetoffset|2048";
        assert_eq!(told, expected);
        let options = json!({"kernel": "6.2-1", "location": 1, "kernel_opts_append": ["quiet", "x=1"], "blocksize": 4096});
        let told = words(system.path(), options).expect("found");
        assert!(
            told.contains("|root=/dev/sda2  ro quiet x=1|")
                && told.contains("blocksize|4096|--targetoffset|1")
        );
    }

    #[test]
    fn what_is_not_there_is_said() {
        let system = system();
        let cases = [
            (
                json!({"kernel": "9", "location": 1}),
                "has no entry in /boot/loader/entries, but `6.1-1`, `6.2-1`, `7`",
            ),
            (json!({"kernel": "0-rescue", "location": 1}), "`0-rescue` has no entry"),
            (json!({"kernel": "6.1-1", "location": 1}), "boot/vmlinuz-6.1-1`: No such file"),
            (json!({"kernel": "7", "location": 1}), "d.conf` has no `initrd`"),
            (json!({"kernel": "6.2-1", "location": 1.5}), "`location`: `1.5` must be a whole number"),
        ];
        for (options, expected) in cases {
            let error = words(system.path(), options).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let empty = tempfile::tempdir().expect("a directory");
        let error = words(empty.path(), json!({"kernel": "1", "location": 1})).expect_err("none").to_string();
        assert!(error.ends_with("but none"), "{error}");
    }
}
