//! The manifest of a definition whose packages are known.
//!
//! ```text
//! build   the tools' packages               (built on the host)
//! tree    the image's packages, then the customizations
//! esp     the EFI system partition's content   (boot uefi, hybrid)
//! image   a disk: partition table, file systems, tree, boot loader  (all outputs but iso and tar)
//! qcow2   the disk, converted               (output qcow2; vmdk and vhdx alike)
//! disc    the files of a disc               (output iso)
//! iso     the disc
//! tar     the tree, archived                (output tar)
//! ```
//!
//! Pure: nothing here reads a clock, a file or a random number. UUIDs and salts are derived from the definition.

mod disk;
mod early;
mod esp;
mod files;
mod ids;
mod iso;
mod kernel;
mod layout;
mod packages;
mod sources;
mod systemd_boot;
mod tree;
mod uki;
mod users;

use serde_json::{Value, json};

use self::sources::Sources;
use crate::ResolveError;
use crate::apt::Record;
use crate::definition::{Definition, Output, Release};

pub(crate) use self::packages::{build_packages, image_packages};

/// A result to export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// What it is.
    pub output: Output,
    /// The pipeline to export.
    pub pipeline: String,
    /// The file in the pipeline's tree.
    pub file: String,
}

/// Writes the manifest.
pub(crate) fn manifest(
    definition: &Definition,
    release: &Release,
    image: &[Record],
    build: &[Record],
    source_epoch: u64,
) -> Result<(Value, Vec<Export>), ResolveError> {
    let mut sources = Sources::default();
    let mut pipelines = Vec::new();
    let runner = format!("org.osbuild.debian{}", release.number);
    let install = packages::install(build, &mut sources);
    pipelines.push(json!({
        "name": "build", "runner": runner, "source-epoch": source_epoch, "stages": [install],
    }));
    let mut add = |name: &str, stages: Vec<Value>| {
        pipelines.push(json!({
            "name": name, "build": "name:build", "source-epoch": source_epoch, "stages": stages,
        }));
    };
    add("tree", tree::stages(definition, image, &mut sources)?);
    let outputs = definition.outputs();
    if outputs.iter().any(|output| output.starts()) && definition.kiln.boot.has_uefi() {
        add("esp", esp::stages(definition, release, image, &mut sources)?);
    }
    if outputs.iter().any(|output| output.is_disk()) {
        layout::check(definition, image)?;
        add("image", disk::stages(definition, image, source_epoch));
    }
    let mut exports = Vec::new();
    for output in outputs {
        let file = format!("{}.{}", definition.file_stem(), output.name());
        let pipeline = match output {
            Output::Raw => "image",
            Output::Qcow2 | Output::Vmdk | Output::Vhdx => {
                add(output.name(), vec![disk::converted(definition, *output, &file)]);
                output.name()
            }
            Output::Iso => {
                add("disc", iso::files(definition, image, &mut sources)?);
                add("iso", vec![iso::image(definition, &file)]);
                "iso"
            }
            Output::Tar => {
                add("tar", vec![tar(&file)]);
                "tar"
            }
        };
        exports.push(Export { output: *output, pipeline: pipeline.to_owned(), file });
    }
    let manifest = json!({ "version": "2", "pipelines": pipelines, "sources": sources.finish() });
    Ok((manifest, exports))
}

/// A stage of the given type with options.
fn stage(kind: &str, options: Value) -> Value {
    let mut stage = json!({ "type": kind });
    stage["options"] = options;
    stage
}

/// A stage's input that is the tree of a pipeline.
fn tree_of(pipeline: &str) -> Value {
    json!({
        "type": "org.osbuild.tree",
        "origin": "org.osbuild.pipeline",
        "references": [format!("name:{pipeline}")],
    })
}

fn tar(file: &str) -> Value {
    json!({
        "type": "org.osbuild.tar",
        "inputs": { "tree": tree_of("tree") },
        // Names of the build root's users would say nothing about the image's.
        "options": { "filename": file, "numeric-owner": true },
    })
}
