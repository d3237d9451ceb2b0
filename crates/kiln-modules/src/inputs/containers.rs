//! `org.osbuild.containers`: images of containers, from the cache or from other pipelines' trees.
//!
//! ```text
//! INPUT/sha256:ID/     an image of a source, in the form `dir`
//! INPUT/FILE           an archive of a pipeline's tree, in the form `oci-archive`
//! ```
//!
//! The reply's `data` is `{"archives": {ID or FILE: {"format", "name"}}}`. The tree of one pipeline is shown whole; of several
//! only the archives are, because trees would hide each other.

use std::fs::{self, File};
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::input::{Input, InputReply, InputRequest, Store};
use kiln_api::module::ModuleSchema;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::root::Root;

/// Hands images of containers to a stage.
///
/// From sources (`org.osbuild.source`), references are the ids of images. From pipelines (`org.osbuild.pipeline`), the image
/// is the first regular file, in the order of names, in the root of the pipeline's tree: an archive as
/// `org.osbuild.oci-archive` makes it. Each reference has the `name` that the image is to have.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {}

pub(crate) struct Containers;

const SOURCE: &str = "org.osbuild.source";
const PIPELINE: &str = "org.osbuild.pipeline";

impl Input for Containers {
    fn name(&self) -> &'static str {
        "org.osbuild.containers"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            references: Some(references(true)),
            origins: &[SOURCE, PIPELINE],
            ..ModuleSchema::of::<Options>()
        }
    }

    fn map(&self, request: &InputRequest<'_>, store: &dyn Store) -> Result<InputReply, ModuleError> {
        let cache = store.source("org.osbuild.containers");
        let mut archives = Map::new();
        for (reference, options) in request.references {
            let name = image_name(reference, options)?;
            let (key, format) = if request.origin == SOURCE {
                provide(&cache, reference, request.target, store)?;
                (reference.clone(), "dir")
            } else {
                (show(store, reference, request, &archives)?, "oci-archive")
            };
            archives.insert(key, json!({"format": format, "name": name}));
        }
        Ok(reply(request.target, &archives))
    }
}

/// What a stage is told of images.
pub(super) fn reply(target: &Path, archives: &Map<String, Value>) -> InputReply {
    let members = Map::from_iter([("data".to_owned(), json!({"archives": archives}))]);
    InputReply { path: target.to_owned(), members }
}

/// The name that an image is to have; the schema lets references without options pass.
pub(super) fn image_name<'a>(reference: &str, options: &'a Value) -> Result<&'a str, ModuleError> {
    let name = options.get("name").and_then(Value::as_str);
    name.ok_or_else(|| ModuleError::option(format!("references.{reference}.name"), "required"))
}

/// Makes an image of a source appear under its id.
fn provide(cache: &Path, id: &str, target: &Path, store: &dyn Store) -> Result<(), ModuleError> {
    check_id(id)?;
    let (image, mount_point) = (cache.join(id).join("image"), target.join(id));
    image.metadata().map_err(ModuleError::io("find the downloaded image", &image))?;
    fs::create_dir(&mount_point).map_err(ModuleError::io("create directory", &mount_point))?;
    store.bind(&image, &mount_point)
}

/// Whether a reference is safe as a name of a file.
pub(super) fn check_id(id: &str) -> Result<(), ModuleError> {
    if id.is_empty() || id.contains('/') || id.starts_with('.') {
        return Err(ModuleError::option(format!("references.{id}"), "expected the id of an image"));
    }
    Ok(())
}

/// Makes the archive of a pipeline's tree appear under its name, which is returned.
fn show(
    store: &dyn Store,
    id: &str,
    request: &InputRequest<'_>,
    others: &Map<String, Value>,
) -> Result<String, ModuleError> {
    let missing = || ModuleError::invalid(format!("there is no tree `{id}` to take an image from"));
    let tree = store.read_tree(id)?.ok_or_else(missing)?;
    let name = first_file(&tree)?.ok_or_else(|| {
        ModuleError::invalid(format!(
            "there is no file in the root of the tree `{id}` that could be an image"
        ))
    })?;
    if others.contains_key(&name) {
        let text = format!("the archives of two pipelines have the same name: `{name}`");
        return Err(ModuleError::invalid(text));
    }
    let (mount_point, part) = if request.references.len() == 1 {
        (request.target.to_owned(), None)
    } else {
        let mount_point = request.target.join(&name);
        File::create(&mount_point).map_err(ModuleError::io("create", &mount_point))?;
        (mount_point, Some(name.as_str()))
    };
    if store.read_tree_at(id, &mount_point, part)? { Ok(name) } else { Err(missing()) }
}

/// The first regular file of a directory in the order of names; links count as what they lead to in the tree.
fn first_file(tree: &Path) -> Result<Option<String>, ModuleError> {
    let root = Root::open(tree)?;
    let entries = fs::read_dir(tree).map_err(ModuleError::io("read", tree))?;
    let names: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.file_name())).collect();
    let mut names = names.map_err(ModuleError::io("read", tree))?;
    names.sort_unstable();
    let Some(name) = names.into_iter().find(|name| root.is_file(name)) else { return Ok(None) };
    let name = name.into_string();
    name.map(Some).map_err(|name| {
        ModuleError::invalid(format!("the name of the file `{}` is not UTF-8", Path::new(&name).display()))
    })
}

/// Lists of references with options, or references with options by name.
pub(super) fn references(name_required: bool) -> Value {
    let mut options = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {"name": {"description": "The name that the image is to have", "type": "string"}}
    });
    if name_required {
        options["required"] = json!(["name"]);
    }
    json!({
        "description": "Images and the names that they are to have",
        "oneOf": [
            {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["id"],
                    "properties": {"id": {"type": "string"}, "options": options}
                }
            },
            {"type": "object", "minProperties": 1, "additionalProperties": options}
        ]
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use kiln_api::module::Kind;

    use super::*;
    use crate::inputs::fixture::{Fixture, map};
    use crate::schema_agreement::Agreement;

    const ID: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const OTHER: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn schema() {
        let agreement = |origin: &str| {
            Agreement::of(Kind::Input, Containers.name(), Containers.schema())
                .member("references")
                .around(json!({"type": Containers.name(), "origin": origin}))
        };
        for origin in [SOURCE, PIPELINE] {
            agreement(origin)
                .accepts([
                    json!({ID: {"name": "a"}, OTHER: {"name": "b"}}),
                    json!([{"id": ID, "options": {"name": "a"}}]),
                    json!([{"id": ID}]),
                ])
                .refuses([
                    json!([]),
                    json!({}),
                    json!([ID]),
                    json!({ID: {}}),
                    json!({ID: {"name": 1}}),
                    json!([{"id": ID, "options": {}}]),
                    json!({ID: {"name": "a", "other": 1}}),
                ]);
        }
        agreement("org.osbuild.other").refuses([json!({ID: {"name": "a"}})]);
    }

    #[test]
    fn images_of_sources_are_bound_below_their_ids() {
        let fixture = Fixture::new();
        for id in [ID, OTHER] {
            fs::create_dir_all(fixture.store().join(id).join("image")).expect("made");
        }
        let references = json!({OTHER: {"name": "b"}, ID: {"name": "a"}});
        let reply = map(&Containers, SOURCE, &references, &fixture).expect("mapped");
        assert_eq!(reply.path, fixture.target());
        let expected =
            json!({"archives": {OTHER: {"format": "dir", "name": "b"}, ID: {"format": "dir", "name": "a"}}});
        assert_eq!(reply.members["data"], expected);
        let binds = [OTHER, ID].map(|id| (fixture.store().join(id).join("image"), fixture.target().join(id)));
        assert_eq!(fixture.binds(), binds);
    }

    #[test]
    fn the_archive_of_a_pipeline_is_the_first_file_of_its_tree() {
        let fixture = Fixture::new();
        let tree = fixture.directory("one");
        fs::create_dir(tree.join("a-directory")).expect("made");
        symlink("/nowhere", tree.join("b-link")).expect("linked");
        // As a path of this machine it would be a file.
        symlink("/etc/hostname", tree.join("c-link")).expect("linked");
        for name in ["d.tar", "e.tar"] {
            fs::write(tree.join(name), "x").expect("written");
        }
        fixture.tree("one", "d.tar");
        let reply = map(&Containers, PIPELINE, &json!({"one": {"name": "a"}}), &fixture).expect("mapped");
        let expected = json!({"archives": {"d.tar": {"format": "oci-archive", "name": "a"}}});
        assert_eq!(reply.members["data"], expected);
        assert_eq!(fixture.mounts(), [("one".to_owned(), fixture.target(), None)]);

        let fixture = Fixture::new();
        for (id, name) in [("one", "a.tar"), ("two", "b.tar"), ("three", "a.tar")] {
            fs::write(fixture.directory(id).join(name), "x").expect("written");
            fixture.tree(id, name);
        }
        let references = json!({"one": {"name": "a"}, "two": {"name": "b"}});
        let reply = map(&Containers, PIPELINE, &references, &fixture).expect("mapped");
        let archive = |name: &str| json!({"format": "oci-archive", "name": name});
        assert_eq!(
            reply.members["data"],
            json!({"archives": {"a.tar": archive("a"), "b.tar": archive("b")}})
        );
        let mounts = [("one", "a.tar"), ("two", "b.tar")]
            .map(|(id, name)| (id.to_owned(), fixture.target().join(name), Some(name.to_owned())));
        assert_eq!(fixture.mounts(), mounts);
        let references = json!({"one": {"name": "a"}, "three": {"name": "b"}});
        let error = map(&Containers, PIPELINE, &references, &fixture).expect_err("the same name").to_string();
        assert!(error.contains("the same name: `a.tar`"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let fixture = Fixture::new();
        fixture.directory("empty");
        let cases = [
            (SOURCE, json!({ID: {"name": "a"}}), "cannot find the downloaded image"),
            (SOURCE, json!({ID: {}}), "name`: required"),
            (SOURCE, json!({"../x": {"name": "a"}}), "expected the id of an image"),
            (PIPELINE, json!({"none": {"name": "a"}}), "there is no tree `none`"),
            (PIPELINE, json!({"empty": {"name": "a"}}), "there is no file in the root of the tree `empty`"),
        ];
        for (origin, references, expected) in cases {
            let error = map(&Containers, origin, &references, &fixture).expect_err(expected).to_string();
            assert!(error.contains(expected), "{references}: {error}");
        }
    }
}
