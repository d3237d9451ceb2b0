//! `org.osbuild.ext4`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use kiln_sys::filesystem::MountOption;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{filesystem_mount, host};

/// Mounts an ext4 file system.
///
/// Needs neither the program `mount` nor anything else of the host but a kernel that has the file system.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Whether nothing may be written.
    #[serde(default)]
    readonly: bool,
    /// Whether the journal is left as it is, even if it should be replayed.
    #[serde(default)]
    norecovery: bool,
}

pub(crate) struct Ext4;

impl Mount for Ext4 {
    fn name(&self) -> &'static str {
        "org.osbuild.ext4"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            required_members: filesystem_mount::REQUIRED,
            ..ModuleSchema::of::<Options>()
        }
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
        let options: Options = host::options(request.options)?;
        let extra: Vec<_> = options.norecovery.then(|| MountOption::flag("norecovery")).into_iter().collect();
        filesystem_mount::mount(request, "ext4", options.readonly, &extra)
    }
}

#[cfg(test)]
mod tests {
    use kiln_api::module::Kind;
    use serde_json::{Value, json};

    use super::*;
    use crate::filesystem_mount::testing::{Disk, check_journalling};
    use crate::schema_agreement::Agreement;
    use crate::stage_test::unique_uuid;
    use crate::stages::testing::{MkfsExt4, Mkswap};

    #[test]
    fn schema() {
        Agreement::of(Kind::Mount, "org.osbuild.ext4", Ext4.schema())
            .accepts([json!({}), json!({"readonly": true, "norecovery": false})])
            .refuses([json!({"readonly": 1}), json!({"subvol": "x"}), json!({"uid": 0})]);
        filesystem_mount::testing::check_required(&Ext4);
    }

    #[test]
    fn root_options_do_what_they_say() {
        check_journalling::<MkfsExt4>(&Ext4, 16);
    }

    #[test]
    fn root_a_device_without_the_file_system_is_explained() {
        let disk = Disk::new::<Mkswap>(4, &json!({"uuid": unique_uuid()}));
        let error = disk.mount(&Ext4, "/", &Value::Null).err().expect("no ext4").to_string();
        assert!(error.starts_with(&format!("cannot mount `{}` as ext4: ", disk.node.display())), "{error}");
        disk.close();
    }
}
