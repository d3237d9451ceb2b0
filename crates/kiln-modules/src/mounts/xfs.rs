//! `org.osbuild.xfs`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use kiln_sys::filesystem::MountOption;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{filesystem_mount, host};

/// Mounts an XFS file system.
///
/// Needs neither the program `mount` nor anything else of the host but a kernel that has the file system.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Whether nothing may be written.
    #[serde(default)]
    readonly: bool,
    /// Whether the journal is left as it is, even if it should be replayed; only together with `readonly`.
    #[serde(default)]
    norecovery: bool,
}

pub(crate) struct Xfs;

impl Mount for Xfs {
    fn name(&self) -> &'static str {
        "org.osbuild.xfs"
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
        filesystem_mount::mount(request, "xfs", options.readonly, &extra)
    }
}

#[cfg(test)]
mod tests {
    use kiln_api::module::Kind;
    use serde_json::json;

    use super::*;
    use crate::filesystem_mount::testing::{Disk, check_journalling};
    use crate::schema_agreement::Agreement;
    use crate::stage_test::unique_uuid;
    use crate::stages::testing::MkfsXfs;

    #[test]
    fn schema() {
        Agreement::of(Kind::Mount, "org.osbuild.xfs", Xfs.schema())
            .accepts([json!({}), json!({"readonly": true, "norecovery": false})])
            .refuses([json!({"readonly": 1}), json!({"subvol": "x"}), json!({"uid": 0})]);
        filesystem_mount::testing::check_required(&Xfs);
    }

    #[test]
    fn root_options_do_what_they_say() {
        check_journalling::<MkfsXfs>(&Xfs, 320);
    }

    #[test]
    fn root_a_journal_can_only_be_left_alone_read_only() {
        let disk = Disk::new::<MkfsXfs>(320, &json!({"uuid": unique_uuid()}));
        let error = disk.mount(&Xfs, "/", &json!({"norecovery": true})).err().expect("refused").to_string();
        assert!(error.contains("as xfs with the options `norecovery`: "), "{error}");
        disk.close();
    }
}
