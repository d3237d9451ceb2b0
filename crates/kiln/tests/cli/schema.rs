//! `kiln schema`: one JSON Schema for editors, held against manifests that people have.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::manifests::{add_inline, copy_files, disk, good, manifest, noop, pipeline, scripted};
use crate::world::{World, assert_shown};

fn schema(world: &World, arguments: &[&str]) -> Validator {
    let schema = world.run(&[&["schema"], arguments].concat()).succeeded().json();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    jsonschema::draft7::meta::validate(&schema).expect("a schema of draft 7");
    jsonschema::draft7::new(&schema).expect("a schema")
}

fn faults(schema: &Validator, document: &Value) -> Vec<String> {
    schema.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// All JSON files below a directory.
fn json_files(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            json_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            into.push(path);
        }
    }
}

/// The manifests of the conformance suite.
fn conformance() -> Vec<(String, Value)> {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/manifests");
    let read = |path: PathBuf| {
        let mut text = String::new();
        let file = fs::File::open(&path).expect("a manifest");
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("gzip of text");
        // One has a number that only Python can read.
        Some((path.display().to_string(), serde_json::from_str(&text).ok()?))
    };
    fs::read_dir(suite)
        .expect("the conformance suite")
        .filter_map(|entry| read(entry.expect("an entry").path()))
        .collect()
}

/// The kinds and names of all modules that a part of a manifest uses, which is of a kind itself.
fn modules_of(value: &Value, kind: &str, into: &mut HashSet<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let own = match name.as_str() {
                    "stages" | "inputs" | "devices" | "mounts" => name.trim_end_matches('s'),
                    "assembler" => name,
                    _ => kind,
                };
                match member {
                    Value::String(text)
                        if ["type", "name"].contains(&name.as_str()) && text.starts_with("org.") =>
                    {
                        into.insert((own.to_owned(), text.clone()));
                    }
                    Value::Object(sources) if name == "sources" => {
                        into.extend(sources.keys().map(|name| ("source".to_owned(), name.clone())));
                    }
                    _ => {}
                }
                modules_of(member, own, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| modules_of(item, kind, into)),
        _ => {}
    }
}

#[test]
fn formats() {
    let world = World::new();
    let (either, one, two) =
        (schema(&world, &[]), schema(&world, &["--format", "1"]), schema(&world, &["--format=2"]));
    let format1 = json!({"pipeline": {"stages": [{"name": "org.osbuild.noop"}]}});
    for (document, expected) in [
        (&format1, [true, true, false]),
        (&good("a"), [true, false, true]),
        (&json!({}), [true, true, false]),
        (&json!({"version": "3"}), [false, false, false]),
        (&json!([]), [false, false, false]),
    ] {
        assert_eq!([&either, &one, &two].map(|schema| schema.is_valid(document)), expected, "{document}");
    }
    assert_shown!(world, world.run(&["schema", "--format", "3"]), @r"
    exit code 2
    --- stderr
    error: invalid value '3' for '--format <FORMAT>'
      [possible values: 1, 2]

    For more information, try '--help'.
    ");
}

#[test]
fn manifests_of_native_modules_fit() {
    let world = World::new();
    let schema = schema(&world, &[]);
    let mut with_content = manifest(&[]);
    let content = add_inline(&mut with_content, b"content");
    with_content["pipelines"] = json!([pipeline("tree", &[copy_files(&[(&content, "/file")]), noop()])]);
    for document in [good("a"), disk("a", "16M"), scripted("true"), with_content] {
        assert_eq!(faults(&schema, &document), [""; 0], "{document:#}");
    }
    let native = world.run(&["modules", "--json"]).succeeded().json();
    let native = native.as_array().expect("modules").iter();
    let native: HashSet<_> = native
        .map(|module| ["kind", "name"].map(|member| module[member].as_str().expect("a text").to_owned()))
        .map(|[kind, name]| (kind, name))
        .collect();
    let mut count = 0;
    for (name, document) in conformance() {
        let mut used = HashSet::new();
        modules_of(&document, "", &mut used);
        if used.iter().all(|module| native.contains(module)) {
            assert_eq!(faults(&schema, &document), [""; 0], "{name}");
            count += 1;
        }
    }
    assert!(count > 0, "there is one without modules");
}

/// One fault of each kind that a schema can see.
#[test]
fn broken_manifests_do_not_fit() {
    let world = World::new();
    let schema = schema(&world, &[]);
    let stage = |stage: Value| manifest(&[pipeline("tree", &[stage])]);
    let options = |options: Value| stage(json!({"type": "org.osbuild.mkdir", "options": options}));
    let disk = |change: &dyn Fn(&mut Value)| {
        let mut disk = disk("a", "16M");
        change(&mut disk["pipelines"][1]["stages"][2]);
        disk
    };
    let mut unknown_source = good("a");
    unknown_source["sources"]["org.osbuild.crul"] = json!({"items": {}});
    let mut wrong_item = good("a");
    wrong_item["sources"]["org.osbuild.curl"] = json!({"items": {"sha256:1": "https://example.invalid/a"}});
    for broken in [
        json!({"version": "2", "pipeline": {}}),
        json!({"pipelines": []}),
        json!({"pipeline": {"stages": [{"name": "org.osbuild.mkdri"}]}}),
        json!({"pipeline": {"stages": [{"name": "org.osbuild.mkdir", "options": {"paths": 1}}]}}),
        json!({"pipeline": {"assembler": {"name": "org.osbuild.mkdir"}}}),
        json!({"pipeline": {"build": {"runner": "org.osbuild.linux"}}}),
        stage(json!({})),
        stage(json!({"type": "org.osbuild.mkdri"})),
        stage(json!({"type": "org.osbuild.hostname"})),
        stage(json!({"type": "org.osbuild.mkdir", "option": {"paths": []}})),
        stage(json!({"type": "org.osbuild.machine-id", "options": {"first-boot": "maybe"}})),
        stage(json!({"type": "org.osbuild.hostname", "options": {}})),
        options(json!({"paths": [{"path": "/a"}], "path": 1})),
        options(json!({"paths": [{"path": "/a", "mode": "0755"}]})),
        stage(json!({"type": "org.osbuild.gzip", "options": {"filename": "a", "level": 100}})),
        stage(json!({"type": "org.osbuild.ln", "options": {"paths": []}})),
        unknown_source,
        wrong_item,
        disk(&|stage| stage["inputs"]["tree"]["type"] = json!("org.osbuild.tre")),
        disk(&|stage| stage["inputs"]["tree"]["origin"] = json!("org.osbuild.source")),
        disk(&|stage| stage["inputs"]["tree"]["references"] = json!([])),
        disk(&|stage| stage["devices"]["device"]["type"] = json!("org.osbuild.lopback")),
        disk(&|stage| stage["devices"]["device"]["options"] = json!({"size": 1})),
        disk(&|stage| stage["mounts"][0]["type"] = json!("org.osbuild.ext5")),
        disk(&|stage| {
            stage["mounts"][0].as_object_mut().expect("a mount").remove("source");
        }),
        manifest(&[json!({"name": "tree", "source-epoch": "now"})]),
    ] {
        assert!(!schema.is_valid(&broken), "{broken:#}");
        world.write("manifest.json", broken.to_string());
        let finished = world.run(&["validate", "manifest.json"]);
        assert_eq!(finished.code(), Some(2), "{broken:#}");
    }
}

/// With the modules of a library directory, what fits the schema is what is valid, but for what refers to something.
#[test]
fn manifests_of_the_reference_fit() {
    let Some(checkout) = std::env::var_os("KILN_REFERENCE") else { return };
    let (world, checkout) = (World::new(), PathBuf::from(checkout));
    let library = checkout.to_str().expect("UTF-8");
    let schema = schema(&world, &["--libdir", library]);
    let mut documents = conformance();
    let mut paths = Vec::new();
    ["test/data", "samples"].iter().for_each(|below| json_files(&checkout.join(below), &mut paths));
    for path in paths {
        let text = fs::read_to_string(&path).expect("read");
        if let Ok(document @ Value::Object(_)) = serde_json::from_str::<Value>(&text) {
            documents.push((path.display().to_string(), document));
        }
    }
    let (mut valid, mut refused) = (0, 0);
    for (name, document) in documents {
        world.write("manifest.json", document.to_string());
        let good = world.run(&["validate", "manifest.json", "--libdir", library]).code() == Some(0);
        let found = faults(&schema, &document);
        assert!(found.is_empty() || !good, "{name}: {found:#?}");
        valid += u32::from(good);
        refused += u32::from(!found.is_empty());
    }
    assert!(valid > 150 && refused > 20, "{valid} valid, {refused} refused");
}
