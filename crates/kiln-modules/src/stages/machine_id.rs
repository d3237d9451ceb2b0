//! `org.osbuild.machine-id`

use std::io::Write;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;

/// The file, below the tree.
const FILE: &str = "etc/machine-id";

/// Decides what becomes of `/etc/machine-id` when the image boots.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Whether the first boot of the image is a first boot for systemd.
    #[serde(rename = "first-boot")]
    first_boot: FirstBoot,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FirstBoot {
    /// Writes `uninitialized`: systemd makes an id and meets `ConditionFirstBoot` (from version 247 on).
    Yes,
    /// Leaves the file empty: systemd makes an id, but `ConditionFirstBoot` is not met.
    No,
    /// Leaves the id as it is; it is an error if there is none.
    Preserve,
}

pub(crate) struct MachineId;

impl Stage for MachineId {
    const NAME: &'static str = "org.osbuild.machine-id";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let tree = Root::open(context.tree())?;
        match options.first_boot {
            FirstBoot::Yes => tree
                .create(FILE)?
                .write_all(b"uninitialized\n")
                .map_err(ModuleError::io("write", tree.shown(FILE))),
            FirstBoot::No => tree.create(FILE).map(drop),
            FirstBoot::Preserve if tree.is_file(FILE) => Ok(()),
            FirstBoot::Preserve => {
                let reason = format!("{} cannot be preserved, it does not exist", tree.shown(FILE).display());
                context.say(&reason);
                Err(ModuleError::invalid(reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    #[test]
    fn schema_agrees() {
        Agreement::stage::<MachineId>()
            .accepts([
                json!({"first-boot": "yes"}),
                json!({"first-boot": "no"}),
                json!({"first-boot": "preserve"}),
            ])
            .refuses([
                json!({}),
                json!({"first-boot": true}),
                json!({"first-boot": "Yes"}),
                json!({"first_boot": "yes"}),
                json!({"first-boot": "yes", "more": 1}),
            ]);
        Agreement::stage::<MachineId>().member("inputs").refuses([json!({})]);
    }

    #[test]
    fn the_file_is_as_asked_for() {
        for (before, mode, after) in [
            (None, "yes", Some("uninitialized\n")),
            (Some("0123\n"), "yes", Some("uninitialized\n")),
            (Some("0123\n"), "no", Some("")),
            (Some("0123\n"), "preserve", Some("0123\n")),
            (None, "preserve", None),
        ] {
            let fixture = Fixture::new();
            fixture.file("etc/.keep", "");
            if let Some(before) = before {
                fixture.file(FILE, before);
            }
            let result = fixture.run::<MachineId>(json!({"first-boot": mode}));
            assert_eq!(result.is_ok(), after.is_some(), "{mode}: {result:?}");
            assert_eq!(std::fs::read_to_string(fixture.tree().join(FILE)).ok().as_deref(), after, "{mode}");
        }
    }

    #[test]
    fn trees_equal_the_reference() {
        for mode in ["yes", "no", "preserve"] {
            let options = json!({"first-boot": mode});
            side_by_side::<MachineId>(|_| {}, &options);
            side_by_side::<MachineId>(
                |fixture| {
                    fixture.file("etc/hosts", "");
                },
                &options,
            );
            side_by_side::<MachineId>(
                |fixture| {
                    fixture.file(FILE, "0123");
                },
                &options,
            );
        }
    }
}
