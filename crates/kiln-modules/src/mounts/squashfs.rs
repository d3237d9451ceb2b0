//! `org.osbuild.squashfs`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{filesystem_mount, host};

/// Mounts a squashfs file system.
///
/// Needs neither the program `mount` nor anything else of the host but a kernel that has the file system. Nothing can
/// be written to such a file system, so its device may be read-only.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {}

pub(crate) struct Squashfs;

impl Mount for Squashfs {
    fn name(&self) -> &'static str {
        "org.osbuild.squashfs"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            required_members: filesystem_mount::REQUIRED,
            refused_members: &["partition"],
            ..ModuleSchema::of::<Options>()
        }
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
        let Options {} = host::options(request.options)?;
        // Asked to write, the kernel would not take a device that cannot be written to, nor one that is mounted already.
        filesystem_mount::mount(request, "squashfs", true, &[])
    }
}

#[cfg(test)]
mod tests {
    use kiln_api::module::Kind;
    use serde_json::json;

    use super::*;
    use crate::filesystem_mount::testing::{check_image, check_required};
    use crate::schema_agreement::Agreement;
    use crate::stages::testing;

    #[test]
    fn schema() {
        Agreement::of(Kind::Mount, "org.osbuild.squashfs", Squashfs.schema()).accepts([json!({})]).refuses([
            json!({"readonly": true}),
            json!({"norecovery": true}),
            json!({"uid": 0}),
        ]);
        check_required(&Squashfs);
    }

    #[test]
    fn root_what_the_stage_has_packed_is_there() {
        check_image::<testing::Squashfs>(&Squashfs);
    }
}
