//! `org.osbuild.dmverity`

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::number::Number;
use crate::support::root::Root;

const PROGRAM: &str = "/usr/sbin/veritysetup";
/// Size of a block of data if nothing is said, in bytes.
const BLOCK_SIZE: u32 = 512;

/// Makes hashes of what is on the device `data_device` and writes them to `hash_device`, for the kernel's dm-verity.
///
/// Runs `veritysetup` of the build root, with a random salt, and has it check what it has made.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Size of a block of data in bytes.
    #[serde(default = "block_size")]
    blocksize: Number,
    /// File of the tree that the root hash is written to.
    root_hash_file: String,
}

fn block_size() -> Number {
    BLOCK_SIZE.into()
}

pub(crate) struct Dmverity;

impl Stage for Dmverity {
    const NAME: &'static str = "org.osbuild.dmverity";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let devices = json!({
            "type": "object",
            "required": ["data_device", "hash_device"],
            "properties": {"data_device": {"type": "object"}, "hash_device": {"type": "object"}},
        });
        ModuleSchema { devices: Some(devices), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let block_size = options.blocksize.whole("blocksize")?.to_string();
        let device = |name: &str| {
            let device = context.arguments.devices.get(name);
            let lacks = || ModuleError::option("devices", format!("the stage needs a device named `{name}`"));
            device.map(|device| device.path.as_path()).ok_or_else(lacks)
        };
        let (data, hashes) = (device("data_device")?, device("hash_device")?);
        let file = Root::open(context.tree())?.resolve_parent(&options.root_hash_file)?;
        let command = |action: &str, more: &[&str]| {
            let run = Run::new(program()).arg(action).args([data, hashes]).args(more);
            run.arg("--root-hash-file").arg(&file).run()
        };
        command("format", &["--data-block-size", &block_size])?;
        Ok(command("verify", &[])?)
    }
}

/// Always in one place, unless the build root has it elsewhere.
fn program() -> &'static Path {
    let usual = Path::new(PROGRAM);
    if usual.exists() { usual } else { Path::new("veritysetup") }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use kiln_testkit::host;
    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::run_reference;
    use crate::stage_test;

    #[test]
    fn schema() {
        Agreement::stage::<Dmverity>()
            .accepts([
                json!({"root_hash_file": "root.hash"}),
                json!({"root_hash_file": "x", "blocksize": 1024}),
            ])
            .refuses([json!({}), json!({"root_hash_file": "x", "blocksize": "1024"})]);
        Agreement::stage::<Dmverity>()
            .member("devices")
            .around(json!({"type": "org.osbuild.dmverity", "options": {"root_hash_file": "x"}}))
            .accepts([
                json!({"data_device": {"type": "x"}, "hash_device": {"type": "x"}, "more": {"type": "x"}}),
            ])
            .refuses([json!({"data_device": {"type": "x"}}), json!({"hash_device": {"type": "x"}})]);
    }

    struct Scratch {
        directory: tempfile::TempDir,
        arguments: Value,
    }

    impl Scratch {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let at = |name: &str| directory.path().join(name);
            fs::create_dir(at("tree")).expect("a tree");
            let data: Vec<u8> = (0..64 << 10).map(|place: u32| (place / 7) as u8).collect();
            fs::write(at("data"), data).expect("data");
            fs::write(at("hashes"), vec![0; 64 << 10]).expect("hashes");
            let devices = json!({"data_device": {"path": at("data")}, "hash_device": {"path": at("hashes")}});
            let arguments = json!({"tree": at("tree"), "devices": devices});
            Self { directory, arguments }
        }

        fn run(&self, options: &Value) -> Result<(), ModuleError> {
            let options = serde_json::from_value(options.clone()).expect("valid options");
            Dmverity::run(options, &mut stage_test::context(&self.arguments))
        }

        fn at(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// The values of the header, without what is random.
        fn header(&self) -> String {
            let text = stage_test::output("veritysetup", &["dump"], &self.at("hashes"));
            let kept = |line: &&str| {
                !line.starts_with("UUID") && !line.starts_with("Salt") && !line.contains("hashes")
            };
            text.lines().filter(kept).collect::<Vec<_>>().join("\n")
        }
    }

    #[test]
    fn devices_are_hashed() {
        if !host::provided("dm-verity", &[host::VERITYSETUP]) {
            return;
        }
        for (options, blocks) in [
            (json!({"root_hash_file": "root.hash"}), "128"),
            (json!({"root_hash_file": "/root.hash", "blocksize": 1024.0}), "64"),
        ] {
            let scratch = Scratch::new();
            scratch.run(&options).expect("veritysetup");
            let hash = fs::read_to_string(scratch.at("tree/root.hash")).expect("a root hash");
            assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
            let header = scratch.header();
            assert!(header.contains(&format!("Data blocks:     \t{blocks}\n")), "{header}");

            let verified = || {
                let run =
                    Run::new("veritysetup").arg("verify").args([scratch.at("data"), scratch.at("hashes")]);
                run.arg("--root-hash-file")
                    .arg(scratch.at("tree/root.hash"))
                    .status()
                    .expect("it runs")
                    .success()
            };
            assert!(verified());
            let mut data = fs::read(scratch.at("data")).expect("data");
            data[5000] ^= 1;
            fs::write(scratch.at("data"), data).expect("data");
            assert!(!verified());

            // With `/root.hash`, the reference writes to the build root's `/`, where it is lost.
            let theirs = Scratch::new();
            let options =
                json!({"root_hash_file": "root.hash", "blocksize": if blocks == "64" { 1024 } else { 512 }});
            let mut arguments = theirs.arguments.clone();
            arguments["paths"] = json!({"devices": "/dev"});
            arguments["options"] = options;
            let Some((succeeded, said)) = run_reference(Dmverity::NAME, &arguments) else { continue };
            assert!(succeeded, "{said}");
            assert_eq!(header, theirs.header());
            assert_eq!(fs::read(theirs.at("tree/root.hash")).expect("a root hash").len(), hash.len());
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let scratch = Scratch::new();
        let error =
            scratch.run(&json!({"root_hash_file": "x", "blocksize": 1.5})).expect_err("refused").to_string();
        assert_eq!(error, "invalid option `blocksize`: `1.5` must be a whole number");
        let error = scratch.run(&json!({"root_hash_file": "none/x"})).expect_err("refused").to_string();
        assert!(error.starts_with("cannot find `"), "{error}");
        if host::provided("dm-verity", &[host::VERITYSETUP]) {
            let error = scratch
                .run(&json!({"root_hash_file": "x", "blocksize": 1000}))
                .expect_err("refused")
                .to_string();
            assert!(error.contains("veritysetup` failed with exit status 1"), "{error}");
        }
        let mut scratch = Scratch::new();
        scratch.arguments["devices"] = json!({"data_device": {"path": "/dev/null"}});
        let error = scratch.run(&json!({"root_hash_file": "x"})).expect_err("refused").to_string();
        assert_eq!(error, "invalid option `devices`: the stage needs a device named `hash_device`");
    }
}
