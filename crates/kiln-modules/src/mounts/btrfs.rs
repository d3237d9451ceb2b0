//! `org.osbuild.btrfs`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use kiln_sys::filesystem::MountOption;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{filesystem_mount, host};

/// Mounts a btrfs file system, or a subvolume of it.
///
/// Needs neither the program `mount` nor anything else of the host but a kernel that has the file system. Several
/// subvolumes of one device can be mounted at once, some read-only and some not.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Whether nothing may be written.
    #[serde(default)]
    readonly: bool,
    /// Whether the log tree is left as it is, even if it should be replayed.
    #[serde(default)]
    norecovery: bool,
    /// Path of the subvolume.
    subvol: Option<String>,
    /// Compression of what is written: `zlib`, `lzo` or `zstd`, with an optional level, as `zstd:1`.
    compress: Option<String>,
}

impl Options {
    fn for_kernel(self) -> Vec<MountOption> {
        let mut options = Vec::new();
        if self.norecovery {
            // `norecovery` is only an alias, and only of newer kernels.
            options.push(MountOption::value("rescue", "nologreplay"));
        }
        options.extend(self.subvol.map(|path| MountOption::value("subvol", path)));
        options.extend(self.compress.map(|kind| MountOption::value("compress", kind)));
        options
    }
}

pub(crate) struct Btrfs;

impl Mount for Btrfs {
    fn name(&self) -> &'static str {
        "org.osbuild.btrfs"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema { options_optional: true, ..ModuleSchema::of::<Options>() }
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
        let options: Options = host::options(request.options)?;
        filesystem_mount::mount(request, "btrfs", options.readonly, &options.for_kernel())
    }
}
