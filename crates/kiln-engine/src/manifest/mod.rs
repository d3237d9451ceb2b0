//! Manifests: what to build, as the engine works with it, whatever format it was written in.
//!
//! [`load`] reads a text, finds out its format, and gives a [`Manifest`] in which every reference is resolved
//! and everything has its id, or all that is wrong with it. [`validate`](validate::validate) checks the options
//! of every module against its schema; the two are separate because ids need no modules.

mod describe;
mod finding;
mod format1;
mod format2;
mod id;
pub mod json;
mod locations;
pub mod place;
mod schema;
pub mod validate;
mod words;

use std::collections::HashSet;

use indexmap::IndexMap;

pub use describe::describe;
pub use finding::{Finding, did_you_mean, list, nearest};
pub use format1::source1;
pub use id::Id;
use json::{Json, Object, SyntaxError};
use place::JsonPath;
pub use schema::schema;

use crate::index::Index;
use crate::manifest::finding::Findings;

/// The origin of inputs that come from pipelines.
pub const ORIGIN_PIPELINE: &str = "org.osbuild.pipeline";
/// The origin of inputs that come from sources.
pub const ORIGIN_SOURCE: &str = "org.osbuild.source";

/// The formats of manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One pipeline with nested build pipelines and an assembler.
    One,
    /// A list of named pipelines.
    Two,
}

/// What to build.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The format it was written in; the result is reported in the same.
    pub format: Format,
    /// The manifest's own metadata (format 2).
    pub metadata: Object,
    /// Pipelines by name, in the order in which they may be built.
    pub pipelines: IndexMap<String, Pipeline>,
    /// Sources by module name.
    pub sources: IndexMap<String, Source>,
    /// The runners that the document names, whether anything is built with them or not.
    pub runners: Vec<String>,
}

/// A list of stages that starts with an empty tree.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The name, unique in the manifest.
    pub name: String,
    /// The id of the pipeline whose tree is the build root; none means the host.
    pub build: Option<Id>,
    /// The runner that was asked for; none means the host's.
    pub runner: Option<String>,
    /// Seconds since 1970 to which times are clamped.
    pub source_epoch: Option<i64>,
    /// The steps.
    pub stages: Vec<Stage>,
}

impl Pipeline {
    /// The id of the last stage; none without stages.
    pub fn id(&self) -> Option<&Id> {
        self.stages.last().map(|stage| &stage.id)
    }
}

/// One step that changes a tree.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The module's name.
    pub name: String,
    /// Whether the module is an assembler (format 1).
    pub assembler: bool,
    /// The stage's id.
    pub id: Id,
    /// What the result depends on beside the id; empty until [`recipe::assign`](crate::recipe::assign) was called.
    pub recipe: String,
    /// The id of the pipeline whose tree is the build root.
    pub build: Option<Id>,
    /// The id of the stage before it.
    pub base: Option<Id>,
    /// The module's options.
    pub options: Object,
    /// Inputs by name.
    pub inputs: IndexMap<String, Input>,
    /// Devices by name, parents first.
    pub devices: IndexMap<String, Device>,
    /// Mounts in order.
    pub mounts: Vec<Mount>,
    /// Where it stands in the document.
    pub path: JsonPath,
}

impl Stage {
    /// The ids of the pipelines whose trees the stage takes as input.
    pub fn pipeline_references(&self) -> impl Iterator<Item = &str> {
        self.references(ORIGIN_PIPELINE)
    }

    /// The source items that the stage takes as input.
    pub fn source_references(&self) -> impl Iterator<Item = &str> {
        self.references(ORIGIN_SOURCE)
    }

    fn references(&self, origin: &'static str) -> impl Iterator<Item = &str> {
        self.inputs
            .values()
            .filter(move |input| input.origin == origin)
            .flat_map(|input| input.references.keys().map(String::as_str))
    }
}

/// Content handed to a stage.
#[derive(Clone, Debug)]
pub struct Input {
    /// The module's name.
    pub kind: String,
    /// `org.osbuild.source` or `org.osbuild.pipeline`.
    pub origin: String,
    /// Checksums or pipeline ids, and what is said of each.
    pub references: Object,
    /// The module's options.
    pub options: Object,
    /// The input's id.
    pub id: Id,
}

/// A block device for a stage.
#[derive(Clone, Debug)]
pub struct Device {
    /// The module's name.
    pub kind: String,
    /// The name of the device it lies on.
    pub parent: Option<String>,
    /// The module's options.
    pub options: Object,
    /// The device's id.
    pub id: Id,
}

/// A mounted file system for a stage.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The name, unique in the stage.
    pub name: String,
    /// The module's name.
    pub kind: String,
    /// The name of the device.
    pub device: Option<String>,
    /// The number of the partition on the device.
    pub partition: Option<Json>,
    /// Where it is mounted.
    pub target: Option<String>,
    /// The module's options.
    pub options: Object,
    /// The mount's id.
    pub id: Id,
}

/// Content to be fetched by one module.
#[derive(Clone, Debug)]
pub struct Source {
    /// The module's name.
    pub kind: String,
    /// The items by checksum.
    pub items: Object,
    /// The module's options; in format 1 the whole description.
    pub options: Object,
    /// The source's id.
    pub id: Id,
}

impl Manifest {
    /// A pipeline by its name or its id.
    pub fn pipeline(&self, name_or_id: &str) -> Option<&Pipeline> {
        self.pipelines.get(name_or_id).or_else(|| self.pipeline_by_id(name_or_id))
    }

    /// The first pipeline with an id.
    pub fn pipeline_by_id(&self, id: &str) -> Option<&Pipeline> {
        self.pipelines.values().find(|pipeline| pipeline.id().is_some_and(|own| own.as_str() == id))
    }
}

/// Why a text is not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not JSON.
    #[error("the manifest is not valid JSON: {0}")]
    Syntax(SyntaxError),
    /// It is JSON, but of no known format.
    #[error("unsupported manifest format")]
    Unsupported,
    /// It has faults.
    #[error("the manifest has {} errors", .0.len())]
    Invalid(Vec<Finding>),
}

/// Reads a manifest of either format. Neither modules nor their options are looked at: ids need none.
pub fn load(text: &str) -> Result<Manifest, LoadError> {
    let (document, format) = parse(text)?;
    let (manifest, findings) = read(&document, format);
    if findings.is_empty() { Ok(manifest) } else { Err(LoadError::Invalid(findings)) }
}

/// Reads a manifest whose modules and options are to be right, too.
///
/// What is wrong by the schemas comes first and alone, as in the reference; see [`check`] for all of it.
pub fn load_valid(text: &str, index: &Index) -> Result<Manifest, LoadError> {
    let (document, format) = parse(text)?;
    let findings = validate::validate(&document.to_value(), format, index);
    if !findings.is_empty() {
        return Err(LoadError::Invalid(findings));
    }
    let (manifest, findings) = read(&document, format);
    if findings.is_empty() { Ok(manifest) } else { Err(LoadError::Invalid(findings)) }
}

/// Everything that is wrong with a manifest: with itself, and with the modules and options in it.
pub fn check(text: &str, index: &Index) -> Result<Vec<Finding>, LoadError> {
    let (document, format) = parse(text)?;
    let value = document.to_value();
    let mut findings = validate::validate(&value, format, index);
    let known: HashSet<JsonPath> = findings.iter().map(|finding| finding.target().path.clone()).collect();
    let (_, of_loading) = read(&document, format);
    // What does not fit the schema is not blamed a second time, for not being loadable.
    findings.extend(of_loading.into_iter().filter(|finding| !known.contains(finding.target().path)));
    finding::tidy(&mut findings);
    if format == Format::Two {
        locations::check(&value, &mut findings);
    }
    Ok(findings)
}

fn parse(text: &str) -> Result<(Json, Format), LoadError> {
    let document = Json::parse(text).map_err(LoadError::Syntax)?;
    let object = document.as_object().ok_or(LoadError::Unsupported)?;
    let format = match object.get("version") {
        None => Format::One,
        Some(Json::String(version)) if version == "1" => Format::One,
        Some(Json::String(version)) if version == "2" => Format::Two,
        Some(_) => return Err(LoadError::Unsupported),
    };
    Ok((document, format))
}

/// Reads a manifest as far as it makes sense, and what is wrong with it.
fn read(document: &Json, format: Format) -> (Manifest, Vec<Finding>) {
    let mut findings = Findings::default();
    let empty = Object::new();
    let object = document.as_object().unwrap_or(&empty);
    let manifest = match format {
        Format::One => format1::load(object, &mut findings),
        Format::Two => format2::load(object, &mut findings),
    };
    (manifest, findings.0)
}
