//! The description of a manifest with all its ids, as `--inspect` prints it.

use super::json::{Json, Object};
use super::{Format, Input, Manifest, Mount, Pipeline, Stage};

/// Describes a manifest in its own format. `host_runner` is the name shown where the host's runner is used.
pub fn describe(manifest: &Manifest, host_runner: &str) -> Json {
    match manifest.format {
        Format::One => format1(manifest, host_runner),
        Format::Two => format2(manifest, host_runner),
    }
}

fn object<const N: usize>(members: [(&str, Json); N]) -> Object {
    members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn add_options(description: &mut Object, options: &Object) {
    if !options.is_empty() {
        description.insert("options".to_owned(), Json::Object(options.clone()));
    }
}

fn format2(manifest: &Manifest, host_runner: &str) -> Json {
    let mut description = object([
        ("version", Json::from("2")),
        (
            "pipelines",
            manifest.pipelines.values().map(|pipeline| pipeline2(manifest, pipeline, host_runner)).collect(),
        ),
    ]);
    if !manifest.metadata.is_empty() {
        description.insert("metadata".to_owned(), Json::Object(manifest.metadata.clone()));
    }
    if !manifest.sources.is_empty() {
        let sources = manifest.sources.values().map(|source| {
            let items = Json::Object(source.items.clone());
            (source.kind.clone(), Json::Object(object([("items", items)])))
        });
        description.insert("sources".to_owned(), Json::Object(sources.collect()));
    }
    Json::Object(description)
}

fn pipeline2(manifest: &Manifest, pipeline: &Pipeline, host_runner: &str) -> Json {
    let mut description = object([("name", Json::from(pipeline.name.as_str()))]);
    if let Some(build) = &pipeline.build {
        description.insert("build".to_owned(), Json::from(build.as_str()));
    }
    // The runner is shown where format 2 has it: in the pipeline that others build with.
    let user = pipeline
        .id()
        .and_then(|id| manifest.pipelines.values().rfind(|other| other.build.as_ref() == Some(id)));
    if let Some(user) = user {
        let runner = user.runner.as_deref().unwrap_or(host_runner);
        description.insert("runner".to_owned(), Json::from(runner));
    }
    if !pipeline.stages.is_empty() {
        description.insert("stages".to_owned(), pipeline.stages.iter().map(stage2).collect());
    }
    Json::Object(description)
}

fn stage2(stage: &Stage) -> Json {
    let mut description =
        object([("type", Json::from(stage.name.as_str())), ("id", Json::from(stage.id.as_str()))]);
    add_options(&mut description, &stage.options);
    if !stage.devices.is_empty() {
        let devices = stage.devices.iter().map(|(name, device)| {
            let mut description = object([("type", Json::from(device.kind.as_str()))]);
            add_options(&mut description, &device.options);
            (name.clone(), Json::Object(description))
        });
        description.insert("devices".to_owned(), Json::Object(devices.collect()));
    }
    if !stage.mounts.is_empty() {
        description.insert("mounts".to_owned(), stage.mounts.iter().map(mount2).collect());
    }
    if !stage.inputs.is_empty() {
        let inputs = stage.inputs.iter().map(|(name, input)| (name.clone(), input2(input)));
        description.insert("inputs".to_owned(), Json::Object(inputs.collect()));
    }
    Json::Object(description)
}

fn input2(input: &Input) -> Json {
    let mut description =
        object([("type", Json::from(input.kind.as_str())), ("origin", Json::from(input.origin.as_str()))]);
    add_options(&mut description, &input.options);
    if !input.references.is_empty() {
        description.insert("references".to_owned(), Json::Object(input.references.clone()));
    }
    Json::Object(description)
}

fn mount2(mount: &Mount) -> Json {
    let target = mount.target.as_deref().map_or(Json::Null, Json::from);
    let mut description = object([
        ("name", Json::from(mount.name.as_str())),
        ("type", Json::from(mount.kind.as_str())),
        ("target", target),
    ]);
    if let Some(device) = &mount.device {
        description.insert("source".to_owned(), Json::from(device.as_str()));
    }
    add_options(&mut description, &mount.options);
    if let Some(partition) = mount.partition.as_ref().filter(|partition| !partition.is_falsy()) {
        description.insert("partition".to_owned(), partition.clone());
    }
    Json::Object(description)
}

fn format1(manifest: &Manifest, host_runner: &str) -> Json {
    let mut pipeline = match manifest.pipelines.get("tree") {
        Some(tree) => pipeline1(manifest, tree, host_runner),
        None => Object::new(),
    };
    if let Some(stage) = manifest.pipelines.get("assembler").and_then(|assembler| assembler.stages.first()) {
        pipeline.insert("assembler".to_owned(), stage1(stage));
    }
    let mut description = object([("pipeline", Json::Object(pipeline))]);
    if !manifest.sources.is_empty() {
        let sources = manifest.sources.values().map(|source| {
            let name = if source.kind == "org.osbuild.curl" { "org.osbuild.files" } else { &source.kind };
            (name.to_owned(), Json::Object(source.options.clone()))
        });
        description.insert("sources".to_owned(), Json::Object(sources.collect()));
    }
    Json::Object(description)
}

fn pipeline1(manifest: &Manifest, pipeline: &Pipeline, host_runner: &str) -> Object {
    let mut description = Object::new();
    if let Some(build) = pipeline.build.as_ref().and_then(|id| manifest.pipeline_by_id(id.as_str())) {
        let nested = Json::Object(pipeline1(manifest, build, host_runner));
        let runner = Json::from(pipeline.runner.as_deref().unwrap_or(host_runner));
        description
            .insert("build".to_owned(), Json::Object(object([("pipeline", nested), ("runner", runner)])));
    }
    if !pipeline.stages.is_empty() {
        description.insert("stages".to_owned(), pipeline.stages.iter().map(stage1).collect());
    }
    description
}

fn stage1(stage: &Stage) -> Json {
    let mut description = object([("name", Json::from(stage.name.as_str()))]);
    add_options(&mut description, &stage.options);
    description.insert("id".to_owned(), Json::from(stage.id.as_str()));
    Json::Object(description)
}

impl FromIterator<Json> for Json {
    fn from_iter<I: IntoIterator<Item = Json>>(items: I) -> Self {
        Self::Array(items.into_iter().collect())
    }
}
