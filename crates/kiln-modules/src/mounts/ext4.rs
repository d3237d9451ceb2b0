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
        ModuleSchema { options_optional: true, ..ModuleSchema::of::<Options>() }
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
        let options: Options = host::options(request.options)?;
        let extra: Vec<_> = options.norecovery.then(|| MountOption::flag("norecovery")).into_iter().collect();
        filesystem_mount::mount(request, "ext4", options.readonly, &extra)
    }
}
