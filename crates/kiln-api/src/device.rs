//! Devices: modules that make a block device for a stage, on the host.

use std::path::Path;

use serde_json::{Map, Value};

use crate::ModuleError;
use crate::module::ModuleSchema;

/// What a device is asked for.
pub struct DeviceRequest<'a> {
    /// The build root's `/dev`, as a directory on the host (a tmpfs that allows device nodes).
    pub dev: &'a Path,
    /// The parent device's path relative to `dev`.
    pub parent: Option<&'a str>,
    /// The tree of the stage, on the host.
    pub tree: &'a Path,
    /// The device's options.
    pub options: &'a Value,
}

/// What a device answers.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceReply {
    /// The node, relative to the build root's `/dev`.
    pub path: String,
    /// What else the stage is told, as `{"node": {"major": 7, "minor": 0}}`.
    pub data: Map<String, Value>,
}

/// An open device. Dropping it closes it as well as it can; [`close`](Self::close) reports failures.
pub trait OpenDevice: Send {
    /// What the stage and the mounts are told.
    fn reply(&self) -> &DeviceReply;
    /// Flushes and closes the device.
    fn close(self: Box<Self>) -> Result<(), ModuleError>;
}

/// A module that makes a block device.
pub trait Device: Sync {
    /// The module's name, as `org.osbuild.loopback`.
    fn name(&self) -> &'static str;
    /// Schemas: `options`.
    fn schema(&self) -> ModuleSchema;
    /// Opens the device and makes its nodes.
    fn open(&self, request: &DeviceRequest<'_>) -> Result<Box<dyn OpenDevice>, ModuleError>;
}
