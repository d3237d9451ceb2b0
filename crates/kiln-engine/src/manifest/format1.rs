//! Format 1: one pipeline with nested build pipelines and, perhaps, an assembler.
//!
//! It is turned into what format 2 would say: the main pipeline is `tree`, its build pipelines are `build`,
//! `build-build`, …, the assembler is a pipeline of one stage with the tree as its input.

use std::collections::HashSet;

use indexmap::IndexMap;

use super::finding::{Findings, did_you_mean, list, missing_item};
use super::json::{Json, Object};
use super::place::JsonPath;
use super::{Format, Id, Input, Manifest, ORIGIN_PIPELINE, ORIGIN_SOURCE, Pipeline, Source, Stage, id};

/// The sources that format 1 knows, and the member that holds their items.
const SOURCES: &[(&str, &str)] =
    &[("org.osbuild.curl", "urls"), ("org.osbuild.librepo", "items"), ("org.osbuild.ostree", "commits")];

/// The source that a name of format 1 means, and the member that holds its items.
pub fn source1(name: &str) -> Option<(&'static str, &'static str)> {
    let kind = if name == "org.osbuild.files" { "org.osbuild.curl" } else { name };
    SOURCES.iter().copied().find(|(known, _)| *known == kind)
}

pub(super) fn load(document: &Object, findings: &mut Findings) -> Manifest {
    let root = JsonPath::default();
    findings.only(document, &["version", "pipeline", "sources"], &root);
    let mut loader = Loader {
        findings,
        manifest: Manifest {
            format: Format::One,
            metadata: Object::new(),
            pipelines: IndexMap::new(),
            sources: IndexMap::new(),
            runners: Vec::new(),
        },
        references: Vec::new(),
    };
    let empty = Object::new();
    let pipeline = loader.findings.member(document, "pipeline", &root).unwrap_or(&empty);
    let path = root.key("pipeline");
    loader.pipeline(pipeline, 0, &path);
    if let Some(assembler) = pipeline.get("assembler") {
        loader.assembler(assembler, &path.key("assembler"));
    }
    if let Some(sources) = loader.findings.member(document, "sources", &root) {
        for (name, description) in sources {
            loader.source(name, description, &root.key("sources").key(name));
        }
    }
    loader.check_references();
    loader.manifest
}

struct Loader<'a> {
    findings: &'a mut Findings,
    manifest: Manifest,
    /// Source references and where they stand: sources are read after the pipelines.
    references: Vec<(String, JsonPath)>,
}

impl Loader<'_> {
    fn pipeline(&mut self, description: &Object, depth: usize, path: &JsonPath) -> Option<Id> {
        self.findings.only(description, &["build", "stages", "assembler"], path);
        let (mut build, mut runner) = (None, None);
        if let Some(object) = self.findings.member(description, "build", path) {
            let path = path.key("build");
            self.findings.only(object, &["pipeline", "runner"], &path);
            runner = self.findings.required(object, "runner", &path).map(str::to_owned);
            self.manifest.runners.extend(runner.clone());
            if let Some(nested) = self.findings.member(object, "pipeline", &path)
                && !nested.is_empty()
            {
                build = self.pipeline(nested, depth + 1, &path.key("pipeline"));
            }
        }
        let name = if depth == 0 { "tree".to_owned() } else { vec!["build"; depth].join("-") };
        let mut stages: Vec<Stage> = Vec::new();
        if let Some(descriptions) = description.get("stages") {
            let path = path.key("stages");
            for (index, description) in self.findings.array(descriptions, &path).iter().enumerate() {
                let base = stages.last().map(|stage| stage.id.clone());
                if let Some(stage) = self.stage(description, build.clone(), base, &path.index(index)) {
                    stages.push(stage);
                }
            }
        }
        let pipeline = Pipeline { name: name.clone(), build, runner, source_epoch: None, stages };
        let id = pipeline.id().cloned();
        self.manifest.pipelines.insert(name, pipeline);
        id
    }

    fn step(&mut self, description: &Json, path: &JsonPath) -> Option<(String, Object)> {
        let object = self.findings.object(description, path)?;
        self.findings.only(object, &["name", "options"], path);
        let name = self.findings.required(object, "name", path)?.to_owned();
        Some((name, self.findings.member(object, "options", path).cloned().unwrap_or_default()))
    }

    fn stage(
        &mut self,
        description: &Json,
        build: Option<Id>,
        base: Option<Id>,
        path: &JsonPath,
    ) -> Option<Stage> {
        let (name, options) = self.step(description, path)?;
        let mut stage = Stage {
            name,
            assembler: false,
            id: Id::from_text(""),
            recipe: String::new(),
            build,
            base,
            options,
            inputs: IndexMap::new(),
            devices: IndexMap::new(),
            mounts: Vec::new(),
            path: path.clone(),
        };
        // Two stages read their content from sources by their options; here that becomes an input.
        let implied = match stage.name.as_str() {
            "org.osbuild.rpm" => Some(("packages", "org.osbuild.files", self.packages(&stage.options, path))),
            "org.osbuild.ostree" => {
                Some(("commits", "org.osbuild.ostree", self.commits(&stage.options, path)))
            }
            _ => None,
        };
        if let Some((name, kind, references)) = implied {
            stage.inputs.insert(name.to_owned(), input(kind, ORIGIN_SOURCE, references));
        }
        stage.id = id::of_stage(&stage, None);
        Some(stage)
    }

    fn packages(&mut self, options: &Object, path: &JsonPath) -> Object {
        let mut references = Object::new();
        let path = path.key("options").key("packages");
        let Some(packages) = options.get("packages") else {
            self.findings.add(&path, "`packages` is missing");
            return references;
        };
        for (index, package) in self.findings.array(packages, &path).iter().enumerate() {
            let path = path.index(index);
            let mut options = Object::new();
            let checksum = match package {
                Json::Object(object) => {
                    if let Some(check) = object.get("check_gpg").filter(|check| !check.is_falsy()) {
                        let metadata = Object::from_iter([("rpm.check_gpg".to_owned(), check.clone())]);
                        options.insert("metadata".to_owned(), Json::Object(metadata));
                    }
                    self.findings.required(object, "checksum", &path)
                }
                other => self.findings.text(other, &path),
            };
            if let Some(checksum) = checksum {
                self.references.push((checksum.to_owned(), path));
                references.insert(checksum.to_owned(), Json::Object(options));
            }
        }
        references
    }

    fn commits(&mut self, options: &Object, path: &JsonPath) -> Object {
        let path = path.key("options");
        let mut references = Object::new();
        if let Some(commit) = self.findings.required(options, "commit", &path) {
            let mut object = Object::new();
            if let Some(reference) = options.get("ref").filter(|reference| !reference.is_falsy()) {
                object.insert("ref".to_owned(), reference.clone());
            }
            self.references.push((commit.to_owned(), path.key("commit")));
            references.insert(commit.to_owned(), Json::Object(object));
        }
        references
    }

    fn assembler(&mut self, description: &Json, path: &JsonPath) {
        let Some((name, options)) = self.step(description, path) else { return };
        let Some(tree) = self.manifest.pipelines.get("tree") else { return };
        let base = tree.id().map_or_else(|| "null".to_owned(), |id| id.as_str().to_owned());
        let references = Object::from_iter([(base, Json::Object(Object::new()))]);
        let mut stage = Stage {
            name,
            assembler: true,
            id: Id::from_text(""),
            recipe: String::new(),
            build: tree.build.clone(),
            base: None,
            options,
            inputs: IndexMap::from([(
                "tree".to_owned(),
                input("org.osbuild.tree", ORIGIN_PIPELINE, references),
            )]),
            devices: IndexMap::new(),
            mounts: Vec::new(),
            path: path.clone(),
        };
        stage.id = id::of_stage(&stage, None);
        let pipeline = Pipeline {
            name: "assembler".to_owned(),
            build: tree.build.clone(),
            runner: tree.runner.clone(),
            source_epoch: None,
            stages: vec![stage],
        };
        self.manifest.pipelines.insert(pipeline.name.clone(), pipeline);
    }

    fn source(&mut self, name: &str, description: &Json, path: &JsonPath) {
        let Some(object) = self.findings.object(description, path) else { return };
        let Some((kind, member)) = source1(name) else {
            let known = || SOURCES.iter().map(|(known, _)| *known);
            let hint = did_you_mean(name, known())
                .or_else(|| Some(format!("manifests of format 1 have {}", list(known()))));
            self.findings.hinted(path, format!("unknown source `{name}`"), hint);
            return;
        };
        let items = match object.get(member) {
            Some(items) => self.findings.object(items, &path.key(member)).cloned().unwrap_or_default(),
            None => {
                self.findings.add(path, format!("`{member}` is missing"));
                Object::new()
            }
        };
        let id = id::of_source(kind, &Json::Object(items.clone()));
        let source = Source { kind: kind.to_owned(), items, options: object.clone(), id };
        self.manifest.sources.insert(kind.to_owned(), source);
    }

    fn check_references(&mut self) {
        let items: HashSet<&str> = self
            .manifest
            .sources
            .values()
            .flat_map(|source| source.items.keys().map(String::as_str))
            .collect();
        for (reference, path) in &self.references {
            if !items.contains(reference.as_str()) {
                let hint = Some(missing_item(reference, |item| items.contains(item)));
                self.findings.hinted(path, format!("no source has an item `{reference}`"), hint);
            }
        }
    }
}

fn input(kind: &str, origin: &str, references: Object) -> Input {
    let mut input = Input {
        kind: kind.to_owned(),
        origin: origin.to_owned(),
        references,
        options: Object::new(),
        id: Id::from_text(""),
    };
    input.id = id::of_input(&input);
    input
}
