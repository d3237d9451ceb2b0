//! What a module says of itself: its documentation, its capabilities, and the schema of its description in a
//! manifest.
//!
//! Native modules state schemas of their options and of the members beside them (draft 2020-12); modules of a library
//! directory state fragments of the reference's form (draft 4). Both become one schema of the whole description,
//! composed by the reference's rules, so that the same faults are found at the same paths.

use std::path::PathBuf;

use kiln_api::module::{Kind, ModuleSchema, Modules};
use serde_json::{Map, Value, json};

use super::Origin;
use crate::manifest::{Format, source1};

/// A version of JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draft {
    /// Draft 4: modules of library directories.
    Four,
    /// Draft 2020-12: native modules.
    Of2020,
}

/// What a module says of itself.
#[derive(Clone, Debug)]
pub struct Description {
    /// The module's kind.
    pub kind: Kind,
    /// The module's name.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// One sentence.
    pub summary: String,
    /// The documentation, without the summary for modules of a library directory.
    pub text: String,
    /// Capabilities beyond the default set.
    pub capabilities: Vec<String>,
    schemas: Schemas,
}

#[derive(Clone, Debug)]
enum Schemas {
    Native(Box<ModuleSchema>),
    /// The fragments for both formats; one that is empty says nothing.
    Library {
        one: Map<String, Value>,
        two: Map<String, Value>,
    },
}

/// The capabilities and the schema of a native module; runners have none.
fn native(modules: &Modules, kind: Kind, name: &str) -> Option<(Vec<String>, ModuleSchema)> {
    let plain = |schema| (Vec::new(), schema);
    match kind {
        Kind::Stage | Kind::Assembler => {
            let module = if kind == Kind::Stage { modules.stage(name) } else { modules.assembler(name) }?;
            Some((module.capabilities.iter().map(|name| (*name).to_owned()).collect(), (module.schema)()))
        }
        Kind::Source => modules.source(name).map(|module| plain(module.schema())),
        Kind::Input => modules.input(name).map(|module| plain(module.schema())),
        Kind::Device => modules.device(name).map(|module| plain(module.schema())),
        Kind::Mount => modules.mount(name).map(|module| plain(module.schema())),
        Kind::Runner => None,
    }
}

impl Description {
    pub(super) fn native(modules: &Modules, kind: Kind, name: &str) -> Option<Self> {
        let (capabilities, schema) = native(modules, kind, name)?;
        let text = schema.documentation().to_owned();
        Some(Self {
            kind,
            name: name.to_owned(),
            origin: Origin::Native,
            summary: first_sentence(&text),
            text,
            capabilities,
            schemas: Schemas::Native(Box::new(schema)),
        })
    }

    /// A module of a library directory with the fragments it states.
    pub(super) fn external(
        kind: Kind,
        name: &str,
        path: PathBuf,
        (summary, text): (String, String),
        capabilities: Vec<String>,
        (one, two): (Map<String, Value>, Map<String, Value>),
    ) -> Self {
        let schemas = Schemas::Library { one, two };
        Self {
            kind,
            name: name.to_owned(),
            origin: Origin::Library(path),
            summary,
            text,
            capabilities,
            schemas,
        }
    }

    /// The schemas of a native module, member by member.
    pub fn members(&self) -> Option<&ModuleSchema> {
        match &self.schemas {
            Schemas::Native(schema) => Some(schema),
            Schemas::Library { .. } => None,
        }
    }

    /// The version of JSON Schema that the schema is written in.
    pub const fn draft(&self) -> Draft {
        match &self.schemas {
            Schemas::Native(_) => Draft::Of2020,
            Schemas::Library { .. } => Draft::Four,
        }
    }

    /// The schema of the module's description in a manifest; none if the module is not for that format.
    pub fn schema(&self, format: Format) -> Option<Value> {
        let mut schema = match &self.schemas {
            Schemas::Native(schema) => self.of_members(schema, format),
            Schemas::Library { one, two } => self.of_fragments(one, two, format)?,
        };
        schema.insert("title".to_owned(), json!(format!("The {} {}", self.kind.noun(), self.name)));
        move_definitions(&mut schema);
        Some(Value::Object(schema))
    }

    /// The members of a native module's description that may not be left out, and what they are then held to be.
    ///
    /// The reference does not ask for `options` here, and its modules fail for want of them when they run.
    pub fn absent_members(&self) -> Vec<(&'static str, &Value, Value)> {
        let Schemas::Native(schema) = &self.schemas else { return Vec::new() };
        let mut members = Vec::new();
        if self.kind != Kind::Source {
            members.push(("options", &schema.options, json!({})));
        }
        if matches!(self.kind, Kind::Stage | Kind::Assembler) {
            members.extend(schema.inputs.as_ref().map(|schema| ("inputs", schema, json!({}))));
            members.extend(schema.devices.as_ref().map(|schema| ("devices", schema, json!({}))));
            members.extend(schema.mounts.as_ref().map(|schema| ("mounts", schema, json!([]))));
        }
        members
    }

    fn of_members(&self, schema: &ModuleSchema, format: Format) -> Map<String, Value> {
        let name = json!({"enum": [self.name]});
        let composed = match self.kind {
            Kind::Stage | Kind::Assembler => {
                return self.step(format, |properties| {
                    properties.insert("options".to_owned(), schema.options.clone());
                    if format == Format::One {
                        return;
                    }
                    let members = [("inputs", &schema.inputs), ("devices", &schema.devices)];
                    for (member, schema) in members.into_iter().chain([("mounts", &schema.mounts)]) {
                        properties.extend(schema.clone().map(|schema| (member.to_owned(), schema)));
                    }
                });
            }
            Kind::Source if format == Format::One => source_of_format_1(&self.name, &schema.options),
            Kind::Source => schema.options.clone(),
            Kind::Input => {
                let origin =
                    if schema.origins.is_empty() { json!({}) } else { json!({"enum": schema.origins}) };
                json!({
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["type", "origin", "references"],
                    "properties": {
                        "type": name,
                        "origin": origin,
                        "references": schema.references.clone().unwrap_or_else(|| json!({})),
                        "options": schema.options,
                    },
                })
            }
            Kind::Device => {
                json!({"type": "object", "properties": {"type": name, "options": schema.options}})
            }
            Kind::Mount => {
                let mut required = vec!["name", "type"];
                required.extend(schema.required_members);
                let mut target = json!({"type": "string"});
                if let Some(pattern) = schema.target_pattern {
                    target["pattern"] = json!(pattern);
                }
                let mut members = json!({
                    "name": {"type": "string"},
                    "type": name,
                    "source": {"type": "string"},
                    "target": target,
                    "partition": {"type": "number"},
                    "options": schema.options,
                });
                if let Some(members) = members.as_object_mut() {
                    members.retain(|member, _| !schema.refused_members.contains(&member.as_str()));
                }
                json!({
                    "type": "object",
                    "additionalProperties": false,
                    "required": required,
                    "properties": members,
                })
            }
            Kind::Runner => json!({}),
        };
        into_map(composed)
    }

    fn of_fragments(
        &self,
        one: &Map<String, Value>,
        two: &Map<String, Value>,
        format: Format,
    ) -> Option<Map<String, Value>> {
        let either = || {
            let own = if format == Format::Two { two } else { one };
            let fragment = if own.is_empty() { one } else { own };
            (!fragment.is_empty()).then(|| fragment.clone())
        };
        let mut composed = into_map(json!({"type": "object", "additionalProperties": false}));
        match self.kind {
            Kind::Stage | Kind::Assembler => {
                return Some(self.step(format, |properties| {
                    if format == Format::Two && !two.is_empty() {
                        properties.extend(two.clone());
                    } else {
                        properties.insert("options".to_owned(), Value::Object(one.clone()));
                    }
                }));
            }
            Kind::Device => {
                let properties = json!({"type": {"enum": [self.name]}, "options": either()?});
                composed.insert("properties".to_owned(), properties);
                composed.insert("additionalProperties".to_owned(), json!(true));
            }
            Kind::Mount => {
                if two.is_empty() {
                    return None;
                }
                composed.extend(two.clone());
                let properties = composed.entry("properties").or_insert_with(|| json!({}));
                properties.as_object_mut()?.insert("type".to_owned(), json!({"enum": [self.name]}));
            }
            Kind::Source | Kind::Input | Kind::Runner => composed.extend(either()?),
        }
        Some(composed)
    }

    /// The schema of a stage or an assembler.
    fn step(&self, format: Format, fill: impl FnOnce(&mut Map<String, Value>)) -> Map<String, Value> {
        let named = if format == Format::Two { "type" } else { "name" };
        let mut properties = Map::new();
        properties.insert(named.to_owned(), json!({"enum": [self.name]}));
        fill(&mut properties);
        properties.entry("mounts").or_insert_with(|| json!({"type": "array"}));
        properties.entry("devices").or_insert_with(|| json!({"type": "object"}));
        into_map(json!({
            "type": "object",
            "additionalProperties": false,
            "required": [named],
            "properties": properties,
        }))
    }
}

/// In format 1 the items of a source stand in a member of another name, which a source may know itself.
fn source_of_format_1(name: &str, schema: &Value) -> Value {
    let member = source1(name).map_or("items", |(_, member)| member);
    let properties = schema.get("properties");
    if properties.is_some_and(|properties| properties.get(member).is_some()) {
        return schema.clone();
    }
    let items = properties.and_then(|properties| properties.get("items"));
    let mut composed = json!({
        "type": "object",
        "additionalProperties": false,
        "required": [member],
        "properties": {member: items.cloned().unwrap_or_else(|| json!({}))},
    });
    for definitions in ["definitions", "$defs"] {
        if let Some(value) = schema.get(definitions) {
            composed[definitions] = value.clone();
        }
    }
    composed
}

/// References in a fragment are written as if it were the whole schema: what they lead to moves to the root.
fn move_definitions(schema: &mut Map<String, Value>) {
    for name in ["definitions", "$defs"] {
        let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
        let of_properties = properties.remove(name);
        let options = properties.get_mut("options").and_then(Value::as_object_mut);
        let of_options = options.and_then(|options| options.remove(name));
        for definitions in [of_properties, of_options].into_iter().flatten() {
            schema.insert(name.to_owned(), definitions);
        }
    }
}

/// The members of what `json!` made as an object.
fn into_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// The first sentence of a documentation, on one line.
fn first_sentence(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.split_once(". ") {
        Some((sentence, _)) => format!("{sentence}."),
        None => line,
    }
}
