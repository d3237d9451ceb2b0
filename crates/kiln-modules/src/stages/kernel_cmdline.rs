//! `org.osbuild.kernel-cmdline`

use std::io::Write;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;

/// The file, below the tree.
const FILE: &str = "etc/kernel/cmdline";

/// Writes the kernel's command line to `/etc/kernel/cmdline`.
///
/// The tools that install kernels read the file: `kernel-install`, `grubby` and the like. A command line that the
/// kernel would cut is an error; how long it may be depends on the architecture of this machine.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The UUID of the root file system, or the serial number of a FAT file system; becomes `root=UUID=…`.
    #[serde(default)]
    #[schemars(extend("oneOf" = [
        {"pattern": "^[0-9A-Za-z]{8}(-[0-9A-Za-z]{4}){3}-[0-9A-Za-z]{12}$"},
        {"pattern": "^[0-9A-Za-z]{4}-[0-9A-Za-z]{4}$"},
    ]))]
    root_fs_uuid: String,
    /// The other parameters, separated by blanks.
    #[serde(default)]
    kernel_opts: String,
    /// The most characters that the command line may have, if not the usual number of the architecture.
    #[schemars(range(min = 256, max = 4096))]
    kernel_cmdline_size: Option<usize>,
}

pub(crate) struct KernelCmdline;

impl Stage for KernelCmdline {
    const NAME: &'static str = "org.osbuild.kernel-cmdline";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { options_optional: true, ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let mut parameters = Vec::new();
        if !options.root_fs_uuid.is_empty() {
            parameters.push(format!("root=UUID={}", options.root_fs_uuid));
        }
        if !options.kernel_opts.is_empty() {
            parameters.push(options.kernel_opts);
        }
        let line = parameters.join(" ");
        let machine = rustix::system::uname().machine().to_string_lossy().to_lowercase();
        let limit = options.kernel_cmdline_size.unwrap_or_else(|| usual_limit(&machine));
        let length = line.chars().count();
        if length > limit {
            let reason =
                format!("the command line has {length} characters, more than the kernel reads: {limit}");
            return Err(ModuleError::option("kernel_opts", reason));
        }
        let tree = Root::open(context.tree())?;
        tree.make_directories("etc/kernel")?;
        let mut file = tree.create(FILE)?;
        file.write_all(line.as_bytes()).map_err(ModuleError::io("write", tree.shown(FILE)))
    }
}

/// `COMMAND_LINE_SIZE` of the kernel's `asm/setup.h`, for machines as `uname` names them.
fn usual_limit(machine: &str) -> usize {
    match machine {
        "arm" | "riscv" => 1024,
        "aarch64" | "i386" | "powerpc" | "ppc64" | "x86_64" => 2048,
        _ => 4096,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    const UUID: &str = "9c6ae55b-cf88-45b8-84e8-64990759f39d";

    #[test]
    fn schema_agrees() {
        Agreement::stage::<KernelCmdline>()
            .accepts([
                json!({}),
                json!({"root_fs_uuid": UUID, "kernel_opts": "quiet", "kernel_cmdline_size": 256}),
                json!({"root_fs_uuid": "6699-AFB5", "kernel_opts": "", "kernel_cmdline_size": 4096}),
            ])
            .refuses([
                json!({"root_fs_uuid": ""}),
                json!({"root_fs_uuid": "6699AFB5"}),
                json!({"kernel_opts": ["quiet"]}),
                json!({"kernel_cmdline_size": 255}),
                json!({"kernel_cmdline_size": 4097}),
                json!({"kernel_cmdline_size": 256.5}),
                json!({"other": ""}),
            ]);
        Agreement::stage::<KernelCmdline>().member("inputs").refuses([json!({})]);
    }

    fn cases() -> Vec<(Value, Option<String>)> {
        vec![
            (json!({}), Some(String::new())),
            (json!({"kernel_opts": "ro quiet"}), Some("ro quiet".to_owned())),
            (
                json!({"root_fs_uuid": "6699-AFB5", "kernel_opts": "ro"}),
                Some("root=UUID=6699-AFB5 ro".to_owned()),
            ),
            (
                json!({"kernel_opts": "\u{e9}".repeat(256), "kernel_cmdline_size": 256}),
                Some("\u{e9}".repeat(256)),
            ),
            (json!({"kernel_opts": "x".repeat(257), "kernel_cmdline_size": 256}), None),
            (json!({"kernel_opts": "x".repeat(4097)}), None),
        ]
    }

    #[test]
    fn the_file_holds_the_command_line() {
        for (options, expected) in cases() {
            let fixture = Fixture::new();
            fixture.file(FILE, "something longer than any of the lines that this test writes");
            let result = fixture.run::<KernelCmdline>(options.clone());
            assert_eq!(result.is_ok(), expected.is_some(), "{options}: {result:?}");
            if let Some(expected) = expected {
                let written = std::fs::read_to_string(fixture.tree().join(FILE)).expect("written");
                assert_eq!(written, expected, "{options}");
            }
        }
    }

    #[test]
    fn trees_equal_the_reference() {
        for (options, _) in cases() {
            side_by_side::<KernelCmdline>(|_| {}, &options);
        }
    }
}
