//! `org.osbuild.oci-archive`

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Map;

use crate::support::oci::{Config, Image, Layer};

/// Packs the tree into an archive of a container image.
///
/// The archive is a tar archive with the layout of the Open Container Initiative: the tree is its only layer, packed by the
/// build root's `tar` without SELinux labels. `podman pull oci-archive:FILE` reads it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The processor architecture of the image, as `amd64`.
    architecture: String,
    /// The name of the archive.
    filename: String,
    /// How containers of the image are run.
    config: Option<Config>,
}

pub(crate) struct OciArchive;

impl Stage for OciArchive {
    const NAME: &'static str = "org.osbuild.oci-archive";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let tree = super::source(context)?.to_owned();
        let image = Image {
            architecture: options.architecture,
            variant: None,
            config: options.config.unwrap_or_default(),
            annotations: Map::new(),
            layers: vec![Layer { tree, attributes: &[], made_by: None }],
        };
        image.write(&options.filename, context)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::UNIX_EPOCH;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
    use crate::support::oci::testing;

    #[test]
    fn schema_agrees() {
        Agreement::assembler::<OciArchive>()
            .accepts([
                json!({"architecture": "amd64", "filename": "a"}),
                json!({"architecture": "amd64", "filename": "a", "config": {}}),
                everything(),
            ])
            .refuses([
                json!({"architecture": "amd64"}),
                json!({"architecture": "amd64", "filename": "a", "config": {"StopSignal": "TERM"}}),
                json!({"architecture": "amd64", "filename": "a", "config": {"Cmd": "sh"}}),
                json!({"architecture": "amd64", "filename": "a", "compression": "xz"}),
            ]);
    }

    fn everything() -> Value {
        json!({"architecture": "arm64", "filename": "image.tar", "config": {
            "Cmd": ["run", "it"], "Entrypoint": ["/init"], "Env": ["A=b"], "ExposedPorts": ["80/tcp"], "User": "1000",
            "Labels": {"a": "b"}, "StopSiganl": "TERM", "Volumes": ["/data", "/more"], "WorkingDir": "/srv",
        }})
    }

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        let input = fixture.input("tree", &[("b/file", "content"), ("a", "one")]);
        for path in ["b/file", "a", "b", "."] {
            let file = File::open(input.join(path)).expect(path);
            file.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(1_000_000)).expect("a time");
        }
        fixture
    }

    /// The configuration, and what `tar` tells of the layer.
    fn unpack(fixture: &Fixture) -> (Value, String) {
        let mut parts = testing::unpack(&fixture.tree().join("image.tar"));
        assert!(parts.layers.len() == 1 && parts.complete);
        (parts.config, parts.layers.remove(0))
    }

    #[test]
    fn the_image_is_whole() {
        let fixture = fixture();
        fixture.run::<OciArchive>(everything()).expect("packed");
        let (mut config, layer) = unpack(&fixture);
        let created = config["created"].take();
        assert!(created.as_str().is_some_and(|time| time.len() == 20), "{created}");
        assert_eq!(
            config,
            json!({
                "created": null, "architecture": "arm64", "os": "linux", "rootfs": null,
                "config": {
                    "Env": ["A=b"], "Cmd": ["run", "it"], "Entrypoint": ["/init"], "User": "1000", "Labels": {"a": "b"},
                    "WorkingDir": "/srv", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}, "/more": {}},
                },
            })
        );
        assert!(layer.contains(" b/file") && !layer.contains("./"), "{layer}");
        // The tree of the result has nothing but the archive.
        assert_eq!(fs::read_dir(fixture.tree()).expect("the tree").count(), 1);
    }

    #[test]
    fn equal_trees_give_equal_images_at_equal_times() {
        let pack = || {
            let fixture = fixture().at(1_700_000_000);
            fixture
                .run::<OciArchive>(json!({"architecture": "amd64", "filename": "image.tar"}))
                .expect("packed");
            assert_eq!(unpack(&fixture).0["created"], "2023-11-14T22:13:20Z");
            fs::read(fixture.tree().join("image.tar")).expect("there")
        };
        assert!(pack() == pack());
    }

    #[test]
    fn an_empty_tree_is_an_image_too() {
        let mut fixture = Fixture::new();
        fixture.input("tree", &[]);
        fixture.run::<OciArchive>(json!({"architecture": "amd64", "filename": "image.tar"})).expect("packed");
        assert_eq!(unpack(&fixture).1, "");
    }

    #[test]
    fn the_image_is_the_references() {
        for options in [everything(), json!({"architecture": "amd64", "filename": "image.tar", "config": {}})]
        {
            let there = fixture();
            let Some((succeeded, said)) = there.run_reference_assembler(OciArchive::NAME, options.clone())
            else {
                return;
            };
            assert!(succeeded, "{said}");
            let here = fixture();
            here.run::<OciArchive>(options).expect("packed");
            let [(mut here, layer), (mut there, its_layer)] = [unpack(&here), unpack(&there)];
            for config in [&mut here, &mut there] {
                assert!(config["created"].take().as_str().is_some_and(|time| time.ends_with('Z')));
            }
            assert_eq!((here, layer), (there, its_layer));
        }
    }
}
