//! Format 2: a list of named pipelines, each built with an earlier one or with the host.

use std::collections::HashSet;

use indexmap::IndexMap;

use super::finding::{Findings, did_you_mean, list, missing_item};
use super::json::{Json, Object};
use super::place::JsonPath;
use super::{
    Device, Format, Id, Input, Manifest, Mount, ORIGIN_PIPELINE, ORIGIN_SOURCE, Pipeline, Source, Stage, id,
};

pub(super) fn load(document: &Object, findings: &mut Findings) -> Manifest {
    let root = JsonPath::default();
    findings.only(document, &["version", "pipelines", "sources", "metadata"], &root);
    let mut loader = Loader {
        findings,
        manifest: Manifest {
            format: Format::Two,
            metadata: Object::new(),
            pipelines: IndexMap::new(),
            sources: IndexMap::new(),
            runners: Vec::new(),
        },
        items: HashSet::new(),
        requested: Vec::new(),
    };
    if let Some(metadata) = loader.findings.member(document, "metadata", &root) {
        loader.manifest.metadata = metadata.clone();
    }
    if let Some(sources) = loader.findings.member(document, "sources", &root) {
        for (name, description) in sources {
            loader.source(name, description, &root.key("sources").key(name));
        }
    }
    if let Some(pipelines) = document.get("pipelines") {
        let path = root.key("pipelines");
        for (index, description) in loader.findings.array(pipelines, &path).iter().enumerate() {
            loader.pipeline(description, &path.index(index));
        }
    }
    loader.assign_runners();
    loader.manifest
}

struct Loader<'a, 'd> {
    findings: &'a mut Findings,
    manifest: Manifest,
    /// All items of all sources.
    items: HashSet<&'d str>,
    /// The `runner` of each pipeline: it is for the pipelines that build with it.
    requested: Vec<Option<String>>,
}

impl<'d> Loader<'_, 'd> {
    fn source(&mut self, name: &str, description: &'d Json, path: &JsonPath) {
        let Some(object) = self.findings.object(description, path) else { return };
        self.findings.only(object, &["items", "options"], path);
        let empty = Json::Object(Object::new());
        let raw = match object.get("items") {
            Some(items) => items,
            None => {
                self.findings.add(path, "`items` is missing");
                &empty
            }
        };
        let id = id::of_source(name, raw);
        let items = match object.get("items") {
            Some(Json::Object(items)) => {
                self.items.extend(items.keys().map(String::as_str));
                items.clone()
            }
            Some(Json::Array(items)) => {
                // A list of checksums: items without a description.
                let mut members = Object::new();
                for item in items {
                    if let Some(checksum) = item.as_str().or_else(|| item.get("id").and_then(Json::as_str)) {
                        self.items.insert(checksum);
                        members.insert(checksum.to_owned(), Json::Object(Object::new()));
                    }
                }
                members
            }
            Some(other) => {
                let message = format!("expected an object or an array, found {}", other.type_name());
                self.findings.add(&path.key("items"), message);
                Object::new()
            }
            None => Object::new(),
        };
        let options = self.findings.member(object, "options", path).cloned().unwrap_or_default();
        self.manifest.sources.insert(name.to_owned(), Source { kind: name.to_owned(), items, options, id });
    }

    fn pipeline(&mut self, description: &'d Json, path: &JsonPath) {
        let Some(object) = self.findings.object(description, path) else { return };
        self.findings.only(object, &["name", "build", "runner", "source-epoch", "stages"], path);
        let name = self.findings.required(object, "name", path).unwrap_or_default();
        if !name.is_empty() && self.manifest.pipelines.contains_key(name) {
            let hint = Some("pipelines are referred to by their names: give each its own".to_owned());
            let message = format!("there is already a pipeline named `{name}`");
            self.findings.hinted(&path.key("name"), message, hint);
            return;
        }
        let build = self.findings.optional(object, "build", path);
        let build = build.and_then(|reference| self.build_reference(reference, &path.key("build")));
        let runner = self.findings.optional(object, "runner", path).map(str::to_owned);
        let epoch = object.get("source-epoch");
        let source_epoch = match epoch {
            None => None,
            Some(Json::Integer(value)) => Some(*value),
            Some(other) => {
                let message = format!("expected an integer, found {}", other.type_name());
                self.findings.add(&path.key("source-epoch"), message);
                None
            }
        };
        let mut stages: Vec<Stage> = Vec::new();
        if let Some(descriptions) = object.get("stages") {
            let path = path.key("stages");
            for (index, description) in self.findings.array(descriptions, &path).iter().enumerate() {
                let base = stages.last().map(|stage| stage.id.clone());
                if let Some(stage) = self.stage(description, build.clone(), base, epoch, &path.index(index)) {
                    stages.push(stage);
                }
            }
        }
        self.manifest.runners.extend(runner.clone());
        self.requested.push(runner);
        let pipeline = Pipeline { name: name.to_owned(), build, runner: None, source_epoch, stages };
        self.manifest.pipelines.insert(name.to_owned(), pipeline);
    }

    /// Resolves `name:NAME` among the earlier pipelines; anything else is an id.
    fn build_reference(&mut self, reference: &str, path: &JsonPath) -> Option<Id> {
        if reference.is_empty() {
            return None;
        }
        match reference.strip_prefix("name:") {
            Some(name) => self.earlier(name, path)?,
            None if self.manifest.pipeline_by_id(reference).is_some() => Some(Id::from_text(reference)),
            None => {
                let hint = Some(match self.manifest.pipelines.contains_key(reference) {
                    true => format!("did you mean `name:{reference}`?"),
                    false => "refer to an earlier pipeline as `name:NAME`".to_owned(),
                });
                self.findings.hinted(path, format!("unknown pipeline `{reference}`"), hint);
                None
            }
        }
    }

    /// The id of an earlier pipeline; the inner value is none if that pipeline has no stages.
    fn earlier(&mut self, name: &str, path: &JsonPath) -> Option<Option<Id>> {
        if let Some(pipeline) = self.manifest.pipelines.get(name) {
            return Some(pipeline.id().cloned());
        }
        // A pipeline without a name has its own finding.
        let known = || self.manifest.pipelines.keys().map(String::as_str).filter(|name| !name.is_empty());
        let hint = did_you_mean(name, known()).or_else(|| {
            Some(if known().next().is_none() {
                "a pipeline can only refer to an earlier one, and there is none".to_owned()
            } else {
                format!("earlier pipelines are {}", list(known()))
            })
        });
        self.findings.hinted(path, format!("unknown pipeline `{name}`"), hint);
        None
    }

    fn stage(
        &mut self,
        description: &'d Json,
        build: Option<Id>,
        base: Option<Id>,
        epoch: Option<&Json>,
        path: &JsonPath,
    ) -> Option<Stage> {
        let object = self.findings.object(description, path)?;
        self.findings.only(object, &["type", "options", "inputs", "devices", "mounts"], path);
        let name = self.findings.required(object, "type", path)?;
        let mut stage = Stage {
            name: name.to_owned(),
            assembler: false,
            id: Id::from_text(""),
            recipe: String::new(),
            build,
            base,
            options: self.findings.member(object, "options", path).cloned().unwrap_or_default(),
            inputs: IndexMap::new(),
            devices: IndexMap::new(),
            mounts: Vec::new(),
            path: path.clone(),
        };
        let declared = object.get("devices").and_then(Json::as_object);
        if let Some(devices) = self.findings.member(object, "devices", path) {
            stage.devices = self.devices(devices, &path.key("devices"));
        }
        if let Some(inputs) = self.findings.member(object, "inputs", path) {
            for (name, description) in inputs {
                if let Some(input) = self.input(description, &path.key("inputs").key(name)) {
                    stage.inputs.insert(name.clone(), input);
                }
            }
        }
        if let Some(mounts) = object.get("mounts") {
            let path = path.key("mounts");
            for (index, description) in self.findings.array(mounts, &path).iter().enumerate() {
                self.mount(description, &mut stage, declared, &path.index(index));
            }
        }
        stage.id = id::of_stage(&stage, epoch);
        Some(stage)
    }

    /// Reads devices in the order in which they are opened: in the manifest's order, parents first.
    fn devices(&mut self, descriptions: &Object, path: &JsonPath) -> IndexMap<String, Device> {
        let mut result: IndexMap<String, Device> = IndexMap::new();
        let mut todo: Vec<(&String, &Json)> = descriptions.iter().collect();
        while !todo.is_empty() {
            let before = todo.len();
            let mut later = Vec::new();
            for (name, description) in todo {
                let path = path.key(name);
                let parent =
                    description.get("parent").and_then(Json::as_str).filter(|parent| !parent.is_empty());
                if let Some(parent) = parent
                    && !result.contains_key(parent)
                {
                    if descriptions.contains_key(parent) {
                        later.push((name, description));
                    } else {
                        let others =
                            || descriptions.keys().filter(|other| *other != name).map(String::as_str);
                        let hint = did_you_mean(parent, others()).or_else(|| {
                            Some(format!("the stage's other devices are {}", list(others())))
                                .filter(|_| others().next().is_some())
                        });
                        let message = format!("device `{name}` has an unknown parent `{parent}`");
                        self.findings.hinted(&path.key("parent"), message, hint);
                    }
                    continue;
                }
                if let Some(device) = self.device(description, parent, &result, &path) {
                    result.insert(name.clone(), device);
                }
            }
            if later.len() == before {
                let names = list(later.iter().map(|(name, _)| name.as_str()));
                self.findings.add(path, format!("the devices {names} are each other's parents"));
                break;
            }
            todo = later;
        }
        result
    }

    fn device(
        &mut self,
        description: &Json,
        parent: Option<&str>,
        opened: &IndexMap<String, Device>,
        path: &JsonPath,
    ) -> Option<Device> {
        let object = self.findings.object(description, path)?;
        self.findings.only(object, &["type", "parent", "options"], path);
        let kind = self.findings.required(object, "type", path)?.to_owned();
        let options = self.findings.member(object, "options", path).cloned().unwrap_or_default();
        let parent_id = parent.and_then(|parent| opened.get(parent)).map(|device| device.id.clone());
        let mut device = Device { kind, parent: parent.map(str::to_owned), options, id: Id::from_text("") };
        device.id = id::of_device(&device, parent_id.as_ref());
        Some(device)
    }

    fn input(&mut self, description: &'d Json, path: &JsonPath) -> Option<Input> {
        let object = self.findings.object(description, path)?;
        self.findings.only(object, &["type", "origin", "references", "options"], path);
        let kind = self.findings.required(object, "type", path)?.to_owned();
        let origin = self.findings.required(object, "origin", path)?.to_owned();
        if origin != ORIGIN_PIPELINE && origin != ORIGIN_SOURCE {
            let hint = did_you_mean(&origin, [ORIGIN_PIPELINE, ORIGIN_SOURCE].into_iter());
            self.findings.hinted(&path.key("origin"), format!("unknown origin `{origin}`"), hint);
            return None;
        }
        let options = self.findings.member(object, "options", path).cloned().unwrap_or_default();
        let references = match object.get("references") {
            Some(references) => self.references(references, &path.key("references")),
            None => {
                self.findings.add(path, "`references` is missing");
                Vec::new()
            }
        };
        let mut resolved = Object::new();
        for (reference, options, path) in references {
            // What Python takes for false becomes an empty object there.
            let options = options.filter(|options| !options.is_falsy()).cloned();
            let options = options.unwrap_or_else(|| Json::Object(Object::new()));
            if origin == ORIGIN_PIPELINE {
                // References by id are passed over, as in the reference.
                let Some(name) = reference.strip_prefix("name:") else { continue };
                if let Some(target) = self.earlier(name, &path) {
                    let key = target.map_or_else(|| "null".to_owned(), |id| id.as_str().to_owned());
                    resolved.insert(key, options);
                }
            } else if self.items.contains(reference) {
                resolved.insert(reference.to_owned(), options);
            } else {
                let hint = Some(missing_item(reference, |item| self.items.contains(item)));
                self.findings.hinted(&path, format!("no source has an item `{reference}`"), hint);
            }
        }
        let mut input = Input { kind, origin, references: resolved, options, id: Id::from_text("") };
        input.id = id::of_input(&input);
        Some(input)
    }

    /// References are a list of names, a list of `{id, options}`, or an object of options by name.
    fn references(&mut self, value: &'d Json, path: &JsonPath) -> Vec<(&'d str, Option<&'d Json>, JsonPath)> {
        let mut result = Vec::new();
        match value {
            Json::Object(members) => {
                for (name, options) in members {
                    result.push((name.as_str(), Some(options), path.key(name)));
                }
            }
            Json::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = path.index(index);
                    match item {
                        Json::String(name) => result.push((name.as_str(), None, path)),
                        Json::Object(object) => {
                            if let Some(name) = self.findings.required(object, "id", &path) {
                                result.push((name, object.get("options"), path.key("id")));
                            }
                        }
                        other => {
                            let message =
                                format!("expected a string or an object, found {}", other.type_name());
                            self.findings.add(&path, message);
                        }
                    }
                }
            }
            other => {
                let message = format!("expected an object or an array, found {}", other.type_name());
                self.findings.add(path, message);
            }
        }
        result
    }

    fn mount(&mut self, description: &Json, stage: &mut Stage, declared: Option<&Object>, path: &JsonPath) {
        let Some(object) = self.findings.object(description, path) else { return };
        self.findings.only(object, &["name", "type", "source", "partition", "target", "options"], path);
        let name = self.findings.required(object, "name", path).map(str::to_owned);
        let kind = self.findings.required(object, "type", path).map(str::to_owned);
        let (Some(name), Some(kind)) = (name, kind) else { return };
        if stage.mounts.iter().any(|mount| mount.name == name) {
            let hint = Some("mounts are referred to by their names: give each of a stage its own".to_owned());
            let message = format!("there is already a mount named `{name}`");
            self.findings.hinted(&path.key("name"), message, hint);
            return;
        }
        let source = self.findings.optional(object, "source", path).filter(|source| !source.is_empty());
        let device = source.and_then(|source| stage.devices.get(source));
        if let (Some(source), None) = (source, device) {
            // A device that is there but wrong is blamed itself.
            if declared.is_some_and(|devices| devices.contains_key(source)) {
                return;
            }
            let names = || declared.into_iter().flat_map(Object::keys).map(String::as_str);
            let hint = did_you_mean(source, names()).unwrap_or_else(|| match names().next() {
                Some(_) => format!("the stage's devices are {}", list(names())),
                None => "the stage has no devices".to_owned(),
            });
            let message = format!("mount `{name}` names an unknown device `{source}`");
            self.findings.hinted(&path.key("source"), message, Some(hint));
            return;
        }
        let partition = object.get("partition").cloned();
        if let Some(partition) = &partition
            && !matches!(partition, Json::Integer(_) | Json::BigInteger(_) | Json::Float(_))
        {
            let message = format!("expected a number, found {}", partition.type_name());
            self.findings.add(&path.key("partition"), message);
        }
        let mut mount = Mount {
            name,
            kind,
            device: source.map(str::to_owned),
            partition,
            target: self.findings.optional(object, "target", path).map(str::to_owned),
            options: self.findings.member(object, "options", path).cloned().unwrap_or_default(),
            id: Id::from_text(""),
        };
        mount.id = id::of_mount(&mount, device.map(|device| &device.id));
        stage.mounts.push(mount);
    }

    /// The `runner` of a pipeline is the one for the pipelines that build with it; a pipeline without a
    /// build pipeline uses the host's.
    fn assign_runners(&mut self) {
        let by_id: std::collections::HashMap<Id, Option<String>> = self
            .manifest
            .pipelines
            .values()
            .zip(&self.requested)
            .filter_map(|(pipeline, runner)| Some((pipeline.id()?.clone(), runner.clone())))
            .collect();
        for pipeline in self.manifest.pipelines.values_mut() {
            pipeline.runner =
                pipeline.build.as_ref().and_then(|build| by_id.get(build)).cloned().unwrap_or_default();
        }
    }
}
