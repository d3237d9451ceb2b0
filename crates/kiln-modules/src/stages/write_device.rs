//! `org.osbuild.write-device`

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};

use kiln_api::ModuleError;
use kiln_api::location::Location;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::stage_devices;
use crate::support::copying::{self, Named};
use crate::support::root::Root;

/// Writes a file of an input to the start of the device `device`.
///
/// For boot loaders and firmware that have a partition of their own, without a file system. What the device has
/// beyond the file stays; a file that is larger than the device is refused before anything is written.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The file: `input://NAME/path`.
    #[schemars(extend("pattern" = "^input:\\/\\/[^\\/]+\\/"))]
    from: String,
}

pub(crate) struct WriteDevice;

impl Stage for WriteDevice {
    const NAME: &'static str = "org.osbuild.write-device";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { inputs: Some(json!({"type": "object"})), ..stage_devices::schema::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?.to_owned();
        let location = Location::parse(&options.from, &context.arguments)?;
        let from = location.to_path();
        let mut source = Named { file: Root::open(&location.root)?.read(&location.path)?, path: &from };
        let size = source.file.metadata().map_err(ModuleError::io("examine", &from))?.len();

        let file = OpenOptions::new().write(true).open(&device).map_err(ModuleError::io("open", &device))?;
        let mut target = Named { file, path: &device };
        let space = target
            .file
            .seek(SeekFrom::End(0))
            .and_then(|space| target.file.rewind().map(|()| space))
            .map_err(ModuleError::io("find the size of", &device))?;
        if size > space {
            let reason = format!("`{}` has {size} bytes, the device only {space}", options.from);
            return Err(ModuleError::option("from", reason));
        }
        context.say(format_args!("writing {size} bytes to `{}`, which has {space}", device.display()));
        copying::copy(&mut source, &mut target, size)?;
        // A full or broken backing file of a loop device is only noticed here.
        target.file.sync_all().map_err(ModuleError::io("write", &device))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::run_reference;
    use crate::stage_test;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<WriteDevice>()
            .around(json!({"type": WriteDevice::NAME, "devices": {"device": {}}}))
            .accepts([json!({"from": "input://data/file"}), json!({"from": "input://data/"})])
            .refuses([
                json!({}),
                json!({"from": "input://data"}),
                json!({"from": "tree:///file"}),
                json!({"from": "mount://data/file"}),
                json!({"from": "input://data/file", "more": 1}),
            ]);
        Agreement::stage::<WriteDevice>()
            .member("devices")
            .accepts([json!({"device": {"type": "x"}, "other": {}})])
            .refuses([json!({}), json!({"other": {}}), json!({"device": "x"})]);
        Agreement::stage::<WriteDevice>().member("inputs").accepts([json!({"x": {"type": "y"}}), json!({})]);
    }

    fn arguments(input: &Path, device: &Path) -> serde_json::Value {
        json!({
            "tree": "/nonexistent",
            "paths": {"devices": "/dev", "inputs": "/nonexistent", "mounts": "/nonexistent"},
            "devices": {"device": {"path": device}},
            "inputs": {"data": {"path": input, "data": {}}},
            "options": {"from": "input://data/file"},
            "meta": {"id": "0"},
        })
    }

    fn write(input: &Path, device: &Path) -> Result<(), ModuleError> {
        let mut context = stage_test::context(&arguments(input, device));
        WriteDevice::run(Options { from: "input://data/file".to_owned() }, &mut context)
    }

    /// A directory with a file, and a device of 8 KiB of `#`.
    fn prepare(content: &[u8]) -> (tempfile::TempDir, tempfile::NamedTempFile) {
        let input = tempfile::tempdir().expect("a directory");
        std::fs::write(input.path().join("file"), content).expect("a file");
        let device = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(device.path(), [b'#'; 8192]).expect("written");
        (input, device)
    }

    #[test]
    fn the_file_is_at_the_start_and_the_rest_stays() {
        for size in [0, 1, 511, 4096, 8192] {
            let content = vec![b'x'; size];
            let (input, device) = prepare(&content);
            write(input.path(), device.path()).expect("written");
            let written = std::fs::read(device.path()).expect("there");
            assert_eq!(written.len(), 8192);
            assert!(written[..size] == content && written[size..].iter().all(|byte| *byte == b'#'), "{size}");
        }
    }

    #[test]
    fn what_is_too_large_is_not_begun() {
        let (input, device) = prepare(&[b'x'; 8193]);
        let error = write(input.path(), device.path()).expect_err("too large");
        assert_eq!(
            error.to_string(),
            "invalid option `from`: `input://data/file` has 8193 bytes, the device only 8192"
        );
        assert!(std::fs::read(device.path()).expect("there") == [b'#'; 8192]);
        write(input.path(), &input.path().join("none")).expect_err("no device");
        write(&input.path().join("none"), device.path()).expect_err("no input");
    }

    /// A loop device that is detached at the end.
    struct Loop(String);

    impl Loop {
        fn over(file: &Path) -> Self {
            let output =
                Command::new("losetup").args(["--find", "--show"]).arg(file).output().expect("losetup");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Self(String::from_utf8(output.stdout).expect("text").trim().to_owned())
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let detached = Command::new("losetup").args(["--detach", &self.0]).status();
            assert!(detached.is_ok_and(|status| status.success()) || std::thread::panicking());
        }
    }

    #[test]
    fn root_devices_equal_the_reference() {
        for size in [0, 1000, 8192, 8193] {
            let (input, one) = prepare(&vec![b'x'; size]);
            let (_, other) = prepare(b"");
            let succeeded = {
                let device = Loop::over(one.path());
                write(input.path(), Path::new(&device.0)).is_ok()
            };
            assert_eq!(succeeded, size <= 8192, "{size}");
            let there = {
                let device = Loop::over(other.path());
                run_reference(WriteDevice::NAME, &arguments(input.path(), Path::new(&device.0)))
            };
            let Some((there, said)) = there else { continue };
            assert_eq!(succeeded, there, "{size}: {said}");
            let read = |file: &tempfile::NamedTempFile| std::fs::read(file.path()).expect("there");
            assert!(read(&one) == read(&other), "{size}");
        }
    }
}
