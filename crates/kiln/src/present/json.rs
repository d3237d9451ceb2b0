//! The result of a build as JSON: the reference's members, and Kiln's own beside them.

use std::collections::HashMap;

use kiln_engine::event::StageResult;
use kiln_engine::manifest::{Manifest, Pipeline};
use kiln_engine::run::{Outcome, PipelineResult};
use kiln_store::object::ObjectStore;
use serde_json::{Map, Value, json};

/// The result of a format-2 manifest.
pub(crate) fn result2(manifest: &Manifest, outcome: &Outcome, store: &ObjectStore) -> Value {
    let mut result = Map::new();
    let failed_item = outcome
        .fetches
        .iter()
        .find_map(|fetch| fetch.results.iter().find_map(|item| Some((&fetch.source, item.error.as_ref()?))));
    let failed_stage =
        outcome.pipelines.iter().find(|pipeline| pipeline.failed).and_then(|pipeline| pipeline.stages.last());
    if let Some((source, error)) = failed_item {
        insert_error(
            &mut result,
            "org.osbuild.error.source",
            &json!({"source": {"type": source, "output": error}}),
        );
    } else if let Some(stage) = failed_stage {
        let stage = json!({
            "id": stage.id.as_str(), "type": stage.name, "output": stage.output, "error": stage.error,
        });
        insert_error(&mut result, "org.osbuild.error.stage", &json!({"stage": stage}));
    } else {
        result.insert("type".to_owned(), json!("result"));
        result.insert("success".to_owned(), json!(true));
        result.insert("metadata".to_owned(), Value::Object(metadata(manifest, outcome, store)));
    }
    result.insert("sources".to_owned(), sources(outcome));
    let mut log = Map::new();
    for pipeline in manifest.pipelines.values() {
        let stages: Vec<Value> = ran(outcome, &pipeline.name)
            .map(|pipeline| pipeline.stages.iter().map(log_entry).collect())
            .unwrap_or_default();
        if !stages.is_empty() {
            log.insert(pipeline.name.clone(), Value::Array(stages));
        }
    }
    result.insert("log".to_owned(), Value::Object(log));
    add_durations(&mut result, outcome);
    Value::Object(result)
}

/// Adds what the user should know and what did not stop the build; without any there is no such member.
pub(crate) fn add_warnings(result: &mut Value, warnings: Vec<String>) {
    if let Some(result) = result.as_object_mut()
        && !warnings.is_empty()
    {
        result.insert("warnings".to_owned(), warnings.into());
    }
}

/// The result of a format-1 manifest.
pub(crate) fn result1(manifest: &Manifest, outcome: &Outcome) -> Value {
    let Some(tree) = manifest.pipelines.get("tree") else { return json!({"success": true}) };
    let mut result = pipeline1(manifest, tree, outcome);
    if let Some(assembler) = manifest.pipelines.get("assembler")
        && let Some(stage) = ran(outcome, &assembler.name).and_then(|pipeline| pipeline.stages.first())
    {
        result.insert("assembler".to_owned(), stage1(stage));
        if !stage.success {
            result.insert("success".to_owned(), json!(false));
        }
    }
    add_durations(&mut result, outcome);
    Value::Object(result)
}

fn pipeline1(manifest: &Manifest, pipeline: &Pipeline, outcome: &Outcome) -> Map<String, Value> {
    let mut result = Map::new();
    let own = ran(outcome, &pipeline.name);
    result.insert("success".to_owned(), json!(own.is_none_or(|own| !own.failed)));
    if let Some(build) = pipeline.build.as_ref().and_then(|id| manifest.pipeline_by_id(id.as_str())) {
        let build = pipeline1(manifest, build, outcome);
        result.insert("success".to_owned(), build.get("success").cloned().unwrap_or_default());
        result.insert("build".to_owned(), Value::Object(build));
    }
    let stages: Vec<Value> = own.map(|own| own.stages.iter().map(stage1).collect()).unwrap_or_default();
    if !stages.is_empty() {
        result.insert("stages".to_owned(), Value::Array(stages));
    }
    result
}

fn stage1(stage: &StageResult) -> Value {
    json!({
        "id": stage.id.as_str(), "type": stage.name, "success": stage.success,
        "error": stage.error, "output": stage.output, "metadata": stage.metadata,
    })
}

fn insert_error(result: &mut Map<String, Value>, kind: &str, details: &Value) {
    result.insert("type".to_owned(), json!("error"));
    result.insert("success".to_owned(), json!(false));
    result.insert("error".to_owned(), json!({"type": kind, "details": details}));
}

fn ran<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a PipelineResult> {
    outcome.pipelines.iter().find(|pipeline| pipeline.name == name)
}

/// What stages said about their results, by pipeline and module, for every pipeline whose object is there.
fn metadata(manifest: &Manifest, outcome: &Outcome, store: &ObjectStore) -> Map<String, Value> {
    let mut all = Map::new();
    for pipeline in manifest.pipelines.values() {
        let Some(id) = pipeline.id() else { continue };
        let object = store.get(id.as_str()).ok().flatten();
        let ran = ran(outcome, &pipeline.name);
        let mut own: Map<String, Value> = Map::new();
        for stage in &pipeline.stages {
            // An object that was moved to the output directory is gone; then this run knows what its stages said.
            let metadata = match &object {
                Some(object) => object.metadata(stage.id.as_str()).ok().flatten(),
                None => ran
                    .and_then(|ran| ran.stages.iter().find(|result| result.id == stage.id))
                    .and_then(|result| result.metadata.clone()),
            };
            let Some(Value::Object(metadata)) = metadata else { continue };
            let entry = own.entry(stage.name.clone()).or_insert_with(|| json!({}));
            if let Value::Object(entry) = entry {
                entry.extend(metadata);
            }
        }
        if !own.is_empty() {
            all.insert(pipeline.name.clone(), Value::Object(own));
        }
    }
    all
}

fn sources(outcome: &Outcome) -> Value {
    let items = || outcome.fetches.iter().flat_map(|fetch| &fetch.results);
    let mut sources = Map::new();
    sources.insert("success".to_owned(), json!(items().all(|item| item.error.is_none())));
    let mut by_source: HashMap<&str, Vec<Value>> = HashMap::new();
    for fetch in &outcome.fetches {
        let entries = by_source.entry(&fetch.source).or_default();
        for item in &fetch.results {
            let entry = match &item.error {
                Some(error) => json!({"checksum": item.checksum, "error": error}),
                None => json!({"cached": item.cached, "checksum": item.checksum}),
            };
            entries.push(entry);
        }
    }
    // In the order of the plan.
    for fetch in &outcome.fetches {
        if let Some(entries) = by_source.remove(fetch.source.as_str()) {
            sources.insert(fetch.source.clone(), Value::Array(entries));
        }
    }
    Value::Object(sources)
}

fn log_entry(stage: &StageResult) -> Value {
    let mut entry = json!({"id": stage.id.as_str(), "type": stage.name, "output": stage.output});
    if let (false, Value::Object(members)) = (stage.success, &mut entry) {
        members.insert("success".to_owned(), json!(false));
        if let Some(error) = &stage.error {
            members.insert("error".to_owned(), error.clone());
        }
    }
    entry
}

/// Kiln's own: how long each pipeline took, and where the exports are.
fn add_durations(result: &mut Map<String, Value>, outcome: &Outcome) {
    let pipelines: Map<String, Value> = outcome
        .pipelines
        .iter()
        .map(|pipeline| (pipeline.name.clone(), json!(pipeline.duration.as_secs_f64())))
        .collect();
    let exports: Map<String, Value> =
        outcome.exports.iter().map(|export| (export.name.clone(), json!(export.path))).collect();
    result.insert("durations".to_owned(), Value::Object(pipelines));
    result.insert("duration".to_owned(), json!(outcome.duration.as_secs_f64()));
    result.insert("exports".to_owned(), Value::Object(exports));
}
