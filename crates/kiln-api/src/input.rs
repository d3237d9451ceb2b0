//! Inputs: modules that hand content to a stage, on the host.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::ModuleError;
use crate::module::ModuleSchema;

/// What an input is asked for.
pub struct InputRequest<'a> {
    /// `org.osbuild.source` or `org.osbuild.pipeline`.
    pub origin: &'a str,
    /// References and their options, in the manifest's order: checksums or pipeline ids.
    pub references: &'a Map<String, Value>,
    /// An empty directory on the host that the stage will see as this input's directory.
    pub target: &'a Path,
    /// The input's options.
    pub options: &'a Value,
}

/// What an input may ask the object store for, during `map`.
pub trait Store {
    /// The directory of a finished tree, which is not to be changed; none if there is no such object. It stays for as
    /// long as the stage lives.
    fn read_tree(&self, id: &str) -> Result<Option<PathBuf>, ModuleError>;

    /// Mounts a finished tree (or the part of it below `subtree`) read-only at `target` for as long as the
    /// stage lives. `false` if there is no such object.
    fn read_tree_at(&self, id: &str, target: &Path, subtree: Option<&str>) -> Result<bool, ModuleError>;
    /// Shows a directory or a file of the host read-only at `target`, which exists, for as long as the stage lives.
    fn bind(&self, source: &Path, target: &Path) -> Result<(), ModuleError>;

    /// Makes a directory that is removed after the stage.
    fn mkdtemp(&self, prefix: &str) -> Result<PathBuf, ModuleError>;
    /// The cache directory with the content of one type, as `org.osbuild.files`.
    fn source(&self, content_type: &str) -> PathBuf;
}

/// What an input answers.
#[derive(Clone, Debug, PartialEq)]
pub struct InputReply {
    /// Where the content is, on the host, at or below the request's target.
    pub path: PathBuf,
    /// What else the stage is told: mostly `data`, which says what the content is.
    pub members: Map<String, Value>,
}

/// A module that hands content to a stage.
pub trait Input: Sync {
    /// The module's name, as `org.osbuild.files`.
    fn name(&self) -> &'static str;
    /// Schemas: `options`, `references`, `origins`.
    fn schema(&self) -> ModuleSchema;
    /// Makes the content appear at the target.
    fn map(&self, request: &InputRequest<'_>, store: &dyn Store) -> Result<InputReply, ModuleError>;
}
