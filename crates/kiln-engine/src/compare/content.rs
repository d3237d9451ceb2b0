//! What a stage, a pipeline or a source says, apart from what it depends on.
//!
//! Ids of pipelines are replaced by names: whether a stage takes the tree of another pipeline is what it says, which
//! id that pipeline has is not.

use std::collections::HashMap;

use super::change::{Change, text};
use crate::manifest::json::{Json, Object};
use crate::manifest::place::{JsonPath, Step};
use crate::manifest::{Device, Id, Input, Manifest, Mount, ORIGIN_PIPELINE, Pipeline, Source, Stage};

/// The names of a manifest's pipelines by their ids.
pub(super) struct Names<'a>(HashMap<&'a str, (&'a str, &'a Pipeline)>);

impl<'a> Names<'a> {
    /// `rename` gives the name that a pipeline is to be called by.
    pub(super) fn new(manifest: &'a Manifest, rename: impl Fn(&'a str) -> &'a str) -> Self {
        let mut names = HashMap::new();
        for pipeline in manifest.pipelines.values() {
            if let Some(id) = pipeline.id() {
                // Of pipelines with the same id the first one is referred to.
                names.entry(id.as_str()).or_insert_with(|| (rename(&pipeline.name), pipeline));
            }
        }
        Self(names)
    }

    /// The name of the pipeline with an id; the id where there is none.
    pub(super) fn of<'n>(&'n self, id: &'n str) -> &'n str {
        self.0.get(id).map_or(id, |(name, _)| name)
    }

    /// The recipe of the pipeline with an id.
    pub(super) fn recipe(&self, id: &str) -> &str {
        self.0.get(id).map_or("", |(_, pipeline)| pipeline.recipe())
    }

    /// What a pipeline says beside its stages.
    pub(super) fn pipeline(&self, pipeline: &Pipeline) -> Json {
        let mut members = Object::new();
        let mut add =
            |key: &str, value: Option<Json>| members.extend(value.map(|value| (key.to_owned(), value)));
        add("build", pipeline.build.as_ref().map(|id| self.reference(id.as_str())));
        add("runner", pipeline.runner.as_deref().map(Json::from));
        add("source-epoch", pipeline.source_epoch.map(Json::Integer));
        Json::Object(members)
    }

    fn reference(&self, id: &str) -> Json {
        Json::from(self.reference_text(id))
    }

    fn reference_text(&self, id: &str) -> String {
        self.0.get(id).map_or_else(|| id.to_owned(), |(name, _)| format!("name:{name}"))
    }

    /// What a stage says.
    pub(super) fn stage(&self, stage: &Stage) -> Json {
        let mut members = Object::new();
        let mut add = |key: &str, value: Json| {
            if !value.is_falsy() {
                members.insert(key.to_owned(), value);
            }
        };
        add("assembler", Json::Bool(stage.assembler));
        add("options", Json::Object(stage.options.clone()));
        let inputs = stage.inputs.iter().map(|(name, input)| (name.clone(), self.input(input)));
        add("inputs", Json::Object(inputs.collect()));
        let devices = stage.devices.iter().map(|(name, entry)| (name.clone(), device(entry)));
        add("devices", Json::Object(devices.collect()));
        add("mounts", stage.mounts.iter().map(mount).collect());
        Json::Object(members)
    }

    fn input(&self, input: &Input) -> Json {
        let mut members = object([("type", &input.kind), ("origin", &input.origin)]);
        let references = if input.origin == ORIGIN_PIPELINE {
            input.references.iter().map(|(id, said)| (self.reference_text(id), said.clone())).collect()
        } else {
            input.references.clone()
        };
        add_object(&mut members, "references", &references);
        add_object(&mut members, "options", &input.options);
        Json::Object(members)
    }
}

fn object<const N: usize>(members: [(&str, &str); N]) -> Object {
    members.into_iter().map(|(key, value)| (key.to_owned(), Json::from(value))).collect()
}

fn add_object(members: &mut Object, key: &str, value: &Object) {
    if !value.is_empty() {
        members.insert(key.to_owned(), Json::Object(value.clone()));
    }
}

/// In which order inputs and devices are made. Ids do not depend on it.
pub(super) fn orders(stage: &Stage) -> [(&'static str, Json); 2] {
    let names = |names: Vec<&String>| names.into_iter().map(|name| Json::from(name.as_str())).collect();
    [("inputs", names(stage.inputs.keys().collect())), ("devices", names(stage.devices.keys().collect()))]
}

fn device(device: &Device) -> Json {
    let mut members = object([("type", &device.kind)]);
    members.extend(device.parent.as_deref().map(|parent| ("parent".to_owned(), Json::from(parent))));
    add_object(&mut members, "options", &device.options);
    Json::Object(members)
}

fn mount(mount: &Mount) -> Json {
    let mut members = object([("name", &mount.name), ("type", &mount.kind)]);
    members.extend(mount.device.as_deref().map(|device| ("source".to_owned(), Json::from(device))));
    members.extend(mount.partition.clone().map(|partition| ("partition".to_owned(), partition)));
    members.extend(mount.target.as_deref().map(|target| ("target".to_owned(), Json::from(target))));
    add_object(&mut members, "options", &mount.options);
    Json::Object(members)
}

/// What sources say.
pub(super) fn source(source: &Source) -> Json {
    let items = Json::Object(source.items.clone());
    // In format 1 the options are the whole description, items included.
    let same = text(&items);
    let options: Object = source
        .options
        .iter()
        .filter(|(_, value)| value.as_object().is_none() || text(value) != same)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut members = Object::from_iter([("items".to_owned(), items)]);
    add_object(&mut members, "options", &options);
    Json::Object(members)
}

/// Whether a stage's id depends on a change in what it says.
pub(super) fn in_id(change: &Change, old: &Stage, new: &Stage) -> bool {
    let falsy = |value: Option<&Json>| value.is_none_or(Json::is_falsy);
    match steps(&change.path).as_slice() {
        ["assembler"] => false,
        ["devices", name, ..] => mounted(old, name) || mounted(new, name),
        // Other names and references are in the id as what they stand for.
        ["mounts", _, "name"] => false,
        ["mounts", _, "source"] => {
            let id = |stage: &Stage, name: Option<&Json>| {
                name.and_then(Json::as_str)
                    .and_then(|name| stage.devices.get(name))
                    .map(|device| device.id.clone())
            };
            let ids: (Option<Id>, Option<Id>) = (id(old, change.edit.before()), id(new, change.edit.after()));
            ids.0 != ids.1
        }
        ["mounts", _, "partition" | "target"] => !(falsy(change.edit.before()) && falsy(change.edit.after())),
        _ => true,
    }
}

fn steps(path: &JsonPath) -> Vec<&str> {
    path.0.iter().map(|step| if let Step::Key(key) = step { key.as_str() } else { "" }).collect()
}

/// Whether something is mounted from a device or from one that lies on it.
fn mounted(stage: &Stage, device: &str) -> bool {
    stage.mounts.iter().filter_map(|mount| mount.device.as_deref()).any(|mut name| {
        loop {
            if name == device {
                return true;
            }
            // Parents come first, so this ends.
            match stage.devices.get(name).and_then(|entry| entry.parent.as_deref()) {
                Some(parent) => name = parent,
                None => return false,
            }
        }
    })
}
