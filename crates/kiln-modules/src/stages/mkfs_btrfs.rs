//! `org.osbuild.mkfs.btrfs`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage_devices::{self, flag};

/// Makes a btrfs file system on the device `device`.
///
/// Runs `mkfs.btrfs` of the build root.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// UUID of the file system.
    uuid: String,
    /// Label of the file system.
    #[schemars(length(max = 256))]
    label: Option<String>,
    /// Profile of the metadata block groups.
    metadata: Option<Profile>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Profile {
    /// One copy.
    Single,
    /// Two copies on the same device.
    Dup,
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Dup => "dup",
        }
    }
}

pub(crate) struct MkfsBtrfs;

impl Stage for MkfsBtrfs {
    const NAME: &'static str = "org.osbuild.mkfs.btrfs";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?;
        Ok(Run::new("mkfs.btrfs")
            .args(["-U", &options.uuid])
            .args(flag("-L", options.label.as_deref()))
            .args(flag("-m", options.metadata.map(Profile::name)))
            .arg(device)
            .run()?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::{self, UUID, attribute};

    #[test]
    fn schema() {
        Agreement::stage::<MkfsBtrfs>()
            .accepts([
                json!({"uuid": UUID}),
                json!({"uuid": UUID, "label": "root", "metadata": "single"}),
                json!({"uuid": UUID, "metadata": "dup"}),
            ])
            .refuses([
                json!({}),
                json!({"uuid": UUID, "label": "x".repeat(257)}),
                json!({"uuid": UUID, "metadata": "raid1"}),
            ]);
    }

    #[test]
    fn the_file_system_is_as_asked() {
        for (profile, flags) in [("single", "METADATA|single"), ("dup", "METADATA|DUP")] {
            let options = json!({"uuid": UUID, "label": "root", "metadata": profile});
            let image = stage_test::run_on_file::<MkfsBtrfs>(128 << 20, &options).expect("mkfs");
            assert_eq!(attribute(image.path(), "TYPE"), "btrfs");
            assert_eq!(attribute(image.path(), "UUID"), UUID);
            assert_eq!(attribute(image.path(), "LABEL"), "root");
            let chunks =
                stage_test::output("btrfs", &["inspect-internal", "dump-tree", "-t", "chunk"], image.path());
            assert!(chunks.contains(flags) || chunks.contains("type METADATA\n"), "{flags}: {chunks}");
            assert_eq!(chunks.contains("METADATA|DUP"), profile == "dup", "{chunks}");
            stage_test::output("btrfs", &["check", "--readonly"], image.path());
        }
    }
}
