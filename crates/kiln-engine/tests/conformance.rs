//! Ids equal to the reference's for every manifest of the conformance suite.

use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_engine::manifest::{Manifest, load};
use serde_json::{Map, Value, json};

fn suite() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
    assert!(root.is_dir(), "the conformance suite is missing: expected it at {}", root.display());
    root
}

fn read_gzip(path: &Path) -> String {
    let file = std::fs::File::open(path).expect("the manifest exists");
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("gzip of text");
    text
}

fn ids(manifest: &Manifest) -> Value {
    let pipelines: Map<String, Value> = manifest
        .pipelines
        .values()
        .map(|pipeline| {
            let stages: Vec<Value> = pipeline
                .stages
                .iter()
                .map(|stage| {
                    let inputs: Map<String, Value> = stage
                        .inputs
                        .iter()
                        .map(|(name, input)| (name.clone(), json!(input.id.as_str())))
                        .collect();
                    let devices: Map<String, Value> = stage
                        .devices
                        .iter()
                        .map(|(name, device)| (name.clone(), json!(device.id.as_str())))
                        .collect();
                    let mounts: Map<String, Value> = stage
                        .mounts
                        .iter()
                        .map(|mount| (mount.name.clone(), json!(mount.id.as_str())))
                        .collect();
                    json!({
                        "id": stage.id.as_str(), "name": stage.name,
                        "inputs": inputs, "devices": devices, "mounts": mounts,
                    })
                })
                .collect();
            // The recorded runner of a pipeline without a build pipeline is that of the machine of the recording.
            let runner = pipeline.runner.as_deref().unwrap_or("org.osbuild.debian");
            let id = pipeline.id().map(|id| id.as_str());
            (pipeline.name.clone(), json!({"id": id, "runner": runner, "stages": stages}))
        })
        .collect();
    let sources: Map<String, Value> =
        manifest.sources.values().map(|source| (source.kind.clone(), json!(source.id.as_str()))).collect();
    json!({"pipelines": pipelines, "sources": sources})
}

#[test]
fn ids_equal_the_references_for_every_manifest() {
    let suite = suite();
    let expected = std::fs::read_to_string(suite.join("ids.json")).expect("ids.json");
    let expected: Map<String, Value> = serde_json::from_str(&expected).expect("ids.json is JSON");
    assert_eq!(expected.len(), 13, "the suite has grown or shrunk: count again");
    for (name, expected) in expected {
        let text = read_gzip(&suite.join("manifests").join(format!("{name}.json.gz")));
        let loaded = load(&text).unwrap_or_else(|error| panic!("{name}: {error}: {error:?}"));
        let actual = ids(&loaded);
        for (pipeline, expected) in expected["pipelines"].as_object().expect("an object") {
            assert_eq!(&actual["pipelines"][pipeline], expected, "{name}: pipeline {pipeline}");
        }
        assert_eq!(actual, expected, "{name}");
    }
}

#[test]
fn loading_is_linear_in_references_and_stages() {
    // Generous: the bound guards against quadratic work (the reference needs 24 s for each), not against noise.
    let limit = std::time::Duration::from_millis(1500);
    let items: Map<String, Value> =
        (0..6000).map(|n| (format!("sha256:{n:064x}"), json!("http://example.invalid/"))).collect();
    let references: Vec<&String> = items.keys().collect();
    let input =
        json!({"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": references});
    let many_references = json!({
        "version": "2",
        "sources": {"org.osbuild.curl": {"items": items}},
        "pipelines": [{"name": "tree", "stages": [{"type": "org.osbuild.noop", "inputs": {"a": input, "b": input}}]}],
    });
    let stages: Vec<Value> =
        (0..6000).map(|n| json!({"type": "org.osbuild.noop", "options": {"n": n}})).collect();
    let many_stages = json!({"version": "2", "pipelines": [{"name": "tree", "stages": stages}]});
    for (what, document) in [("references", many_references), ("stages", many_stages)] {
        let text = document.to_string();
        let start = std::time::Instant::now();
        load(&text).expect(what);
        assert!(start.elapsed() < limit, "6,000 {what} took {:?}", start.elapsed());
    }
}
