//! `org.osbuild.lvm2.create`

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::devices::mapping::{NO_DEVICE_MAPPER, has_device_mapper};
use crate::stage_devices::{self, flag};
use crate::support::random;

/// Makes the device `device` a physical volume with a volume group and logical volumes.
///
/// Runs `pvcreate`, `vgcreate` and `lvcreate` of the build root. The volume group has a random name, because a kernel cannot
/// have two of one name in use; `org.osbuild.lvm2.metadata` gives it another one when the image is done.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Options {
    /// Logical volumes in the order in which they are made.
    #[schemars(length(min = 1))]
    volumes: Vec<Volume>,
}

/// A logical volume, with either `size` or `extents`.
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("oneOf" = json!([{"required": ["size"]}, {"required": ["extents"]}])))]
struct Volume {
    /// Name.
    // As the reference has it: what is no name for a volume is for `lvcreate` to refuse.
    #[schemars(regex(pattern = r"[a-zA-Z09+_.][a-zA-Z0-9+_.-]*"))]
    name: String,
    /// Number of extents, or a share as `100%FREE`.
    #[schemars(regex(pattern = r"[1-9][0-9]*(%(VG|PVS|FREE|ORIGIN))?"))]
    extents: Option<String>,
    /// Size as `512M`; without a unit, in MiB.
    #[schemars(regex(pattern = r"[1-9][0-9]*[bBsSkKmMgGtTpPeE]?"))]
    size: Option<String>,
}

/// The commands for a device and a group.
fn commands(options: &Options, device: &Path, group: &str) -> Vec<Run> {
    let mut commands = vec![Run::new("pvcreate").arg(device), Run::new("vgcreate").arg(group).arg(device)];
    for volume in &options.volumes {
        commands.push(
            // Not active: nothing but the metadata is written, and the kernel has no part in it.
            Run::new("lvcreate")
                .arg("-an")
                .args(flag("--extents", volume.extents.as_deref()))
                .args(flag("--size", volume.size.as_deref()))
                .args(["-n", &volume.name, group]),
        );
    }
    commands
}

pub(crate) struct Lvm2Create;

impl Stage for Lvm2Create {
    const NAME: &'static str = "org.osbuild.lvm2.create";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?.to_owned();
        let group = random::uuid()?;
        context.say(format_args!("LVM2: using vg name '{group}'"));
        for command in commands(&options, &device, &group) {
            command.run().map_err(|error| explain(error.into(), Path::new("/proc/misc")))?;
        }
        Ok(())
    }
}

/// The reason of a failure: `lvcreate` does nothing without the device mapper, which it has in many words.
fn explain(error: ModuleError, misc: &Path) -> ModuleError {
    if has_device_mapper(misc) { error } else { ModuleError::invalid(NO_DEVICE_MAPPER) }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;

    #[test]
    fn schema() {
        let with = |volume: Value| json!({"volumes": [volume]});
        Agreement::stage::<Lvm2Create>()
            .accepts([
                json!({"volumes": [{"name": "root", "size": "1G"}, {"name": "home", "extents": "100%FREE"}], "more": 1}),
                with(json!({"name": "a", "size": "512", "more": 1})),
            ])
            .refuses([
                json!({}),
                json!({"volumes": []}),
                with(json!({"name": "a"})),
                with(json!({"size": "1G"})),
                with(json!({"name": "a", "size": "1G", "extents": "1"})),
                with(json!({"name": "a", "size": 1})),
                with(json!({"name": "a", "size": "zero"})),
                with(json!({"name": "", "size": "1"})),
            ]);
    }

    /// `lvcreate` needs the device mapper; what is made with it is tested where there is one
    /// (`guest_volumes_are_opened`).
    #[test]
    fn commands_are_those_of_the_reference() {
        let options =
            json!({"volumes": [{"name": "root", "size": "1G"}, {"name": "home", "extents": "100%FREE"}]});
        let options: Options = serde_json::from_value(options).expect("valid");
        let words =
            |run: &Run| run.words().iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let found: Vec<_> = commands(&options, Path::new("/dev/loop7"), "group").iter().map(words).collect();
        let expected = [
            "pvcreate /dev/loop7",
            "vgcreate group /dev/loop7",
            "lvcreate -an --size 1G -n root group",
            "lvcreate -an --extents 100%FREE -n home group",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_kernel_without_the_device_mapper_is_what_a_failure_is_about() {
        let directory = tempfile::tempdir().expect("a directory");
        let message = |list: &str| {
            let misc = directory.path().join("misc");
            std::fs::write(&misc, list).expect("a list");
            explain(ModuleError::invalid("exit status 3"), &misc).to_string()
        };
        assert_eq!(message("237 loop-control\n236 device-mapper\n"), "exit status 3");
        assert_eq!(message("237 loop-control\n"), NO_DEVICE_MAPPER);
    }
}
