//! The schema agrees with what Kiln itself says of manifests: good ones, and those with any one thing wrong.

use jsonschema::Validator;
use kiln_engine::index::Index;
use kiln_engine::manifest::validate::validate;
use kiln_engine::manifest::{Format, check, schema};
use kiln_modules::MODULES;
use serde_json::{Value, json};

const CHECKSUM: &str = "sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";

/// A manifest of format 2 with everything that may stand in one.
fn format2() -> Value {
    let device = json!({"device": {
        "type": "org.osbuild.loopback", "options": {"filename": "disk.img", "start": 2048, "size": 4096},
    }});
    json!({
        "version": "2",
        "metadata": {"generators": [{"name": "test", "version": "1"}], "exports": [{"name": "image"}]},
        "pipelines": [
            {"name": "build", "runner": "org.osbuild.debian12", "stages": [
                {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/usr", "mode": 493, "parents": true}]}},
            ]},
            {"name": "tree", "build": "name:build", "source-epoch": 1_700_000_000, "stages": [
                {"type": "org.osbuild.hostname", "options": {"hostname": "kiln"}},
                {"type": "org.osbuild.users", "options": {"users": {"a": {"uid": 1000, "groups": ["b"]}}}},
                {"type": "org.osbuild.systemd", "options": {"enabled_services": ["sshd"]}},
                {
                    "type": "org.osbuild.copy",
                    "inputs": {"files": {
                        "type": "org.osbuild.files", "origin": "org.osbuild.source", "references": {CHECKSUM: {}},
                    }},
                    "options": {"paths": [{"from": format!("input://files/{CHECKSUM}"), "to": "tree:///file"}]},
                },
                {"type": "org.osbuild.noop"},
            ]},
            {"name": "image", "stages": [
                {"type": "org.osbuild.truncate", "options": {"filename": "disk.img", "size": "16M"}},
                {
                    "type": "org.osbuild.mkfs.ext4",
                    "options": {"uuid": "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a11", "label": "root"},
                    "devices": device,
                },
                {
                    "type": "org.osbuild.copy",
                    "inputs": {"tree": {
                        "type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"],
                    }},
                    "options": {"paths": [{"from": "input://tree/", "to": "mount://root/"}]},
                    "devices": device,
                    "mounts": [{
                        "name": "root", "type": "org.osbuild.ext4", "source": "device", "target": "/",
                        "options": {"readonly": true},
                    }],
                },
                {"type": "org.osbuild.qemu", "inputs": {"image": {
                    "type": "org.osbuild.files", "origin": "org.osbuild.pipeline",
                    "references": {"name:tree": {"file": "disk.img"}},
                }}, "options": {"filename": "disk.qcow2", "format": {"type": "qcow2", "compat": "1.1"}}},
            ]},
        ],
        "sources": {
            "org.osbuild.inline": {"items": {CHECKSUM: {"encoding": "base64", "data": "Y29udGVudA=="}}},
            "org.osbuild.curl": {"items": {
                "sha256:1111111111111111111111111111111111111111111111111111111111111111": "https://example.invalid/a",
                "sha256:2222222222222222222222222222222222222222222222222222222222222222":
                    {"url": "https://example.invalid/b", "insecure": true},
            }},
        },
    })
}

fn format1() -> Value {
    json!({
        "pipeline": {
            "build": {
                "pipeline": {"stages": [{"name": "org.osbuild.noop", "options": {"a": 1}}]},
                "runner": "org.osbuild.debian12",
            },
            "stages": [
                {"name": "org.osbuild.mkdir", "options": {"paths": [{"path": "/srv"}]}},
                {"name": "org.osbuild.locale", "options": {"language": "de_DE.UTF-8"}},
            ],
            "assembler": {"name": "org.osbuild.tar", "options": {"filename": "tree.tar"}},
        },
        "sources": {"org.osbuild.files": {"urls": {CHECKSUM: {"url": "https://example.invalid/a"}}}},
    })
}

fn compiled(format: Option<Format>) -> Validator {
    let schema = schema(&Index::native(MODULES), format);
    jsonschema::draft7::meta::validate(&schema).expect("a schema of draft 7");
    jsonschema::draft7::new(&schema).expect("a schema")
}

fn faults(validator: &Validator, document: &Value) -> Vec<String> {
    validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn good_manifests_fit() {
    for (format, document) in [(Format::Two, format2()), (Format::One, format1()), (Format::One, json!({}))] {
        for schema in [None, Some(format)] {
            assert_eq!(faults(&compiled(schema), &document), [""; 0]);
        }
        let found = check(&document.to_string(), &Index::native(MODULES)).expect("a manifest");
        assert_eq!(found, []);
    }
    assert!(!compiled(Some(Format::One)).is_valid(&format2()));
    assert!(!compiled(Some(Format::Two)).is_valid(&format1()));
}

/// Calls `then` with every document that differs from this one in one place.
fn each_mutation(document: &Value, then: &mut dyn FnMut(&str, Value)) {
    let mut pointers = Vec::new();
    collect(document, String::new(), &mut pointers);
    for pointer in pointers {
        let own = document.pointer(&pointer).expect("there");
        let mut others = vec![
            json!(null),
            json!(true),
            json!(-1),
            json!(7),
            json!(1.5),
            json!(""),
            json!("x"),
            json!("org.osbuild.mkdir"),
            json!([]),
            json!({}),
            json!([own, own]),
            json!({"x": own}),
        ];
        match own {
            Value::String(text) => others.push(json!(format!("{text}x"))),
            Value::Object(members) => {
                let mut more = members.clone();
                more.insert("unknown".to_owned(), json!(1));
                others.push(Value::Object(more));
                for name in members.keys() {
                    let mut fewer = members.clone();
                    fewer.shift_remove(name);
                    others.push(Value::Object(fewer));
                }
            }
            Value::Array(items) => {
                for index in 0..items.len() {
                    let mut fewer = items.clone();
                    fewer.remove(index);
                    others.push(Value::Array(fewer));
                }
            }
            _ => {}
        }
        for other in others {
            let mut changed = document.clone();
            *changed.pointer_mut(&pointer).expect("there") = other.clone();
            then(&format!("{pointer} = {other}"), changed);
        }
    }
}

fn collect(value: &Value, pointer: String, pointers: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect(member, format!("{pointer}/{name}"), pointers);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, format!("{pointer}/{index}"), pointers);
            }
        }
        _ => {}
    }
    pointers.push(pointer);
}

/// What the schemas of format and modules refuse, the schema of it all refuses; and it refuses nothing that Kiln
/// accepts. Between the two is what is found when a manifest is loaded, most of which no schema can tell.
#[test]
fn mutated_manifests_are_judged_alike() {
    let index = Index::native(MODULES);
    let (mut count, mut refused, mut of_loading) = (0_u32, 0_u32, 0_u32);
    for (format, document) in [(Format::Two, format2()), (Format::One, format1())] {
        let either = compiled(None);
        each_mutation(&document, &mut |what, changed| {
            count += 1;
            let fits = either.is_valid(&changed);
            refused += u32::from(!fits);
            // Another version is another format, or none.
            let same = changed.is_object() && changed.get("version") == document.get("version");
            let of_schemas = if same { validate(&changed, format, &index) } else { Vec::new() };
            if !of_schemas.is_empty() {
                assert!(!fits, "{what}: {of_schemas:#?}");
            } else if check(&changed.to_string(), &index).is_ok_and(|found| found.is_empty()) {
                assert_eq!(faults(&either, &changed), [""; 0], "{what}: it is valid");
            } else if same && fits {
                of_loading += 1;
            }
        });
    }
    assert!(
        count > 2000 && refused > 1500,
        "{refused} of {count} refused, {of_loading} found in loading only"
    );
    // References that lead nowhere, names that are there twice.
    assert!(of_loading > 10 && of_loading < 200, "{of_loading} found in loading only");
}

/// A keyword that draft 7 does not know would silently be without effect.
#[test]
fn no_module_uses_words_that_editors_do_not_know() {
    const KNOWN: &[&str] = &[
        "$ref",
        "$schema",
        "additionalItems",
        "additionalProperties",
        "allOf",
        "anyOf",
        "const",
        "contains",
        "default",
        "definitions",
        "$defs",
        "dependencies",
        "description",
        "else",
        "enum",
        "enumDescriptions",
        "examples",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "if",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "not",
        "oneOf",
        "pattern",
        "patternProperties",
        "properties",
        "propertyNames",
        "required",
        "then",
        "title",
        "type",
        "uniqueItems",
    ];
    fn words(schema: &Value, unknown: &mut Vec<String>) {
        let Value::Object(members) = schema else { return };
        for (word, value) in members {
            if !KNOWN.contains(&word.as_str()) {
                unknown.push(word.clone());
            }
            match (word.as_str(), value) {
                (
                    "properties" | "patternProperties" | "definitions" | "$defs" | "dependencies",
                    Value::Object(named),
                ) => {
                    named.values().for_each(|schema| words(schema, unknown));
                }
                ("enum" | "const" | "default" | "examples", _) => {}
                (_, Value::Array(several)) => several.iter().for_each(|schema| words(schema, unknown)),
                (_, schema) => words(schema, unknown),
            }
        }
    }
    let mut unknown = Vec::new();
    words(&schema(&Index::native(MODULES), None), &mut unknown);
    assert_eq!(unknown, [""; 0]);
}

/// What editors show: the names of modules with what each is for, the options with their texts and defaults.
#[test]
fn there_is_something_to_show() {
    let schema = schema(&Index::native(MODULES), Some(Format::Two));
    let stage = &schema["definitions"]["stage"]["properties"]["type"];
    let names = stage["enum"].as_array().expect("names");
    let summaries = stage["enumDescriptions"].as_array().expect("summaries");
    assert_eq!((names.len(), summaries.len()), (MODULES.stages.len(), MODULES.stages.len()));
    assert!(summaries.iter().all(|summary| summary.as_str().is_some_and(|text| text.ends_with('.'))));
    let mkdir = &schema["definitions"]["stage:org.osbuild.mkdir"]["properties"];
    let documentation = mkdir["type"]["description"].as_str().expect("documentation");
    assert!(documentation.starts_with("Makes directories"), "{documentation}");
    let path = &mkdir["options"]["properties"]["paths"]["items"]["properties"];
    assert_eq!(path["parents"]["default"], false);
    assert!(path["parents"]["description"].is_string(), "{path:#}");
    for (kind, count) in
        [("input", MODULES.inputs.len()), ("device", MODULES.devices.len()), ("mount", MODULES.mounts.len())]
    {
        let choices = schema["definitions"][kind]["allOf"].as_array().expect("choices");
        assert_eq!(choices.len(), count, "{kind}");
    }
    let sources = schema["properties"]["sources"]["properties"].as_object().expect("sources");
    assert_eq!(sources.len(), MODULES.sources.len());
    let runners = schema["definitions"]["pipeline"]["properties"]["runner"]["examples"].as_array();
    assert_eq!(runners.expect("runners").len(), MODULES.runners.len());
}
