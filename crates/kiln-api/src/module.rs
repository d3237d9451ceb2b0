//! What every module has, whatever its kind.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value};

use crate::device::Device;
use crate::input::Input;
use crate::mount::Mount;
use crate::source::Source;
use crate::stage::{Runner, StageModule};

/// The kinds of module, as the manifest knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// One step that changes the tree.
    Stage,
    /// The last step of a format-1 pipeline.
    Assembler,
    /// Fetches content.
    Source,
    /// Hands content to a stage.
    Input,
    /// Makes a block device.
    Device,
    /// Mounts a device for a stage.
    Mount,
    /// Prepares a build root and runs a stage in it.
    Runner,
}

impl Kind {
    /// The word for one module of this kind.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Assembler => "assembler",
            Self::Source => "source",
            Self::Input => "input",
            Self::Device => "device",
            Self::Mount => "mount",
            Self::Runner => "runner",
        }
    }
}

/// The JSON schemas of a module, one per member of its description in a format-2 manifest.
///
/// `options` is for every kind. `inputs`, `devices` and `mounts` are for stages, `references` and `origins` for
/// inputs, `required_members`, `refused_members` and `target_pattern` for mounts; what is `None` may hold anything of its kind (for `inputs`: must be absent).
#[derive(Clone, Debug, Default)]
pub struct ModuleSchema {
    /// Schema of `options`; its `description` is the module's documentation.
    pub options: Value,
    /// Whether `options` may be left out.
    pub options_optional: bool,
    /// Schema of a stage's `inputs`; `None` if the stage takes none.
    pub inputs: Option<Value>,
    /// Schema of a stage's `devices`.
    pub devices: Option<Value>,
    /// Schema of a stage's `mounts`.
    pub mounts: Option<Value>,
    /// Schema of an input's `references`.
    pub references: Option<Value>,
    /// The values of `origin` that an input accepts.
    pub origins: &'static [&'static str],
    /// The members that a mount's description needs beside `name` and `type`: `source`, `target`.
    pub required_members: &'static [&'static str],
    /// The members that a mount's description must not have: of `source`, `target` and `partition`.
    pub refused_members: &'static [&'static str],
    /// What a mount's `target` must match: a regular expression.
    pub target_pattern: Option<&'static str>,
}

impl ModuleSchema {
    /// Derives the schema of `options` from the type that holds them.
    ///
    /// The type's doc comment is the module's help: its first paragraph is the summary. An `Option` is a member
    /// that may be left out, not one that may be `null`.
    pub fn of<Options: JsonSchema>() -> Self {
        let options = SchemaSettings::draft2020_12()
            .with(|settings| {
                settings.meta_schema = None;
                settings.inline_subschemas = true;
            })
            .with_transform(RefuseNull)
            .into_generator()
            .into_root_schema_for::<Options>()
            .to_value();
        Self { options, ..Self::default() }
    }

    /// The documentation: the description of the options type.
    pub fn documentation(&self) -> &str {
        self.options.get("description").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Takes back that an `Option` accepts `null`: no option of a manifest does.
#[derive(Clone, Debug)]
struct RefuseNull;

impl Transform for RefuseNull {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(members) = schema.as_object_mut() {
            refuse_null(members);
        }
        transform_subschemas(self, schema);
    }
}

fn refuse_null(members: &mut Map<String, Value>) {
    if members.get("default").is_some_and(Value::is_null) {
        members.remove("default");
    }
    if let Some(types) = members.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            members.insert("type".to_owned(), only);
        }
    }
    if let Some(values) = members.get_mut("enum").and_then(Value::as_array_mut) {
        values.retain(|value| !value.is_null());
    }
    let Some(choices) = members.get_mut("anyOf").and_then(Value::as_array_mut) else { return };
    let count = choices.len();
    choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
    if choices.len() < count
        && let [Value::Object(only)] = choices.as_slice()
    {
        // What was said of the member itself, as its description, goes before what its type says.
        let only = only.clone();
        members.remove("anyOf");
        for (name, value) in only {
            members.entry(name).or_insert(value);
        }
    }
}

/// All native modules, one sorted list per kind.
#[derive(Clone, Copy)]
pub struct Modules {
    /// Stages.
    pub stages: &'static [StageModule],
    /// Assemblers.
    pub assemblers: &'static [StageModule],
    /// Sources.
    pub sources: &'static [&'static dyn Source],
    /// Inputs.
    pub inputs: &'static [&'static dyn Input],
    /// Devices.
    pub devices: &'static [&'static dyn Device],
    /// Mounts.
    pub mounts: &'static [&'static dyn Mount],
    /// Runners.
    pub runners: &'static [Runner],
}

impl Modules {
    /// Finds a stage by its name.
    pub fn stage(&self, name: &str) -> Option<&'static StageModule> {
        self.stages.iter().find(|module| module.name == name)
    }

    /// Finds an assembler by its name.
    pub fn assembler(&self, name: &str) -> Option<&'static StageModule> {
        self.assemblers.iter().find(|module| module.name == name)
    }

    /// Finds a source by its name.
    pub fn source(&self, name: &str) -> Option<&'static dyn Source> {
        self.sources.iter().copied().find(|module| module.name() == name)
    }

    /// Finds an input by its name.
    pub fn input(&self, name: &str) -> Option<&'static dyn Input> {
        self.inputs.iter().copied().find(|module| module.name() == name)
    }

    /// Finds a device by its name.
    pub fn device(&self, name: &str) -> Option<&'static dyn Device> {
        self.devices.iter().copied().find(|module| module.name() == name)
    }

    /// Finds a mount by its name.
    pub fn mount(&self, name: &str) -> Option<&'static dyn Mount> {
        self.mounts.iter().copied().find(|module| module.name() == name)
    }

    /// Finds a runner by its file name.
    pub fn runner(&self, name: &str) -> Option<&'static Runner> {
        self.runners.iter().find(|module| module.name == name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    /// Whether.
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    enum Choice {
        /// One.
        One,
        /// Two.
        Two,
    }

    /// Does things.
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Options {
        text: Option<String>,
        /// Which.
        #[serde(default)]
        choice: Option<Choice>,
        nested: BTreeMap<String, Option<bool>>,
    }

    #[test]
    fn an_option_may_be_left_out_but_not_be_null() {
        let schema = ModuleSchema::of::<Options>();
        assert_eq!(schema.documentation(), "Does things.");
        assert!(!schema.options.to_string().contains("null"), "{}", schema.options);
        assert_eq!(schema.options["required"], json!(["nested"]));
        let properties = &schema.options["properties"];
        assert_eq!(properties["text"], json!({"type": "string"}));
        assert_eq!(properties["nested"]["additionalProperties"], json!({"type": "boolean"}));
        assert_eq!(properties["choice"]["description"], "Which.");
        assert_eq!(properties["choice"]["oneOf"][0]["const"], "One");
    }
}
