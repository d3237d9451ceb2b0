//! The demo's image: its manifest, built once, and what is measured with it.
//!
//! The first build fetches all packages; what is measured afterwards fetches nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_sys::command::Run;
use serde_json::Value as Json;

use super::measure::{Series, Side, in_turns, timed};
use super::scratch::remove;
use super::side::export;
use super::table::{Limit, Row, Value};
use super::{Context, memory, read_json};
use crate::error::Error;

/// What a build may take that finds everything in the cache.
const CACHED: Duration = Duration::from_millis(50);
/// How much memory Kiln itself may take, in bytes.
const MEMORY: u64 = 64 << 20;
/// The stage that installs packages.
const PACKAGES: &str = "org.kiln.deb";

/// The demo's manifest, and a cache in which it has been built.
#[derive(Debug)]
pub(super) struct Demo {
    manifest: PathBuf,
    cache: PathBuf,
    /// The pipeline of the root tree.
    tree: String,
    /// The pipeline of the image.
    image: String,
    /// The identifiers of the root tree's packages.
    packages: Vec<String>,
}

impl Demo {
    /// Resolves the definition and builds everything once.
    pub(super) fn prepare(context: &Context<'_>) -> Result<Self, Error> {
        eprintln!("the demo, once");
        let manifest = context.scratch.join("demo.json");
        let mut resolve = context.programs.kiln("resolve");
        timed("resolving the demo", resolve.arg(&context.definition).arg("-o").arg(&manifest))?;
        let json = read_json(&manifest)?;
        let missing = |what: &str| Error::Content { path: manifest.clone(), what: format!("has no {what}") };
        let tree = root_tree(&json).ok_or_else(|| missing("root tree of packages"))?;
        let image = json["pipelines"].as_array().and_then(|all| all.last()?["name"].as_str());
        let image = image.ok_or_else(|| missing("pipeline"))?.to_owned();
        let packages = packages(&json, &tree);
        let cache = context.scratch.join("demo-cache");
        let demo = Self { manifest, cache, tree, image, packages };
        let mut build = export(demo.build(context), &demo.image, &context.scratch.join("demo-output"));
        build.args(["--checkpoint", "*"]);
        timed("building the demo", &mut build)?;
        Ok(demo)
    }

    /// The case of a build that has nothing to do.
    pub(super) fn cached(&self, context: &Context<'_>) -> Result<Row, Error> {
        eprintln!("everything cached");
        let command = || {
            let mut command = self.build(context);
            command.args(["--checkpoint", "*"]);
            command
        };
        let series = in_turns(context.runs, &mut [Side::new("kiln", command)])?;
        Ok(Row {
            case: "the demo, everything cached, nothing to export".to_owned(),
            limit: Some(Limit::AtMost(Value::Time(CACHED))),
            kiln: Value::Time(series.first().map(Series::median).unwrap_or_default()),
            other: None,
        })
    }

    /// The case of a root tree from packages that are on the disk.
    pub(super) fn tree(&self, context: &Context<'_>) -> Result<Row, Error> {
        eprintln!("a root tree from packages");
        let repository = context.scratch.join("repository");
        let names = self.repository(&repository)?;
        let (output, target) = (context.scratch.join("tree-output"), context.scratch.join("mmdebstrap"));
        let kiln = || {
            let mut command = self.build(context);
            // The build root is kept as it is in daily use; the tree is made anew.
            command.args(["--export", &self.tree]).arg("--output-directory").arg(&output);
            command
        };
        let source = format!("deb [trusted=yes] copy://{} ./", repository.display());
        let mmdebstrap = || {
            let mut command = std::process::Command::new("mmdebstrap");
            command
                .args(["--mode=root", "--variant=custom", "--format=directory"])
                .arg(format!("--include={}", names.join(",")))
                .arg("")
                .arg(&target)
                .arg(&source);
            command
        };
        let mut sides = [
            Side::new("kiln", kiln).after(|| {
                remove(&self.cache.join("objects"))?;
                remove(&output)
            }),
            Side::new("mmdebstrap", mmdebstrap).after(|| remove(&target)),
        ];
        let series = in_turns(context.runs, &mut sides)?;
        drop(sides);
        // What was removed is needed by the cases after this one.
        let mut build = self.build(context);
        timed(
            "building the demo again",
            build.args(["--checkpoint", "*", "--export", &self.image, "--output-directory"]).arg(&output),
        )?;
        let best = |index: usize| series.get(index).map(Series::best).unwrap_or_default();
        Ok(Row {
            case: format!(
                "the demo's root tree of {} packages, build root included, from local packages",
                names.len()
            ),
            limit: Some(Limit::TimesAsFast(1.0)),
            kiln: Value::Time(best(0)),
            other: Some(("mmdebstrap, without a build root,", Value::Time(best(1)))),
        })
    }

    /// The case of the memory that a whole build takes.
    pub(super) fn memory(&self, context: &Context<'_>) -> Result<Vec<Row>, Error> {
        eprintln!("memory");
        remove(&self.cache.join("objects"))?;
        let output = context.scratch.join("memory-output");
        let peak = memory::peak(&mut export(self.build(context), &self.image, &output))?;
        let row = |case: &str, bytes: u64, limit: Option<Limit>| Row {
            case: case.to_owned(),
            limit,
            kiln: Value::Memory(bytes),
            other: None,
        };
        Ok(vec![
            row(
                "peak memory of Kiln, the demo from packages to image",
                peak.main,
                Some(Limit::AtMost(Value::Memory(MEMORY))),
            ),
            row("peak memory of the largest native module in it", peak.modules, None),
        ])
    }

    fn build(&self, context: &Context<'_>) -> std::process::Command {
        context.programs.kiln_build(&self.manifest, &self.cache)
    }

    /// Makes a repository of the root tree's packages by hard links, and returns their names.
    fn repository(&self, directory: &Path) -> Result<Vec<String>, Error> {
        fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
        let files = self.cache.join("sources/org.osbuild.files");
        for package in &self.packages {
            let name = package.replace(':', "-");
            let link = directory.join(format!("{name}.deb"));
            let source = files.join(package);
            fs::hard_link(&source, &link).map_err(Error::file("link", &source))?;
        }
        let index =
            Run::new("dpkg-scanpackages").args(["--multiversion", "."]).current_dir(directory).output()?;
        let path = directory.join("Packages");
        fs::write(&path, &index).map_err(Error::file("write", &path))?;
        let index = String::from_utf8_lossy(&index);
        Ok(index.lines().filter_map(|line| line.strip_prefix("Package: ")).map(str::to_owned).collect())
    }
}

/// The name of the last pipeline that installs packages and that no pipeline builds with.
fn root_tree(manifest: &Json) -> Option<String> {
    let pipelines = manifest["pipelines"].as_array()?;
    let name = |pipeline: &Json| pipeline["name"].as_str().map(str::to_owned);
    let installs = |pipeline: &&Json| {
        let mut stages = pipeline["stages"].as_array().into_iter().flatten();
        stages.any(|stage| stage["type"] == PACKAGES)
    };
    let is_build_root = |pipeline: &&Json| {
        let reference = name(pipeline).map(|name| format!("name:{name}"));
        pipelines.iter().any(|other| other["build"].as_str() == reference.as_deref())
    };
    pipelines.iter().filter(installs).filter(|pipeline| !is_build_root(pipeline)).filter_map(name).next_back()
}

/// The identifiers of the packages that a pipeline installs.
fn packages(manifest: &Json, pipeline: &str) -> Vec<String> {
    let pipelines = manifest["pipelines"].as_array().into_iter().flatten();
    let stages =
        pipelines.filter(|one| one["name"] == pipeline).filter_map(|one| one["stages"].as_array()).flatten();
    let inputs =
        stages.filter(|stage| stage["type"] == PACKAGES).filter_map(|stage| stage["inputs"].as_object());
    inputs
        .flat_map(serde_json::Map::values)
        .flat_map(|input| match &input["references"] {
            Json::Object(all) => all.keys().cloned().collect::<Vec<_>>(),
            Json::Array(all) => {
                let id = |one: &Json| one.as_str().or_else(|| one["id"].as_str()).map(str::to_owned);
                all.iter().filter_map(id).collect()
            }
            _ => Vec::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_root_tree_and_its_packages_are_found() {
        let stage = |references: Json| json!([{"type": "org.kiln.deb", "inputs": {"packages": {"references": references}}}, {"type": "org.osbuild.noop"}]);
        let manifest = json!({"pipelines": [
            {"name": "build", "stages": stage(json!(["sha256:b"]))},
            {"name": "os", "build": "name:build", "stages": stage(json!(["sha256:1", {"id": "sha256:2"}]))},
            {"name": "image", "build": "name:build", "stages": [{"type": "org.osbuild.qemu"}]},
        ]});
        assert_eq!(root_tree(&manifest).as_deref(), Some("os"));
        assert_eq!(packages(&manifest, "os"), ["sha256:1", "sha256:2"]);
        let object = json!({"pipelines": [{"name": "a", "stages": stage(json!({"sha256:3": {}}))}]});
        assert_eq!(packages(&object, "a"), ["sha256:3"]);
    }
}
