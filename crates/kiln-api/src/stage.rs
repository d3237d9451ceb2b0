//! Stages and runners: modules that run as processes inside the build root.
//!
//! A stage is a type that implements [`Stage`]; the list of native stages holds it as a [`StageModule`].
//! Its standard output is the stage's output: what it says goes there, and so does what its children say.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ModuleError;
use crate::module::ModuleSchema;

/// Where a stage finds its arguments inside the build root.
pub const ARGUMENTS_PATH: &str = "/run/osbuild/api/arguments";
/// Where a stage writes its metadata inside the build root.
pub const METADATA_PATH: &str = "/run/osbuild/meta";
/// The socket that takes a stage's exception.
pub const EXCEPTION_PATH: &str = "/run/osbuild/api/osbuild";

/// What a stage is told: the content of `/run/osbuild/api/arguments`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageArguments {
    /// The tree that the stage changes.
    pub tree: PathBuf,
    /// Where inputs, devices and mounts are.
    pub paths: Paths,
    /// Open devices by name.
    #[serde(default)]
    pub devices: BTreeMap<String, DeviceArgument>,
    /// Mapped inputs by name.
    #[serde(default)]
    pub inputs: BTreeMap<String, InputArgument>,
    /// Mounted file systems by name.
    #[serde(default)]
    pub mounts: BTreeMap<String, MountArgument>,
    /// The options of the manifest.
    #[serde(default)]
    pub options: Value,
    /// Facts about the stage itself.
    pub meta: StageMeta,
}

/// The directories below which inputs, devices and mounts appear.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Paths {
    /// `/dev`
    pub devices: PathBuf,
    /// `/run/osbuild/inputs`
    pub inputs: PathBuf,
    /// `/run/osbuild/mounts`
    pub mounts: PathBuf,
}

/// An open device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceArgument {
    /// The device node.
    pub path: PathBuf,
    /// What else the device's module answered.
    #[serde(flatten)]
    pub data: Map<String, Value>,
}

/// A mapped input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InputArgument {
    /// The directory or file with the content.
    pub path: PathBuf,
    /// What the input's module says of the content, as `{"files": {NAME: {}}}`.
    #[serde(default)]
    pub data: Value,
}

/// A mounted file system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountArgument {
    /// The mount point; absent when the mount module mounted nothing below the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// Facts about the stage itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageMeta {
    /// The stage's id.
    pub id: String,
    /// Seconds since 1970 to which times are clamped.
    #[serde(rename = "source-epoch", default, skip_serializing_if = "Option::is_none")]
    pub source_epoch: Option<i64>,
}

/// What a running stage works with.
pub struct StageContext {
    /// What the stage was told.
    pub arguments: StageArguments,
    /// Where metadata goes.
    pub metadata_path: PathBuf,
    output: Box<dyn Write + Send>,
}

impl StageContext {
    /// Puts a context together; `output` is normally standard output.
    pub fn new(arguments: StageArguments, metadata_path: PathBuf, output: Box<dyn Write + Send>) -> Self {
        Self { arguments, metadata_path, output }
    }

    /// The tree that the stage changes.
    pub fn tree(&self) -> &Path {
        &self.arguments.tree
    }

    /// Adds a line to the stage's output, at once: children write to the same stream.
    pub fn say(&mut self, line: impl fmt::Display) {
        // A reader that went away must not fail the build; the stage is stopped by other means then.
        let _ = writeln!(self.output, "{line}");
        let _ = self.output.flush();
    }

    /// Replaces the stage's metadata.
    pub fn write_metadata(&self, metadata: &Value) -> Result<(), ModuleError> {
        std::fs::write(&self.metadata_path, metadata.to_string())
            .map_err(ModuleError::io("write", &self.metadata_path))
    }
}

/// One native stage.
pub trait Stage {
    /// The module's name, as `org.osbuild.mkdir`.
    const NAME: &'static str;
    /// Capabilities beyond the default set, as `CAP_MAC_ADMIN`.
    const CAPABILITIES: &'static [&'static str] = &[];
    /// What the manifest may say; its doc comment is the module's help.
    type Options: DeserializeOwned + JsonSchema;

    /// The stage's schemas; stages that take inputs or need certain devices extend the default.
    fn schema() -> ModuleSchema {
        ModuleSchema::of::<Self::Options>()
    }

    /// Changes the tree.
    fn run(options: Self::Options, context: &mut StageContext) -> Result<(), ModuleError>;
}

/// An entry of the list of native stages.
#[derive(Clone, Copy)]
pub struct StageModule {
    /// The module's name.
    pub name: &'static str,
    /// Capabilities beyond the default set.
    pub capabilities: &'static [&'static str],
    /// Makes the stage's schemas.
    pub schema: fn() -> ModuleSchema,
    /// Runs the stage with the options in its context.
    pub run: fn(&mut StageContext) -> Result<(), ModuleError>,
}

impl StageModule {
    /// The entry for a stage.
    pub const fn of<S: Stage>() -> Self {
        Self { name: S::NAME, capabilities: S::CAPABILITIES, schema: S::schema, run: run::<S> }
    }
}

fn run<S: Stage>(context: &mut StageContext) -> Result<(), ModuleError> {
    let options = match context.arguments.options.take() {
        Value::Null => Value::Object(Map::new()),
        options => options,
    };
    let options =
        serde_json::from_value(options).map_err(|error| ModuleError::option("options", error.to_string()))?;
    S::run(options, context)
}

/// A native runner: prepares `/` of a fresh build root so that the distribution's tools work in it.
#[derive(Clone, Copy)]
pub struct Runner {
    /// The file name, as `org.osbuild.debian` or `org.osbuild.fedora38`.
    pub name: &'static str,
    /// One paragraph of help.
    pub documentation: &'static str,
    /// Prepares the build root whose root directory is given (`/` inside the sandbox).
    ///
    /// Everything it changes must lie below `/etc`, `/run` (but not `/run/osbuild`), `/tmp` or `/var`:
    /// the result is captured from there once and reused by later stages with the same build root.
    pub prepare: fn(&Path) -> Result<(), ModuleError>,
    /// Variables that it adds to the environment of the stage.
    pub environment: &'static [(&'static str, &'static str)],
}
