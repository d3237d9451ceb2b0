//! One JSON Schema of whole manifests, with what every module takes, for editors.
//!
//! It is put together from what manifests are checked against: the schema of a format, and one of each module. What a
//! stage takes depends on its `type`, which is `if` and `then` here, so that an editor completes and explains the
//! options of the stage that is being written. It is of draft 7, which editors understand; what modules say in
//! draft 4 or draft 2020-12 is put into its words.
//!
//! A schema sees one place at a time: that a pipeline, an item or a device is there that something refers to is left
//! to [`check`](super::check). Apart from that, what fits this schema is what is valid.

use kiln_api::module::Kind;
use serde_json::{Map, Value, json};

use super::validate::{compile, structure};
use super::{Format, source1};
use crate::index::{Description, Draft, Index, Origin};

const DIALECT: &str = "http://json-schema.org/draft-07/schema#";

/// A source of format 1 that has another name now.
const ALIAS: &str = "org.osbuild.files";

/// The schema of manifests of a format, or of either.
pub fn schema(index: &Index, format: Option<Format>) -> Value {
    let mut members = Map::new();
    members.insert("$schema".to_owned(), json!(DIALECT));
    members.extend(match format {
        Some(format) => of_format(index, format),
        None => of_either(index),
    });
    Value::Object(members)
}

fn of_either(index: &Index) -> Map<String, Value> {
    let mut definitions = Map::new();
    for (name, format) in [("format1", Format::One), ("format2", Format::Two)] {
        let below = format!("#/definitions/{name}");
        let rewriting = Rewriting { root: &below, from: None };
        definitions.insert(name.to_owned(), Value::Object(rewriting.object(of_format(index, format))));
    }
    object(json!({
        "title": "Manifest",
        "type": "object",
        "properties": {"version": {"description": "The format of the manifest; without it, it is 1.", "enum": ["2"]}},
        "if": {"required": ["version"], "properties": {"version": {"const": "2"}}},
        "then": {"$ref": "#/definitions/format2"},
        "else": {"$ref": "#/definitions/format1"},
        "definitions": definitions,
    }))
}

fn of_format(index: &Index, format: Format) -> Map<String, Value> {
    let mut schema = Rewriting { root: "#", from: Some(Draft::Four) }.object(object(structure(format)));
    let mut definitions = take_object(&mut schema, "definitions");
    let mut whole = Whole { index, format, modules: Map::new() };
    match format {
        Format::One => {
            // A module that is a stage and one that is an assembler look the same, but are not the same modules.
            let step = definitions.remove("step").unwrap_or_default();
            for (kind, name) in [(Kind::Stage, "stage"), (Kind::Assembler, "assembler")] {
                definitions.insert(name.to_owned(), whole.one_of(kind, step.clone(), "name"));
            }
            if let Some(properties) =
                definitions.get_mut("pipeline").and_then(|pipeline| pipeline.get_mut("properties"))
            {
                properties["stages"]["items"] = reference("stage");
                properties["assembler"] = reference("assembler");
                runners(index, &mut properties["build"]["properties"]["runner"]);
            }
        }
        Format::Two => {
            let kinds = [Kind::Stage, Kind::Input, Kind::Device, Kind::Mount];
            for kind in kinds {
                let plain = definitions.remove(kind.noun()).unwrap_or_default();
                definitions.insert(kind.noun().to_owned(), whole.one_of(kind, plain, "type"));
            }
            if let Some(pipeline) = definitions.get_mut("pipeline") {
                runners(index, &mut pipeline["properties"]["runner"]);
            }
        }
    }
    if let Some(sources) = schema.get_mut("properties").and_then(|properties| properties.get_mut("sources")) {
        sources["properties"] = Value::Object(whole.sources());
        sources["additionalProperties"] = json!(false);
    }
    definitions.extend(whole.modules);
    schema.insert("definitions".to_owned(), Value::Object(definitions));
    schema
}

/// The names of runners are proposed; a runner of a newer version than there is one of is as good.
fn runners(index: &Index, schema: &mut Value) {
    let names: Vec<String> = index.list(Kind::Runner).into_keys().collect();
    schema["examples"] = json!(names);
}

/// The schema of a format while the modules are added.
struct Whole<'i> {
    index: &'i Index,
    format: Format,
    /// The schemas of modules, by their names among the definitions.
    modules: Map<String, Value>,
}

impl Whole<'_> {
    /// Completes the schema of a description of any module of a kind. `named` is the member with the module's name.
    fn one_of(&mut self, kind: Kind, mut plain: Value, named: &str) -> Value {
        let (mut names, mut summaries, mut choices) = (Vec::new(), Vec::new(), Vec::new());
        for name in self.index.list(kind).into_keys() {
            let Some((defined, description)) = self.module(kind, &name, named) else { continue };
            choices.push(json!({
                "if": {"required": [named], "properties": {named: {"const": name}}},
                "then": reference(&defined),
            }));
            names.push(name);
            summaries.push(description);
        }
        plain["properties"][named]["enum"] = json!(names);
        plain["properties"][named]["enumDescriptions"] = json!(summaries);
        // A schema of nothing would be wrong.
        if !choices.is_empty() {
            plain["allOf"] = Value::Array(choices);
        }
        plain
    }

    fn sources(&mut self) -> Map<String, Value> {
        let mut sources = Map::new();
        for name in self.index.list(Kind::Source).into_keys() {
            // What format 1 does not know is refused when it is loaded.
            if self.format == Format::One && source1(&name).is_none_or(|(known, _)| known != name) {
                continue;
            }
            let Some((defined, summary)) = self.module(Kind::Source, &name, "") else { continue };
            let module = reference(&defined);
            let source = match self.format {
                Format::One => json!({"description": summary, "allOf": [module]}),
                Format::Two => json!({"description": summary, "allOf": [reference("source"), module]}),
            };
            if self.format == Format::One && source1(ALIAS).is_some_and(|(known, _)| known == name) {
                sources.insert(ALIAS.to_owned(), source.clone());
            }
            sources.insert(name, source);
        }
        sources
    }

    /// Adds the schema of a module to the definitions: its name there and a summary. None for modules that cannot be
    /// used in this format.
    fn module(&mut self, kind: Kind, name: &str, named: &str) -> Option<(String, String)> {
        let description = self.index.describe(kind, name).ok()?;
        let mut schema = object(description.schema(self.format)?);
        compile(&Value::Object(schema.clone()), description.draft()).ok()?;
        let needed = needed(&description);
        if !needed.is_empty() {
            let required = schema.entry("required").or_insert_with(|| json!([]));
            required.as_array_mut()?.extend(needed);
        }
        let own = schema.get_mut("properties").and_then(|properties| properties.get_mut(named));
        if let Some(own @ Value::Object(_)) = own {
            own["description"] = json!(documentation(&description));
        }
        let defined = format!("{}:{name}", kind.noun());
        let root = format!("#/definitions/{}", in_a_fragment(&defined));
        let rewriting = Rewriting { root: &root, from: Some(description.draft()) };
        self.modules.insert(defined.clone(), Value::Object(rewriting.object(schema)));
        Some((defined, description.summary.clone()))
    }
}

/// The members that may not be left out: nothing would be too little of them.
fn needed(description: &Description) -> Vec<Value> {
    let too_little = |schema: &Value, nothing: &Value| {
        compile(schema, description.draft()).is_ok_and(|validator| !validator.is_valid(nothing))
    };
    let members = description.absent_members().into_iter();
    members
        .filter(|(_, schema, nothing)| too_little(schema, nothing))
        .map(|(member, ..)| json!(member))
        .collect()
}

fn documentation(description: &Description) -> String {
    match &description.origin {
        Origin::Native => description.text.clone(),
        Origin::Library(_) => format!("{}\n\n{}", description.summary, description.text).trim().to_owned(),
    }
}

fn reference(definition: &str) -> Value {
    json!({"$ref": format!("#/definitions/{}", in_a_fragment(definition))})
}

/// A name as a part of a pointer in the fragment of a URI.
fn in_a_fragment(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'~' => text.push_str("~0"),
            b'/' => text.push_str("~1"),
            b'-' | b'.' | b'_' | b':' => text.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// The members of an object; none for anything else.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn take_object(members: &mut Map<String, Value>, name: &str) -> Map<String, Value> {
    members.remove(name).map(object).unwrap_or_default()
}

/// Puts a schema into the words of draft 7, below another root.
struct Rewriting<'r> {
    /// Where what was the root is now, as a reference.
    root: &'r str,
    /// What it was written in; none for draft 7.
    from: Option<Draft>,
}

impl Rewriting<'_> {
    fn schema(&self, schema: Value) -> Value {
        match schema {
            Value::Object(members) => Value::Object(self.object(members)),
            // `true` and `false` are schemas.
            other => other,
        }
    }

    fn object(&self, members: Map<String, Value>) -> Map<String, Value> {
        let recent = self.from == Some(Draft::Of2020);
        let pairs = recent && members.contains_key("prefixItems");
        let mut result = Map::new();
        for (key, value) in members {
            let (key, value) = match key.as_str() {
                "$schema" | "$id" => continue,
                "id" if self.from == Some(Draft::Four) && value.is_string() => continue,
                // A remark in draft 2020-12; some of draft 7 take it for a condition.
                "format" if recent => continue,
                "$ref" => (key, self.reference(value)),
                "prefixItems" if recent => ("items".to_owned(), self.several(value)),
                "items" if pairs => ("additionalItems".to_owned(), self.schema(value)),
                "dependentRequired" => ("dependencies".to_owned(), value),
                "dependentSchemas" => ("dependencies".to_owned(), self.named(value)),
                "properties" | "patternProperties" | "definitions" | "$defs" | "dependencies" => {
                    (key, self.named(value))
                }
                "allOf" | "anyOf" | "oneOf" => (key, self.several(value)),
                "items" if value.is_array() => (key, self.several(value)),
                "items"
                | "additionalItems"
                | "additionalProperties"
                | "not"
                | "if"
                | "then"
                | "else"
                | "propertyNames"
                | "contains" => (key, self.schema(value)),
                _ => (key, value),
            };
            match (result.get_mut(&key), value) {
                (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
                (_, value) => {
                    result.insert(key, value);
                }
            }
        }
        for (limit, exclusive) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
            // In draft 4 this says of the limit that it is not included.
            if let Some(Value::Bool(flag)) = result.get(exclusive) {
                let flag = *flag;
                result.remove(exclusive);
                if flag && let Some(limit) = result.remove(limit) {
                    result.insert(exclusive.to_owned(), limit);
                }
            }
        }
        if recent
            && result.len() > 1
            && let Some(target) = result.remove("$ref")
        {
            // Up to draft 7 a reference is alone.
            let all = result.entry("allOf").or_insert_with(|| json!([]));
            if let Value::Array(all) = all {
                all.push(json!({"$ref": target}));
            }
        }
        result
    }

    fn reference(&self, target: Value) -> Value {
        match target.as_str().and_then(|target| target.strip_prefix('#')) {
            Some(pointer) => json!(format!("{}{pointer}", self.root)),
            None => target,
        }
    }

    fn several(&self, schemas: Value) -> Value {
        match schemas {
            Value::Array(schemas) => schemas.into_iter().map(|schema| self.schema(schema)).collect(),
            other => other,
        }
    }

    fn named(&self, schemas: Value) -> Value {
        let schemas = object(schemas).into_iter();
        Value::Object(schemas.map(|(name, schema)| (name, self.schema(schema))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(from: Draft, schema: Value) -> Value {
        Rewriting { root: "#/definitions/a", from: Some(from) }.schema(schema)
    }

    #[test]
    fn draft_4_becomes_draft_7() {
        let before = json!({
            "$schema": "http://json-schema.org/draft-04/schema#", "id": "a",
            "type": "object",
            "properties": {
                "id": {"type": "string", "format": "uri"},
                "$ref": {"$ref": "#/definitions/b"},
                "format": {"minimum": 1, "exclusiveMinimum": true, "maximum": 9, "exclusiveMaximum": false},
                "list": {"type": "array", "items": [{"$ref": "#"}, {}], "additionalItems": false},
            },
            "dependencies": {"id": ["format"], "format": {"$ref": "#/definitions/b"}},
            "definitions": {"b": {"enum": [{"$ref": "#/stays"}]}},
        });
        let after = json!({
            "type": "object",
            "properties": {
                "id": {"type": "string", "format": "uri"},
                "$ref": {"$ref": "#/definitions/a/definitions/b"},
                "format": {"exclusiveMinimum": 1, "maximum": 9},
                "list": {"type": "array", "items": [{"$ref": "#/definitions/a"}, {}], "additionalItems": false},
            },
            "dependencies": {"id": ["format"], "format": {"$ref": "#/definitions/a/definitions/b"}},
            "definitions": {"b": {"enum": [{"$ref": "#/stays"}]}},
        });
        assert_eq!(rewritten(Draft::Four, before), after);
    }

    #[test]
    fn draft_2020_becomes_draft_7() {
        let before = json!({
            "properties": {
                "port": {"type": "integer", "format": "uint16", "exclusiveMinimum": 0},
                "pair": {"prefixItems": [{"format": "x"}, true], "items": false},
                "described": {"$ref": "#/$defs/b", "description": "One."},
                "plain": {"$ref": "#/$defs/b"},
            },
            "dependentRequired": {"port": ["pair"]},
            "dependentSchemas": {"pair": {"required": ["port"]}},
            "$defs": {"b": {"const": {"format": "stays"}}},
        });
        let after = json!({
            "properties": {
                "port": {"type": "integer", "exclusiveMinimum": 0},
                "pair": {"items": [{}, true], "additionalItems": false},
                "described": {"description": "One.", "allOf": [{"$ref": "#/definitions/a/$defs/b"}]},
                "plain": {"$ref": "#/definitions/a/$defs/b"},
            },
            "dependencies": {"port": ["pair"], "pair": {"required": ["port"]}},
            "$defs": {"b": {"const": {"format": "stays"}}},
        });
        assert_eq!(rewritten(Draft::Of2020, before), after);
    }

    #[test]
    fn names_are_escaped_in_references() {
        assert_eq!(in_a_fragment("stage:org.osbuild.x-1_a"), "stage:org.osbuild.x-1_a");
        assert_eq!(in_a_fragment("a b~/ä%"), "a%20b~0~1%C3%A4%25");
    }
}
