//! Mounts: modules that mount a file system for a stage, on the host, in Kiln's own mount namespace.

use std::path::Path;

use serde_json::Value;

use crate::ModuleError;
use crate::module::ModuleSchema;

/// What a mount is asked for.
pub struct MountRequest<'a> {
    /// The device node on the host, the partition already added; absent for mounts without a device.
    pub source: Option<&'a Path>,
    /// The manifest's `target`: a path below `root`.
    pub target: Option<&'a str>,
    /// The directory on the host that the stage will see as `/run/osbuild/mounts`.
    pub root: &'a Path,
    /// The tree of the stage, on the host.
    pub tree: &'a Path,
    /// The mount's options.
    pub options: &'a Value,
}

/// A mounted file system. Dropping it unmounts as well as it can; [`unmount`](Self::unmount) reports failures.
pub trait Mounted: Send {
    /// Where it is mounted, at or below the request's root; `None` if nothing is to be shown there.
    fn path(&self) -> Option<&Path>;
    /// Syncs and unmounts.
    fn unmount(self: Box<Self>) -> Result<(), ModuleError>;
}

/// A module that mounts a file system.
pub trait Mount: Sync {
    /// The module's name, as `org.osbuild.ext4`.
    fn name(&self) -> &'static str;
    /// Schemas: `options`.
    fn schema(&self) -> ModuleSchema;
    /// Mounts the file system.
    fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError>;
}
