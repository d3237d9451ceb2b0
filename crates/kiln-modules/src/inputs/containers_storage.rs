//! `org.osbuild.containers-storage`: images of the host's own storage of containers.
//!
//! The whole storage is shown read-only as `storage` in the input's directory. The reply's `data` is `{"archives": {ID:
//! {"format": "containers-storage", "name", "storage"}}}`, where `storage` is what the host's configuration says of it.

use std::fs;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::input::{Input, InputReply, InputRequest, Store};
use kiln_api::module::ModuleSchema;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, json};

use super::containers::{check_id, image_name, references, reply};
use crate::container_storage::ContainerStorage;

/// Hands images of the host's own storage of containers to a stage.
///
/// References are the ids of images that the source `org.osbuild.containers-storage` has; each has the `name` that the image
/// is to have. The stage sees the whole storage, which must have the images as long as the stage runs.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {}

pub(crate) struct ContainersStorage;

impl Input for ContainersStorage {
    fn name(&self) -> &'static str {
        "org.osbuild.containers-storage"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            references: Some(references(false)),
            origins: &["org.osbuild.source"],
            ..ModuleSchema::of::<Options>()
        }
    }

    fn map(&self, request: &InputRequest<'_>, store: &dyn Store) -> Result<InputReply, ModuleError> {
        map(request, store, Path::new("/"))
    }
}

fn map(request: &InputRequest<'_>, store: &dyn Store, root: &Path) -> Result<InputReply, ModuleError> {
    let storage = ContainerStorage::of_host(root)?;
    let mut archives = Map::new();
    for (reference, options) in request.references {
        check_id(reference)?;
        let name = image_name(reference, options)?;
        let told = json!({"format": "containers-storage", "name": name, "storage": storage.table()});
        archives.insert(reference.clone(), told);
    }
    let mount_point = request.target.join("storage");
    fs::create_dir(&mount_point).map_err(ModuleError::io("create directory", &mount_point))?;
    store.bind(&storage.graph_root(), &mount_point)?;
    Ok(reply(request.target, &archives))
}

#[cfg(test)]
mod tests {
    use kiln_api::module::Kind;

    use super::*;
    use crate::inputs::fixture::Fixture;
    use crate::schema_agreement::Agreement;

    const ID: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const SOURCE: &str = "org.osbuild.source";

    #[test]
    fn schema() {
        let agreement = |origin: &str| {
            Agreement::of(Kind::Input, ContainersStorage.name(), ContainersStorage.schema())
                .member("references")
                .around(json!({"type": ContainersStorage.name(), "origin": origin}))
        };
        agreement(SOURCE)
            .accepts([
                json!({ID: {"name": "a"}}),
                json!({ID: {}}),
                json!([{"id": ID, "options": {"name": "a"}}]),
                json!([{"id": ID}]),
            ])
            .refuses([
                json!([]),
                json!({}),
                json!([ID]),
                json!({ID: {"name": 1}}),
                json!({ID: {"other": 1}}),
            ]);
        agreement("org.osbuild.pipeline").refuses([json!({ID: {"name": "a"}})]);
    }

    #[test]
    fn the_storage_is_bound_and_its_configuration_told() {
        let fixture = Fixture::new();
        let (root, graph) = (fixture.directory("root"), fixture.directory("graph"));
        let told = json!({"driver": "vfs", "graphroot": graph});
        fs::create_dir_all(root.join("etc/containers")).expect("made");
        let text = format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\n", graph.display());
        fs::write(root.join("etc/containers/storage.conf"), text).expect("written");
        let references = json!({ID: {"name": "a"}});
        let request = InputRequest {
            origin: SOURCE,
            references: references.as_object().expect("an object"),
            target: &fixture.target(),
            options: &json!({}),
        };
        let reply = map(&request, &fixture, &root).expect("mapped");
        let archive = json!({"format": "containers-storage", "name": "a", "storage": told});
        assert_eq!(reply.members["data"], json!({"archives": {ID: archive}}));
        assert_eq!(reply.path, fixture.target());
        assert_eq!(fixture.binds(), [(graph, fixture.target().join("storage"))]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let fixture = Fixture::new();
        let root = fixture.directory("root");
        for (references, expected) in [
            (json!({ID: {}}), "name`: required"),
            (json!({"../x": {"name": "a"}}), "expected the id of an image"),
        ] {
            let request = InputRequest {
                origin: SOURCE,
                references: references.as_object().expect("an object"),
                target: &fixture.target(),
                options: &json!({}),
            };
            let error = map(&request, &fixture, &root).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
