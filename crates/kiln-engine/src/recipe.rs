//! What the result of a stage depends on, beside its id.
//!
//! Ids are shared with the reference and leave things out: the code of the modules, the runner, the options of devices
//! that nothing is mounted from, the clamping of times. Two builds that differ only there would serve each other's
//! results. The *recipe* of a stage covers all of it, including the recipes of the build root and of the trees that
//! come in, and stands beside the object in the cache, where an object of another recipe is a miss.
//!
//! A recipe is the SHA-256, in hexadecimal, of length-prefixed parts. It may change from one version of Kiln to the
//! next, and does: the code is in it.

use std::collections::HashMap;
use std::fmt;

use kiln_api::module::Kind;
use sha2::{Digest, Sha256};

use crate::manifest::json::{Json, Object};
use crate::manifest::{Manifest, ORIGIN_PIPELINE, Pipeline, Stage};

/// What a recipe begins with; to be changed with the rules here.
const VERSION: &str = "kiln recipe 2";

/// Gives every stage its recipe. `code` gives what stands for the code of a module, `host_runner` for the host where it is the
/// build root.
pub fn assign(manifest: &mut Manifest, code: &dyn Fn(Kind, &str) -> String, host_runner: &str) {
    // Of pipelines with the same id the first one is referred to.
    let mut known: HashMap<String, String> = HashMap::new();
    for pipeline in manifest.pipelines.values_mut() {
        let mut recipe = Recipe::new();
        recipe.text(&code(Kind::Runner, pipeline.runner.as_deref().unwrap_or(host_runner)));
        let build =
            pipeline.build.as_ref().map(|id| known.get(id.as_str()).map_or(id.as_str(), String::as_str));
        recipe.optional(build);
        // Without a build root the host's tools do the work.
        recipe.text(pipeline.runner.as_deref().unwrap_or(host_runner));
        recipe.text(if build.is_none() { host_runner } else { "" });
        recipe.optional(pipeline.source_epoch.map(|epoch| epoch.to_string()).as_deref());
        let mut base = recipe.finish();
        for stage in &mut pipeline.stages {
            base = of_stage(stage, &base, code, &known);
            stage.recipe.clone_from(&base);
        }
        if let Some(id) = pipeline.id() {
            known.entry(id.as_str().to_owned()).or_insert(base);
        }
    }
}

fn of_stage(
    stage: &Stage,
    base: &str,
    code: &dyn Fn(Kind, &str) -> String,
    known: &HashMap<String, String>,
) -> String {
    let mut recipe = Recipe::new();
    recipe.text(base);
    recipe.text(&stage.name);
    let kind = if stage.assembler { Kind::Assembler } else { Kind::Stage };
    recipe.text(kind.noun());
    recipe.text(&code(kind, &stage.name));
    recipe.object(&stage.options);
    recipe.count(stage.inputs.len());
    for (name, input) in &stage.inputs {
        recipe.text(name);
        recipe.text(&input.kind);
        recipe.text(&code(Kind::Input, &input.kind));
        recipe.text(&input.origin);
        recipe.object(&input.options);
        recipe.object(&input.references);
        if input.origin == ORIGIN_PIPELINE {
            for id in input.references.keys() {
                recipe.optional(known.get(id).map(String::as_str));
            }
        }
    }
    recipe.count(stage.devices.len());
    for (name, device) in &stage.devices {
        recipe.text(name);
        recipe.text(&device.kind);
        recipe.text(&code(Kind::Device, &device.kind));
        recipe.optional(device.parent.as_deref());
        recipe.object(&device.options);
    }
    recipe.count(stage.mounts.len());
    for mount in &stage.mounts {
        recipe.text(&mount.name);
        recipe.text(&mount.kind);
        recipe.text(&code(Kind::Mount, &mount.kind));
        recipe.optional(mount.device.as_deref());
        recipe.optional(mount.partition.as_ref().map(sorted).as_deref());
        recipe.optional(mount.target.as_deref());
        recipe.object(&mount.options);
    }
    recipe.finish()
}

fn sorted(value: &Json) -> String {
    let mut text = String::new();
    // Writing to memory cannot fail.
    let _ = value.write_sorted(&mut text);
    text
}

struct Recipe(Sha256);

impl Recipe {
    fn new() -> Self {
        let mut recipe = Self(Sha256::new());
        recipe.text(VERSION);
        recipe
    }

    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.update(text);
    }

    fn optional(&mut self, text: Option<&str>) {
        self.count(text.is_some().into());
        if let Some(text) = text {
            self.text(text);
        }
    }

    fn object(&mut self, object: &Object) {
        // JSON ends by itself, so it needs no length.
        let _ = write_object(object, &mut Writer(&mut self.0));
    }

    fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn write_object(object: &Object, out: &mut impl fmt::Write) -> fmt::Result {
    out.write_char('{')?;
    let mut members: Vec<_> = object.iter().collect();
    members.sort_unstable_by_key(|(key, _)| key.as_str());
    for (key, value) in members {
        crate::manifest::json::write_string(key, out)?;
        out.write_char(':')?;
        value.write_sorted(out)?;
        out.write_char(',')?;
    }
    out.write_char('}')
}

struct Writer<'a>(&'a mut Sha256);

impl fmt::Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}

impl Pipeline {
    /// The recipe of the last stage.
    pub fn recipe(&self) -> &str {
        self.stages.last().map_or("", |stage| &stage.recipe)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::manifest::load;

    fn document() -> Value {
        json!({
            "version": "2",
            "pipelines": [
                {"name": "build", "runner": "org.osbuild.debian12", "stages": [{"type": "org.osbuild.noop"}]},
                {"name": "tree", "build": "name:build", "source-epoch": 1, "stages": [
                    {"type": "org.osbuild.noop", "options": {"a": 1, "b": [2]}},
                    {"type": "org.osbuild.mkfs.ext4", "options": {},
                     "devices": {"device": {"type": "org.osbuild.loopback", "options": {"filename": "x", "start": 1}}}},
                ]},
                {"name": "image", "build": "name:build", "stages": [{"type": "org.osbuild.copy", "inputs": {
                    "tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}}}]},
            ],
        })
    }

    /// Id and recipe of each pipeline.
    fn assigned(document: &Value, code: &str, host: &str) -> Vec<(String, String)> {
        let mut manifest = load(&document.to_string()).expect("valid");
        assign(&mut manifest, &|_, _| code.to_owned(), host);
        manifest
            .pipelines
            .values()
            .map(|pipeline| {
                (pipeline.id().expect("stages").as_str().to_owned(), pipeline.recipe().to_owned())
            })
            .collect()
    }

    #[test]
    fn what_an_id_leaves_out_is_in_the_recipe() {
        let before = assigned(&document(), "code", "host");
        let changed = |pointer: &str, value: Value| {
            let mut document = document();
            *document.pointer_mut(pointer).expect(pointer) = value;
            document
        };
        // What is changed, the code, the host, and whose recipes change; no id does.
        let cases = [
            (document(), "code", "host", [false, false, false]),
            (
                changed("/pipelines/1/stages/1/devices/device/options/start", json!(2)),
                "code",
                "host",
                [false, true, true],
            ),
            // A build root's runner is for those who build with it.
            (
                changed("/pipelines/0/runner", json!("org.osbuild.debian13")),
                "code",
                "host",
                [false, true, true],
            ),
            (document(), "other code", "host", [true, true, true]),
            // Only the first one is built with the host's tools.
            (document(), "code", "other host", [true, true, true]),
        ];
        for (document, code, host, expected) in cases {
            let after = assigned(&document, code, host);
            for ((before, after), expected) in before.iter().zip(&after).zip(expected) {
                assert_eq!(before.0, after.0, "{document}");
                assert_eq!(before.1 != after.1, expected, "{document} {code} {host}");
                assert_eq!(after.1.len(), 64);
            }
        }
    }

    #[test]
    fn the_order_of_options_does_not_matter() {
        let mut other = document();
        *other.pointer_mut("/pipelines/1/stages/0/options").expect("options") = json!({"b": [2], "a": 1});
        assert_eq!(assigned(&document(), "c", "h"), assigned(&other, "c", "h"));
    }
}
