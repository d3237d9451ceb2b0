//! What is said of values that do not fit.

use serde_json::json;

use super::*;

/// One line for each finding: where it is shown, what is wrong, the suggestion.
fn said(schema: &Value, value: &Value) -> Vec<String> {
    let validator = jsonschema::draft202012::new(schema).expect("a schema");
    let root = JsonPath::default().key("options");
    let found = validator.iter_errors(value).flat_map(|error| findings(&error, schema, &root, "help"));
    found.map(|finding| shown(&finding)).collect()
}

fn shown(finding: &Finding) -> String {
    let place = finding.target().path.to_string();
    let place = match place.strip_prefix(".options") {
        Some("") => ".",
        Some(below) => below,
        None => &place,
    };
    format!("{place}: {} ({})", finding.message, finding.hint.as_deref().unwrap_or_default())
}

#[test]
fn faults_are_told_in_words() {
    let tagged = json!({"oneOf": [
        {"type": "object", "required": ["kind", "size"],
         "properties": {"kind": {"const": "file"}, "size": {"type": "integer"}}},
        {"type": "object", "required": ["kind"], "properties": {"kind": {"const": "link"}}},
    ]});
    let object = json!({"type": "object", "additionalProperties": false, "required": ["paths"],
        "properties": {"paths": {"type": "array", "minItems": 1}, "mode": {"type": "integer", "maximum": 7}}});
    let choice = json!({"oneOf": [{"const": "raw", "description": "One."}, {"enum": ["qcow2", "vmdk"]}]});
    let either = json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]});
    let one = json!({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]});
    let cases: [(&Value, Value, &[&str]); 13] = [
        (
            &object,
            json!({"path": [], "paths": [1]}),
            &[".path: unknown option `path` (did you mean `paths`?)"],
        ),
        (
            &object,
            json!({"x": 1, "mod": 2, "paths": [1]}),
            &[".x: unknown option `x` (help)", ".mod: unknown option `mod` (did you mean `mode`?)"],
        ),
        (&object, json!({}), &[".: `paths` is missing (help)"]),
        (&object, json!({"paths": []}), &[".paths: expected at least 1 item (help)"]),
        (&object, json!({"paths": "a"}), &[".paths: expected an array, found a string (help)"]),
        (&object, json!({"paths": [1], "mode": 8}), &[".mode: expected at most 7, found 8 (help)"]),
        (
            &choice,
            json!("rew"),
            &[".: expected one of `raw`, `qcow2`, `vmdk`, found `rew` (did you mean `raw`?)"],
        ),
        (
            &choice,
            json!("qcow3"),
            &[".: expected one of `raw`, `qcow2`, `vmdk`, found `qcow3` (did you mean `qcow2`?)"],
        ),
        (
            &either,
            json!(1),
            &[".: expected a string or an array, found an integer (write it in quotes: `\"1\"`)"],
        ),
        (
            &either,
            json!(["a", 1]),
            &["[1]: expected a string, found an integer (write it in quotes: `\"1\"`)"],
        ),
        (
            &tagged,
            json!({"kind": "file", "size": "1"}),
            &[".size: expected an integer, found a string (write it without quotes: `1`)"],
        ),
        (&tagged, json!({"kind": "file"}), &[".: `size` is missing (help)"]),
        (&one, json!({}), &[".: one of `a`, `b` is missing (help)"]),
    ];
    for (schema, value, expected) in cases {
        assert_eq!(said(schema, &value), expected, "{value}");
    }
}

#[test]
fn values_of_another_type_may_be_right_when_written_differently() {
    let schema = json!({"properties": {
        "mode": {"type": "integer"}, "ratio": {"type": "number"}, "flag": {"type": "boolean"},
        "name": {"type": "string"}, "names": {"type": "array", "items": {"type": "string"}},
        "paths": {"type": "array", "items": {"type": "object"}}, "id": {"type": ["integer", "string"]},
    }});
    let cases = [
        (
            json!({"mode": "0755"}),
            ".mode: expected an integer, found a string (numbers are decimal: `493` is octal 0755)",
        ),
        (json!({"mode": "0899"}), ".mode: expected an integer, found a string (help)"),
        (
            json!({"mode": "-12"}),
            ".mode: expected an integer, found a string (write it without quotes: `-12`)",
        ),
        (json!({"mode": "many"}), ".mode: expected an integer, found a string (help)"),
        (json!({"mode": 1.5}), ".mode: expected an integer, found a number (help)"),
        (
            json!({"ratio": "1.5"}),
            ".ratio: expected a number, found a string (write it without quotes: `1.5`)",
        ),
        (
            json!({"flag": "true"}),
            ".flag: expected a boolean, found a string (write it without quotes: `true`)",
        ),
        (json!({"flag": "yes"}), ".flag: expected a boolean, found a string (help)"),
        (json!({"name": 12}), ".name: expected a string, found an integer (write it in quotes: `\"12\"`)"),
        (json!({"name": null}), ".name: expected a string, found null (help)"),
        (json!({"names": "a"}), ".names: expected an array, found a string (write it as a list: `[\"a\"]`)"),
        (json!({"paths": "a"}), ".paths: expected an array, found a string (help)"),
        (
            json!({"id": true}),
            ".id: expected an integer or a string, found a boolean (write it in quotes: `\"true\"`)",
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(said(&schema, &value), [expected], "{value}");
    }
}

#[test]
fn every_keyword_has_words() {
    let several: Vec<String> = (0..20).map(|number| format!("v{number}")).collect();
    let cases = [
        (json!({"pattern": "^a+$"}), json!("b"), "`b` does not match the pattern `^a+$` (help)"),
        (json!({"minLength": 1}), json!(""), "expected at least 1 character (help)"),
        (json!({"maxLength": 2}), json!("abc"), "expected at most 2 characters, found 3 (help)"),
        (json!({"minItems": 2}), json!([1]), "expected at least 2 items (help)"),
        (json!({"maxItems": 1}), json!([1, 2]), "expected at most 1 item (help)"),
        (json!(false), json!([1, 2]), "this is not allowed here (help)"),
        (json!({"minProperties": 1}), json!({}), "expected at least 1 member (help)"),
        (json!({"maxProperties": 0}), json!({"a": 1}), "expected at most 0 members (help)"),
        (json!({"minimum": 1}), json!(0), "expected at least 1, found 0 (help)"),
        (json!({"maximum": 1}), json!(2), "expected at most 1, found 2 (help)"),
        (json!({"exclusiveMinimum": 1}), json!(1), "expected more than 1, found 1 (help)"),
        (json!({"exclusiveMaximum": 1}), json!(1), "expected less than 1, found 1 (help)"),
        (json!({"multipleOf": 512}), json!(1), "expected a multiple of 512, found 1 (help)"),
        (json!({"uniqueItems": true}), json!([1, 1]), "the items are not all different (help)"),
        (
            json!({"propertyNames": {"pattern": "^a"}}),
            json!({"b": 1}),
            "the key `b` is not allowed: `b` does not match the pattern `^a` (help)",
        ),
        (
            json!({"not": {"required": ["a", "b"]}}),
            json!({"a": 1, "b": 2}),
            "`a`, `b` exclude each other (help)",
        ),
        (json!({"not": {"const": "a"}}), json!("a"), "`a` is not allowed here (help)"),
        (
            json!({"oneOf": [{"type": "string"}, {"minLength": 1}]}),
            json!("a"),
            "this fits more than one of the ways to write it (help)",
        ),
        (
            json!({"oneOf": [{"required": ["path", "uuid"]}, {"required": ["path", "label"]}]}),
            json!({"path": 1, "uuid": 2, "label": 3}),
            "`uuid`, `label` exclude each other (help)",
        ),
        (json!({"const": "file"}), json!("fiel"), "expected `file`, found `fiel` (did you mean `file`?)"),
        (json!({"enum": ["a", "b"]}), json!({}), "expected one of `a`, `b`, found an object (help)"),
        (
            json!({"enum": several}),
            json!("long"),
            "expected one of `v0`, `v1`, `v2`, `v3`, `v4`, `v5`, `v6`, `v7`, `v8`, `v9`, `v10`, `v11`, `v12`, `v13`, `v14`, `v15` and 4 more, found `long` (help)",
        ),
        (json!({"contains": {"const": 1}}), json!([2]), "no item is what one of them has to be (help)"),
        (json!({"dependentRequired": {"a": ["b"]}}), json!({"a": 1}), "`b` is missing (help)"),
    ];
    for (schema, value, expected) in cases {
        assert_eq!(said(&schema, &value), [format!(".: {expected}")], "{schema}");
    }
}

#[test]
fn suggestions_are_found_through_references() {
    let schema = json!({
        "properties": {"paths": {"items": {"$ref": "#/definitions/path"}}},
        "definitions": {
            "path": {"properties": {"from": {"$ref": "#/definitions/place"}}},
            "place": {"type": "object", "additionalProperties": false, "properties": {"device": {}, "a/b": {}}},
        },
    });
    for validator in [jsonschema::draft4::new(&schema), jsonschema::draft202012::new(&schema)] {
        let validator = validator.expect("a schema");
        let value = json!({"paths": [{"from": {"devise": 1}}]});
        let error = validator.iter_errors(&value).next().expect("an error");
        let found = findings(&error, &schema, &JsonPath::default().key("options"), "help");
        let found: Vec<String> = found.iter().map(shown).collect();
        assert_eq!(found, [".paths[0].from.devise: unknown option `devise` (did you mean `device`?)"]);
    }
    assert_eq!(
        beside(&schema, "/properties/paths/items/$ref/properties/from/$ref/additionalProperties"),
        ["device", "a/b"]
    );
    assert_eq!(beside(&schema, "/definitions/place/additionalProperties"), ["device", "a/b"]);
    assert_eq!(beside(&schema, "/definitions/nothing/additionalProperties"), [""; 0]);
}

#[test]
fn what_is_not_below_options_is_a_key() {
    let schema = json!({"additionalProperties": false, "properties": {"name": {}, "stages": {}}});
    let validator = jsonschema::draft4::new(&schema).expect("a schema");
    let value = json!({"nam": 1, "other": 2});
    let error = validator.iter_errors(&value).next().expect("an error");
    let found: Vec<String> = findings(&error, &schema, &JsonPath::default(), "").iter().map(shown).collect();
    let expected = [
        ".nam: unknown key `nam` (did you mean `name`?)",
        ".other: unknown key `other` (known keys are `name`, `stages`)",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_path_is_that_of_the_value_that_fits_nothing() {
    let schema = json!({"properties": {"a": {"anyOf": [{"type": "array", "items": {"type": "string"}}]}}});
    let validator = jsonschema::draft202012::new(&schema).expect("a schema");
    let value = json!({"a": ["b", 1]});
    let root = JsonPath::default().key("options");
    let error = validator.iter_errors(&value).next().expect("an error");
    let found = findings(&error, &schema, &root, "help");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path.to_string(), ".options.a");
    assert_eq!(found[0].place.as_ref().expect("a place").to_string(), ".options.a[1]");
}
