//! Tests that a module accepts and refuses the same descriptions as the reference's module of that name.
//!
//! A test states a table of values for one member of a module's description (mostly `options`):
//!
//! ```ignore
//! #[test]
//! fn schema() {
//!     Agreement::stage::<Mkdir>()
//!         .accepts([json!({"paths": [{"path": "/a", "mode": 448}]})])
//!         .refuses([json!({"paths": [{"path": "/a", "mode": "0700"}]})]);
//!     Agreement::stage::<Copy>().member("inputs").accepts([json!({})]).refuses([json!([])]);
//! }
//! ```
//!
//! Every value is held against the derived schema. If the environment names a checkout of the reference in
//! `KILN_REFERENCE`, it is held against the reference's `meta.json` too, and so are some hundred small mutations
//! of the accepted values, for which both must say the same. Without the variable the test says what it left out.

use std::mem::discriminant;
use std::path::PathBuf;

use jsonschema::Validator;
use kiln_api::module::{Kind, ModuleSchema};
use kiln_api::stage::Stage;
use serde_json::{Map, Value, json};

/// The environment variable with the directory of the reference's checkout.
pub(crate) const REFERENCE: &str = "KILN_REFERENCE";

/// The checkout of the reference, or a line that says what is not tested without it.
#[expect(clippy::print_stderr, reason = "a test says what it leaves out")]
pub(crate) fn reference(what: &str) -> Option<PathBuf> {
    let directory = std::env::var_os(REFERENCE).filter(|value| !value.is_empty()).map(PathBuf::from);
    if directory.is_none() {
        eprintln!("SKIPPED: {what} is not compared with the reference: set {REFERENCE} to its checkout");
    }
    directory
}

/// One module's description, and the member of it that values are tried for.
pub(crate) struct Agreement {
    kind: Kind,
    name: &'static str,
    schema: ModuleSchema,
    member: &'static str,
    around: Value,
    parse: fn(&Value) -> Result<(), String>,
}

impl Agreement {
    /// Tries values for the `options` of a stage; accepted ones must also fit its options type.
    pub(crate) fn stage<S: Stage>() -> Self {
        Self::of_step::<S>(Kind::Stage)
    }

    fn of_step<S: Stage>(kind: Kind) -> Self {
        let mut agreement = Self::of(kind, S::NAME, S::schema());
        agreement.parse = |options| {
            serde_json::from_value::<S::Options>(options.clone()).map(drop).map_err(|error| error.to_string())
        };
        if let Some(reference) = agreement.reference_meta() {
            let expected = reference.get("capabilities").cloned().unwrap_or_else(|| json!([]));
            assert_eq!(json!(S::CAPABILITIES), expected, "{}: capabilities", S::NAME);
        }
        agreement
    }

    /// Tries values for the `options` of an assembler; accepted ones must also fit its options type.
    pub(crate) fn assembler<S: Stage>() -> Self {
        Self::of_step::<S>(Kind::Assembler)
    }

    /// Tries values for the `options` of a module of any kind.
    pub(crate) fn of(kind: Kind, name: &'static str, schema: ModuleSchema) -> Self {
        let around = match kind {
            Kind::Mount => json!({"name": "m", "type": name, "source": "d", "target": "/"}),
            Kind::Source => json!({}),
            _ => json!({"type": name}),
        };
        Self { kind, name, schema, member: "options", around, parse: |_| Ok(()) }
    }

    /// Tries values for another member: `inputs`, `devices`, `mounts`, `references`, `origin`, `items`, `target`.
    pub(crate) fn member(mut self, member: &'static str) -> Self {
        self.member = member;
        self.parse = |_| Ok(());
        self
    }

    /// Gives the members of the description that the tried one needs beside it to be valid.
    pub(crate) fn around(mut self, description: Value) -> Self {
        self.around = description;
        self
    }

    /// Asserts that the module accepts each value, and the reference's does, and that both say the same of
    /// mutations of it.
    #[track_caller]
    pub(crate) fn accepts(self, values: impl IntoIterator<Item = Value>) -> Self {
        let values: Vec<_> = values.into_iter().collect();
        self.hold(&values, true);
        for value in &values {
            (self.parse)(value).unwrap_or_else(|error| panic!("{}: {value}: {error}", self.name));
        }
        self.compare_mutations(&values);
        self
    }

    /// Asserts that the module refuses each value, and the reference's does.
    #[track_caller]
    pub(crate) fn refuses(self, values: impl IntoIterator<Item = Value>) -> Self {
        self.hold(&values.into_iter().collect::<Vec<_>>(), false);
        self
    }

    #[track_caller]
    fn hold(&self, values: &[Value], expected: bool) {
        let word = if expected { "accept" } else { "refuse" };
        let derived = self.derived();
        let reference = self.reference_schema();
        for value in values {
            let description = self.description(value);
            let name = self.name;
            assert_eq!(derived.is_valid(&description), expected, "{name} should {word} {value}");
            if let Some(reference) = &reference {
                assert_eq!(reference.is_valid(&description), expected, "{name} there should {word} {value}");
            }
        }
    }

    #[track_caller]
    fn compare_mutations(&self, values: &[Value]) {
        let Some(reference) = self.reference_schema() else { return };
        let derived = self.derived();
        let differences: Vec<_> = values
            .iter()
            // A description whose `options` are no object is refused before the module is asked; so is one whose
            // `mounts` are no list.
            .flat_map(|value| {
                mutations(value).into_iter().filter(|found| discriminant(found) == discriminant(value))
            })
            .filter_map(|value| {
                let description = self.description(&value);
                let there = reference.is_valid(&description);
                let word = if there { "only the reference accepts" } else { "only Kiln accepts" };
                (derived.is_valid(&description) != there).then(|| format!("{word} {value}"))
            })
            .collect();
        assert!(differences.is_empty(), "{}: {}:\n{}", self.name, self.member, differences.join("\n"));
    }

    fn description(&self, value: &Value) -> Value {
        let mut description = self.around.clone();
        description[self.member] = value.clone();
        description
    }

    /// The schema of the whole description as the engine puts it together.
    fn derived(&self) -> Validator {
        let mut properties = Map::new();
        properties.insert("options".to_owned(), self.schema.options.clone());
        match self.kind {
            Kind::Stage | Kind::Assembler => {
                let any = |kind: &str| json!({"type": kind});
                properties.insert("inputs".to_owned(), self.schema.inputs.clone().unwrap_or(json!(false)));
                properties.insert("devices".to_owned(), self.schema.devices.clone().unwrap_or(any("object")));
                properties.insert("mounts".to_owned(), self.schema.mounts.clone().unwrap_or(any("array")));
            }
            Kind::Input => {
                if !self.schema.origins.is_empty() {
                    properties.insert("origin".to_owned(), json!({"enum": self.schema.origins}));
                }
                if let Some(references) = &self.schema.references {
                    properties.insert("references".to_owned(), references.clone());
                }
            }
            Kind::Mount => {
                properties.extend(
                    self.schema
                        .target_pattern
                        .map(|pattern| ("target".to_owned(), json!({"pattern": pattern}))),
                );
                let refused = self.schema.refused_members.iter();
                properties.extend(refused.map(|member| ((*member).to_owned(), json!(false))));
            }
            Kind::Source | Kind::Device | Kind::Runner => {}
        }
        let schema = match self.kind {
            // A source's schema is that of its whole description.
            Kind::Source => self.schema.options.clone(),
            _ => {
                let required = self.schema.required_members;
                json!({"type": "object", "properties": properties, "required": required})
            }
        };
        jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn reference_meta(&self) -> Option<Value> {
        let path = reference(self.name)?.join(format!("{}s/{}", self.kind.noun(), self.name));
        if self.kind == Kind::Assembler {
            let text = std::fs::read_to_string(&path).expect("an assembler of the reference");
            return Some(meta_in_source(&text));
        }
        let path = path.with_added_extension("meta.json");
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Some(serde_json::from_str(&text).expect("a reference's meta.json is JSON"))
    }

    /// The schema of the whole description as the reference puts it together.
    fn reference_schema(&self) -> Option<Validator> {
        let meta = self.reference_meta()?;
        let first = meta.get("schema").cloned();
        let second = meta.get("schema_2").cloned();
        let mut schema = json!({"type": "object", "additionalProperties": false});
        let merge = |target: &mut Value, members: Value| {
            if let (Some(target), Value::Object(members)) = (target.as_object_mut(), members) {
                target.extend(members);
            }
        };
        match self.kind {
            Kind::Stage | Kind::Assembler => {
                let mut properties =
                    json!({"type": true, "devices": {"type": "object"}, "mounts": {"type": "array"}});
                let own = second.unwrap_or_else(|| json!({"options": first}));
                merge(&mut properties, own);
                schema["properties"] = properties;
            }
            Kind::Device => schema["properties"] = json!({"type": true, "options": second.or(first)}),
            Kind::Mount | Kind::Input | Kind::Source | Kind::Runner => {
                merge(&mut schema, second.or(first).unwrap_or_default());
                if schema["properties"].get("type").is_none() && self.kind != Kind::Source {
                    schema["properties"]["type"] = json!({});
                }
            }
        }
        // `true` is no schema in draft 4.
        if schema["properties"]["type"] == json!(true) {
            schema["properties"]["type"] = json!({});
        }
        // References in a module's schema are written as if the module's own part were the root.
        for place in ["/properties/definitions", "/properties/options/definitions"] {
            if let Some(definitions) = schema.pointer(place).cloned() {
                schema["definitions"] = definitions;
            }
        }
        if let Some(properties) = schema["properties"].as_object_mut() {
            properties.remove("definitions");
        }
        let validator = jsonschema::draft4::new(&schema);
        Some(validator.unwrap_or_else(|error| panic!("{}: the reference's schema: {error}", self.name)))
    }
}

/// Schema and capabilities that stand in Python source, as the reference's assemblers have them.
fn meta_in_source(text: &str) -> Value {
    let between = |start: &str, end: &str| {
        let (_, rest) = text.split_once(start)?;
        Some(rest.split_once(end)?.0)
    };
    let schema = between("\nSCHEMA = \"\"\"", "\"\"\"").expect("a schema");
    let capabilities = between("\nCAPABILITIES = [", "]").unwrap_or_default();
    let parse = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
    json!({"schema": parse(format!("{{{schema}}}")), "capabilities": parse(format!("[{capabilities}]"))})
}

/// All values that differ from the given one in one place.
fn mutations(value: &Value) -> Vec<Value> {
    let mut found = vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(70_000),
        json!(""),
        json!("x"),
        json!("x y"),
        json!("/x/../y"),
        json!("x\u{e9}"),
        json!([]),
        json!([0]),
        json!(["x"]),
        json!([{}]),
        json!({}),
        json!({"x": {}}),
        json!({"x": 0}),
    ];
    match value {
        Value::String(text) => {
            for text in [format!("{text}x"), format!("{text}/"), format!("/{text}"), format!("../{text}")] {
                found.push(json!(text));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let mut fewer = items.clone();
                fewer.remove(index);
                found.push(json!(fewer));
                let mut more = items.clone();
                more.push(item.clone());
                found.push(json!(more));
                for mutation in mutations(item) {
                    let mut changed = items.clone();
                    changed[index] = mutation;
                    found.push(json!(changed));
                }
            }
        }
        Value::Object(members) => {
            let mut more = members.clone();
            more.insert("unknown-member".to_owned(), json!("x"));
            found.push(json!(more));
            for (name, member) in members {
                let mut fewer = members.clone();
                fewer.shift_remove(name);
                found.push(json!(fewer));
                for other in ["", "a", "/a", "../a", "/../a", "/a/../b", "a b", "-a", "a\u{e9}"] {
                    let mut renamed = fewer.clone();
                    renamed.insert(other.to_owned(), member.clone());
                    found.push(json!(renamed));
                }
                for mutation in mutations(member) {
                    let mut changed = members.clone();
                    changed.insert(name.clone(), mutation);
                    found.push(json!(changed));
                }
            }
        }
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_differ_in_one_place() {
        let found = mutations(&json!({"a": ["b"]}));
        for expected in [json!({}), json!({"a": []}), json!({"a": ["bx"]}), json!({"a": ["b", "b"]})] {
            assert!(found.contains(&expected), "{expected}");
        }
        assert!(found.contains(&json!({"a": ["b"], "unknown-member": "x"})));
    }
}
