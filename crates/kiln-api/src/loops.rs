//! Loop devices that a stage asks for while it runs, over `/run/osbuild/api/remoteloop`.

use std::os::fd::OwnedFd;

use serde::Deserialize;

use crate::ModuleError;
use crate::device::OpenDevice;

/// What a stage says of the device that it wants.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LoopRequest {
    /// The first byte of the part of the file.
    #[serde(default)]
    pub offset: Option<u64>,
    /// The length of the part in bytes; none means up to the end of the file.
    #[serde(default)]
    pub sizelimit: Option<u64>,
    /// Whether the device is locked, which keeps udev from looking at it.
    #[serde(default)]
    pub lock: bool,
    /// Whether the kernel looks for partitions.
    #[serde(default)]
    pub partscan: bool,
    /// Whether the device refuses writes.
    #[serde(default)]
    pub read_only: bool,
    /// Size of a sector in bytes.
    #[serde(default = "sector")]
    pub sector_size: u32,
}

const fn sector() -> u32 {
    512
}

/// Makes loop devices.
pub trait Loops: Sync {
    /// Makes an open file a device, and its nodes in a directory. The reply's path is the device's name.
    fn attach(
        &self,
        file: OwnedFd,
        dev: OwnedFd,
        request: &LoopRequest,
    ) -> Result<Box<dyn OpenDevice>, ModuleError>;
}
