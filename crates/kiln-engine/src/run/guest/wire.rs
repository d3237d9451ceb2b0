//! What host and guest tell each other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::manifest::json::{Json, Object};
use crate::manifest::place::JsonPath;
use crate::manifest::{Device, Id, Input, Mount, Stage};

/// The member of a guest's task that says that stages are to be run.
pub(super) const STAGES: &str = "stages";

/// What a guest is for.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Stages {
    /// What the program wants to know.
    pub(super) told: Value,
    pub(super) place: Place,
}

/// What all stages of a pipeline have in common.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Place {
    pub(super) pipeline: String,
    pub(super) source_epoch: Option<i64>,
    /// The build tree; none for the host's own programs.
    pub(super) build: Option<PathBuf>,
    pub(super) runner: String,
    /// The runner's program, if it is not native.
    pub(super) runner_program: Option<PathBuf>,
    pub(super) rundir: PathBuf,
    pub(super) terminal: String,
    /// Seconds that a stage may run.
    pub(super) stage_timeout: Option<u64>,
    pub(super) sources: PathBuf,
    pub(super) scratch: PathBuf,
}

/// A stage to be run.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Order {
    /// The stage, as a text: numbers in it are Python's.
    pub(super) stage: String,
    pub(super) tree: PathBuf,
    pub(super) metadata: PathBuf,
    /// The trees that it takes in, by id.
    pub(super) trees: BTreeMap<String, PathBuf>,
}

/// What happens to a stage.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Report {
    Output(String),
    Warning(String),
    Service {
        service: String,
        text: String,
    },
    Result {
        success: bool,
        error: Option<Value>,
        reason: Option<String>,
        seconds: f64,
    },
    /// The runner failed to prepare the build root.
    Runner {
        runner: String,
        output: String,
    },
    Error(String),
}

/// Writes a stage as a text.
pub(super) fn write_stage(stage: &Stage) -> String {
    let inputs = stage.inputs.iter().map(|(name, input)| {
        let members = [
            ("kind", text(&input.kind)),
            ("origin", text(&input.origin)),
            ("references", Json::Object(input.references.clone())),
            ("options", Json::Object(input.options.clone())),
            ("id", text(input.id.as_str())),
        ];
        (name.clone(), object(members))
    });
    let devices = stage.devices.iter().map(|(name, device)| {
        let members = [
            ("kind", text(&device.kind)),
            ("parent", optional(device.parent.as_deref())),
            ("options", Json::Object(device.options.clone())),
            ("id", text(device.id.as_str())),
        ];
        (name.clone(), object(members))
    });
    let mounts = stage.mounts.iter().map(|mount| {
        object([
            ("name", text(&mount.name)),
            ("kind", text(&mount.kind)),
            ("device", optional(mount.device.as_deref())),
            ("partition", mount.partition.clone().unwrap_or(Json::Null)),
            ("target", optional(mount.target.as_deref())),
            ("options", Json::Object(mount.options.clone())),
            ("id", text(mount.id.as_str())),
        ])
    });
    object([
        ("name", text(&stage.name)),
        ("assembler", Json::Bool(stage.assembler)),
        ("id", text(stage.id.as_str())),
        ("options", Json::Object(stage.options.clone())),
        ("inputs", Json::Object(inputs.collect())),
        ("devices", Json::Object(devices.collect())),
        ("mounts", Json::Array(mounts.collect())),
    ])
    .to_string()
}

/// Reads what [`write_stage`] has written.
pub(super) fn read_stage(text: &str) -> Option<Stage> {
    let stage = Json::parse(text).ok()?;
    let mut inputs = IndexMap::new();
    for (name, input) in stage.get("inputs")?.as_object()? {
        let input = Input {
            kind: string(input, "kind")?,
            origin: string(input, "origin")?,
            references: members(input, "references")?,
            options: members(input, "options")?,
            id: id(input)?,
        };
        inputs.insert(name.clone(), input);
    }
    let mut devices = IndexMap::new();
    for (name, device) in stage.get("devices")?.as_object()? {
        let parent = string(device, "parent");
        let device = Device {
            kind: string(device, "kind")?,
            parent,
            options: members(device, "options")?,
            id: id(device)?,
        };
        devices.insert(name.clone(), device);
    }
    let Json::Array(listed) = stage.get("mounts")? else { return None };
    let mut mounts = Vec::new();
    for mount in listed {
        mounts.push(Mount {
            name: string(mount, "name")?,
            kind: string(mount, "kind")?,
            device: string(mount, "device"),
            partition: mount.get("partition").filter(|partition| **partition != Json::Null).cloned(),
            target: string(mount, "target"),
            options: members(mount, "options")?,
            id: id(mount)?,
        });
    }
    Some(Stage {
        name: string(&stage, "name")?,
        assembler: *stage.get("assembler")? == Json::Bool(true),
        id: id(&stage)?,
        recipe: String::new(),
        build: None,
        base: None,
        options: members(&stage, "options")?,
        inputs,
        devices,
        mounts,
        path: JsonPath::default(),
    })
}

fn text(text: &str) -> Json {
    Json::from(text)
}

fn optional(value: Option<&str>) -> Json {
    value.map_or(Json::Null, Json::from)
}

fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn string(object: &Json, key: &str) -> Option<String> {
    object.get(key)?.as_str().map(str::to_owned)
}

fn members(object: &Json, key: &str) -> Option<Object> {
    object.get(key)?.as_object().cloned()
}

fn id(object: &Json) -> Option<Id> {
    object.get("id")?.as_str().map(Id::from_text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::load;

    #[test]
    fn a_stage_arrives_as_it_was_sent() {
        let manifest = r#"{"version": "2", "pipelines": [
            {"name": "a", "stages": [{"type": "org.osbuild.noop"}]},
            {"name": "b", "build": "name:a", "stages": [{
                "type": "org.osbuild.copy",
                "options": {"z": 1.0, "a": 123456789012345678901234567890, "é": ["\n", null, true, -0.5e-7]},
                "inputs": {
                    "two": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:a"], "options": {"x": 1}},
                    "one": {"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": {"sha256:00": {"metadata": {}}}}
                },
                "devices": {
                    "root": {"type": "org.osbuild.loopback", "parent": "disk", "options": {"start": 2048}},
                    "disk": {"type": "org.osbuild.loopback", "options": {"filename": "disk.img"}}
                },
                "mounts": [
                    {"name": "root", "type": "org.osbuild.fat", "source": "root", "target": "/", "partition": 2, "options": {"uid": 1}},
                    {"name": "ostree", "type": "org.osbuild.noop"}
                ]
            }]}
        ], "sources": {"org.osbuild.curl": {"items": {"sha256:00": "http://example.invalid/"}}}}"#;
        let manifest = load(manifest).expect("valid");
        for pipeline in manifest.pipelines.values() {
            for stage in &pipeline.stages {
                let read = read_stage(&write_stage(stage)).expect("read");
                // What the guest has no use for.
                let expected = Stage { build: None, base: None, path: JsonPath::default(), ..stage.clone() };
                assert_eq!(format!("{read:?}"), format!("{expected:?}"));
            }
        }
        for text in ["", "{}", "[]", r#"{"name": 1}"#] {
            assert!(read_stage(text).is_none(), "{text}");
        }
    }
}
