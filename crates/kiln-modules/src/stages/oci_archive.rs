//! `org.osbuild.oci-archive`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::oci::{Config, Image, Layer};

/// The attributes that belong to an image: those of its users, and what the kernel checks and grants. Archives in
/// posix format have times to the fraction of a second.
const ATTRIBUTES: &[&str] = &[
    "--format=posix",
    "--xattrs-include=user.*",
    "--xattrs-include=security.ima",
    "--xattrs-include=security.capability",
];

/// Packs trees into an archive of a container image, one layer each.
///
/// The archive is a tar archive with the layout of the Open Container Initiative. The input `base` is the lowest layer;
/// `layer.1`, `layer.2` and so on follow in the order of their numbers. Layers are packed by the build root's `tar`, with
/// access control lists, capabilities and the attributes `user.*`, without SELinux labels. `podman pull oci-archive:FILE`
/// reads the archive.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The processor architecture of the image, as `amd64`.
    architecture: String,
    /// Which kind of the architecture it is, as `v8`.
    variant: Option<String>,
    /// The name of the archive.
    filename: String,
    /// How containers of the image are run.
    config: Option<Config>,
    /// What is said of the image in its manifest, by names of one's own choice. Names below `org.osbuild` and
    /// `org.opencontainer` are taken; those that tell of a commit of OSTree in the image may be used.
    #[schemars(with = "Option<Annotations>")]
    annotations: Option<Map<String, Value>>,
}

#[expect(dead_code, reason = "a schema; annotations are written as they are")]
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("patternProperties" = {"^(?!org.osbuild|org.opencontainer).+": {"type": "string"}}))]
struct Annotations {
    /// The layer with the repository: its place in the list from zero, or its digest.
    #[serde(rename = "org.osbuild.ostree.layer")]
    layer: Option<String>,
    /// The path of the repository in the layer.
    #[serde(rename = "org.osbuild.ostree.repo")]
    repository: Option<String>,
    /// The reference of the commit in the repository.
    #[serde(rename = "org.osbuild.ostree.ref")]
    reference: Option<String>,
}

pub(crate) struct OciArchive;

impl Stage for OciArchive {
    const NAME: &'static str = "org.osbuild.oci-archive";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let inputs = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["base"],
            "properties": {"base": {"type": "object"}},
            "patternProperties": {r"layer\.[1-9]\d*": {"type": "object"}},
        });
        ModuleSchema { inputs: Some(inputs), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let image = Image {
            architecture: options.architecture,
            variant: options.variant,
            config: options.config.unwrap_or_default(),
            annotations: options.annotations.unwrap_or_default(),
            layers: layers(context),
        };
        image.write(&options.filename, context)
    }
}

/// A layer for each input: `base`, and the others by their numbers.
fn layers(context: &StageContext) -> Vec<Layer> {
    let mut inputs: Vec<_> = context.arguments.inputs.iter().collect();
    inputs.sort_by_key(|(name, _)| number(name));
    let layer = |(name, input): (&String, &kiln_api::stage::InputArgument)| Layer {
        tree: input.path.clone(),
        attributes: ATTRIBUTES,
        made_by: Some(format!("/bin/sh -c #(nop) osbuild input '{name}'")),
    };
    inputs.into_iter().map(layer).collect()
}

fn number(name: &str) -> u64 {
    let number = name.rsplit_once("layer.").map(|(_, number)| number);
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::process::Command;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
    use crate::support::oci::testing::{self, Parts};

    fn everything() -> Value {
        json!({
            "architecture": "arm64", "variant": "v8", "filename": "image.tar",
            "config": {"Cmd": ["run"], "Labels": {"a": "b"}, "Volumes": ["/data"]},
            "annotations": {"org.osbuild.ostree.ref": "a/b", "org.osbuild.ostree.repo": "/r", "own": "x"},
        })
    }

    #[test]
    fn schema_agrees() {
        let with =
            |annotations: Value| json!({"architecture": "a", "filename": "b", "annotations": annotations});
        Agreement::stage::<OciArchive>()
            .accepts([json!({"architecture": "amd64", "filename": "a"}), everything(), with(json!({}))])
            .refuses([
                json!({"architecture": "amd64"}),
                json!({"architecture": "amd64", "filename": "a", "variant": 8}),
                with(json!({"org.osbuild.other": "a"})),
                with(json!({"org.opencontainers.image.title": "a"})),
                with(json!({"own": 1})),
            ]);
        Agreement::stage::<OciArchive>()
            .around(json!({"options": {"architecture": "a", "filename": "b"}}))
            .member("inputs")
            .accepts([json!({"base": {"type": "org.osbuild.tree"}, "layer.1": {}, "layer.12": {}})])
            .refuses([
                json!({"layer.1": {}}),
                json!({"base": {}, "layer.0": {}}),
                json!({"base": {}, "more": {}}),
            ]);
    }

    fn fixture(layers: usize) -> Fixture {
        let mut fixture = Fixture::new();
        let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut add = |name: &str, files: &[(&str, &str)]| {
            let input = fixture.input(name, files);
            for path in files.iter().map(|(path, _)| *path).chain(["b", "."]) {
                File::open(input.join(path)).and_then(|file| file.set_modified(long_ago)).expect(path);
            }
        };
        add("base", &[("a", "one"), ("b/file", "content")]);
        for number in 1..=layers {
            let text = number.to_string();
            add(&format!("layer.{number}"), &[("b/file", &text), (&format!("f{number}"), "")]);
        }
        fixture
    }

    /// Gives the file `a` of the lowest layer an attribute.
    fn set_attribute(fixture: &Fixture) {
        let file = fixture.tree().parent().expect("a directory").join("inputs/base/a");
        let set = Command::new("setfattr").args(["-n", "user.kiln", "-v", "x"]).arg(file).status();
        assert!(set.expect("setfattr").success());
    }

    fn unpack(fixture: &Fixture) -> Parts {
        testing::unpack(&fixture.tree().join("image.tar"))
    }

    #[test]
    fn layers_are_in_the_order_of_their_numbers() {
        let fixture = fixture(11).at(0);
        set_attribute(&fixture);
        fixture.run::<OciArchive>(everything()).expect("packed");
        let parts = unpack(&fixture);
        assert!(parts.complete);
        assert_eq!(parts.manifest["annotations"], everything()["annotations"]);
        assert_eq!(
            (&parts.config["variant"], &parts.config["created"]),
            (&json!("v8"), &json!("1970-01-01T00:00:00Z"))
        );
        let history = parts.config["history"].as_array().expect("a history");
        for (number, (layer, entry)) in parts.layers.iter().zip(history).enumerate() {
            let (file, name) = match number {
                0 => ("a".to_owned(), "base".to_owned()),
                _ => (format!("f{number}"), format!("layer.{number}")),
            };
            assert!(layer.contains(&format!(" {file}")), "{number}: {layer}");
            assert_eq!(entry["created_by"], format!("/bin/sh -c #(nop) osbuild input '{name}'"));
        }
        assert_eq!((parts.layers.len(), history.len()), (12, 12));
        assert!(parts.layers[0].contains("user.kiln"), "{}", parts.layers[0]);
    }

    #[test]
    fn the_image_is_the_references() {
        // There, attributes are lost, and with several layers the configuration tells the last one only.
        for (layers, options) in
            [(0, everything()), (2, json!({"architecture": "amd64", "filename": "image.tar"}))]
        {
            let there = fixture(layers).at(1_700_000_000);
            let Some((succeeded, said)) = there.run_reference(OciArchive::NAME, options.clone()) else {
                return;
            };
            assert!(succeeded, "{said}");
            let here = fixture(layers).at(1_700_000_000);
            here.run::<OciArchive>(options).expect("packed");
            let plain = |fixture: &Fixture| {
                let parts = unpack(fixture);
                // Values that are equal, in any order of their members.
                let text = |value: &Value| value.to_string().replace("+00:00", "Z");
                let parse = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
                (parse(text(&parts.manifest)), parse(text(&parts.config)), parts.layers)
            };
            assert_eq!(plain(&here), plain(&there));
        }
    }

    #[test]
    fn tools_for_containers_read_it() {
        let fixture = fixture(2);
        let options =
            json!({"architecture": "amd64", "filename": "image.tar", "config": {"Cmd": ["/bin/true"]}});
        fixture.run::<OciArchive>(options).expect("packed");
        let work = tempfile::tempdir().expect("a directory");
        let run = |program: &str, arguments: &[&str]| {
            let output =
                Command::new(program).args(arguments).current_dir(work.path()).output().expect(program);
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text")
        };
        let archive = format!("oci-archive:{}", fixture.tree().join("image.tar").display());
        let told: Value = serde_json::from_str(&run("skopeo", &["inspect", &archive])).expect("JSON");
        assert_eq!((&told["Architecture"], &told["Os"]), (&json!("amd64"), &json!("linux")));
        assert_eq!(told["Layers"].as_array().map(Vec::len), Some(3));
        run("skopeo", &["--insecure-policy", "copy", &archive, "oci:layout:own"]);
        run("umoci", &["unpack", "--image", "layout:own", "bundle"]);
        let read = |path: &str| fs::read_to_string(work.path().join("bundle/rootfs").join(path)).expect(path);
        // The file of the highest layer counts.
        assert_eq!(
            (read("a"), read("b/file"), read("f1")),
            ("one".to_owned(), "2".to_owned(), String::new())
        );
        let config: Value = serde_json::from_str(
            &fs::read_to_string(work.path().join("bundle/config.json")).expect("a configuration"),
        )
        .expect("JSON");
        assert_eq!(config["process"]["args"], json!(["/bin/true"]));
    }

    #[test]
    fn the_archive_stays_in_the_tree() {
        let fixture = fixture(0);
        let options = |filename: &str| json!({"architecture": "amd64", "filename": filename});
        fixture.run::<OciArchive>(options("/../../image.tar")).expect("packed");
        assert!(fixture.tree().join("image.tar").is_file());
        let error = fixture.run::<OciArchive>(options("no/image.tar")).expect_err("no directory").to_string();
        assert!(error.contains("cannot find") && error.contains("no"), "{error}");
        assert_eq!(fs::read_dir(fixture.tree()).expect("the tree").count(), 1, "nothing else is left");
    }
}
