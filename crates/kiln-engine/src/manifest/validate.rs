//! Checks the modules of a manifest and their options against the modules' schemas.
//!
//! Everything is checked and every fault reported. What a schema is held against is what the document says, before
//! references are resolved and absent members filled in: a schema tells `[]` from `{}`, the manifest does not. A
//! schema is compiled once for each module, however many stages use it.

use std::collections::HashMap;

use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::LocationSegment;
use kiln_api::module::{Kind, ModuleSchema, Modules};
use serde_json::{Value, json};

use super::finding::{Finding, Findings, did_you_mean, list};
use super::json::{Json, to_map};
use super::place::{JsonPath, Step};
use super::{Format, Manifest, Stage};

/// Everything that is wrong with the modules and options of a manifest.
pub fn validate(document: &Json, manifest: &Manifest, modules: &Modules) -> Vec<Finding> {
    let mut checker = Checker { document, modules, findings: Findings::default(), compiled: HashMap::new() };
    for pipeline in manifest.pipelines.values() {
        for stage in &pipeline.stages {
            checker.stage(stage, manifest.format);
        }
    }
    for source in manifest.sources.values() {
        let path = JsonPath::default().key("sources").key(&source.kind);
        let names = modules.sources.iter().map(|module| module.name());
        if !checker.known(Kind::Source, &source.kind, names, &path) {
            continue;
        }
        let value = match (manifest.format, document.get("sources").and_then(|all| all.get(&source.kind))) {
            (Format::Two, Some(description)) => description.to_value(),
            _ => json!({"items": to_map(&source.items)}),
        };
        let schema = || modules.source(&source.kind).map(|module| module.schema().options);
        checker.check(Kind::Source, &source.kind, "", schema, &value, &path);
    }
    checker.findings.0
}

/// A module and the member of its description that a schema is for.
type Key = (Kind, String, &'static str);

struct Checker<'a> {
    document: &'a Json,
    modules: &'a Modules,
    findings: Findings,
    compiled: HashMap<Key, Option<Compiled>>,
}

/// A schema that is ready to be used, and its text, for suggestions.
struct Compiled {
    validator: Validator,
    schema: Value,
}

impl Compiled {
    /// An invalid schema of a native module is caught by the modules' own tests.
    fn new(schema: Value) -> Option<Self> {
        Some(Self { validator: jsonschema::draft202012::new(&schema).ok()?, schema })
    }
}

/// The options beside an unknown one. `keyword` is the path of the keyword that refused it: a member of the schema
/// that has the options.
fn options_beside<'s>(schema: &'s Value, keyword: &str) -> impl Iterator<Item = &'s str> {
    let object = keyword.rsplit_once('/').and_then(|(object, _)| schema.pointer(object));
    let properties = object.and_then(|object| object.get("properties")?.as_object());
    properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str))
}

impl Checker<'_> {
    fn known<'n>(
        &mut self,
        kind: Kind,
        name: &str,
        names: impl Iterator<Item = &'n str> + Clone,
        path: &JsonPath,
    ) -> bool {
        if names.clone().any(|known| known == name) {
            return true;
        }
        let noun = kind.noun();
        let hint = did_you_mean(name, names)
            .unwrap_or_else(|| format!("`kiln modules` lists every {noun} there is"));
        self.findings.hinted(path, format!("unknown {noun} `{name}`"), Some(hint));
        false
    }

    fn stage(&mut self, stage: &Stage, format: Format) {
        let modules = *self.modules;
        let member = if format == Format::One { "name" } else { "type" };
        let kind = if stage.assembler { Kind::Assembler } else { Kind::Stage };
        let names = modules.stages.iter().filter(|_| !stage.assembler).map(|module| module.name);
        if self.known(kind, &stage.name, names, &stage.path.key(member)) {
            self.stage_members(stage, format);
        }
        if format == Format::One {
            return;
        }
        let inputs = stage.path.key("inputs");
        for (name, input) in &stage.inputs {
            let path = inputs.key(name);
            if !self.known(
                Kind::Input,
                &input.kind,
                modules.inputs.iter().map(|module| module.name()),
                &path.key("type"),
            ) {
                continue;
            }
            let Some(module) = modules.input(&input.kind) else { continue };
            let schema = module.schema();
            if !schema.origins.is_empty() && !schema.origins.contains(&input.origin.as_str()) {
                let message = format!("`{}` does not take content from `{}`", input.kind, input.origin);
                let hint = schema.origins.first().map(|origin| format!("its origin is `{origin}`"));
                self.findings.hinted(&path.key("origin"), message, hint);
            }
            let references = find(self.document, &path.key("references")).map_or(Value::Null, Json::to_value);
            self.check(
                Kind::Input,
                &input.kind,
                "references",
                || schema.references.clone(),
                &references,
                &path.key("references"),
            );
            let options = Value::Object(to_map(&input.options));
            self.check(
                Kind::Input,
                &input.kind,
                "options",
                || Some(schema.options.clone()),
                &options,
                &path.key("options"),
            );
        }
        let devices = stage.path.key("devices");
        for (name, device) in &stage.devices {
            let path = devices.key(name);
            if self.known(
                Kind::Device,
                &device.kind,
                modules.devices.iter().map(|module| module.name()),
                &path.key("type"),
            ) {
                let schema = || modules.device(&device.kind).map(|module| module.schema().options);
                let options = Value::Object(to_map(&device.options));
                self.check(Kind::Device, &device.kind, "options", schema, &options, &path.key("options"));
            }
        }
        let mounts = stage.path.key("mounts");
        for (index, mount) in stage.mounts.iter().enumerate() {
            let path = mounts.index(index);
            if self.known(
                Kind::Mount,
                &mount.kind,
                modules.mounts.iter().map(|module| module.name()),
                &path.key("type"),
            ) {
                let schema = modules.mount(&mount.kind).map(|module| module.schema()).unwrap_or_default();
                let written = find(self.document, &path);
                for member in schema.required_members {
                    if written.is_none_or(|mount| mount.get(member).is_none()) {
                        let message = format!("`{member}` is missing: `{}` needs it", mount.kind);
                        self.findings.add(&path, message);
                    }
                }
                let schema = || Some(schema.options.clone());
                let options = Value::Object(to_map(&mount.options));
                self.check(Kind::Mount, &mount.kind, "options", schema, &options, &path.key("options"));
            }
        }
    }

    fn stage_members(&mut self, stage: &Stage, format: Format) {
        let Some(module) = self.modules.stage(&stage.name) else { return };
        let schema: std::cell::OnceCell<ModuleSchema> = std::cell::OnceCell::new();
        let schema = || schema.get_or_init(module.schema);
        let options = Value::Object(to_map(&stage.options));
        let path = &stage.path;
        self.check(
            Kind::Stage,
            &stage.name,
            "options",
            || Some(schema().options.clone()),
            &options,
            &path.key("options"),
        );
        if format == Format::One {
            return;
        }
        if !stage.inputs.is_empty() {
            let path = path.key("inputs");
            let value = find(self.document, &path).map_or(Value::Null, Json::to_value);
            match &schema().inputs {
                Some(inputs) => {
                    self.check(Kind::Stage, &stage.name, "inputs", || Some(inputs.clone()), &value, &path);
                }
                None => self.findings.add(&path, format!("`{}` takes no inputs", stage.name)),
            }
        } else if let Some(inputs) = schema().inputs.clone() {
            self.check(Kind::Stage, &stage.name, "inputs", || Some(inputs), &json!({}), path);
        }
        let members = [("devices", &schema().devices, json!({})), ("mounts", &schema().mounts, json!([]))];
        for (member, schema, absent) in members {
            if let Some(schema) = schema.clone() {
                let path = path.key(member);
                let value = find(self.document, &path).map_or(absent, Json::to_value);
                self.check(Kind::Stage, &stage.name, member, || Some(schema), &value, &path);
            }
        }
    }

    fn check(
        &mut self,
        kind: Kind,
        name: &str,
        member: &'static str,
        schema: impl FnOnce() -> Option<Value>,
        value: &Value,
        path: &JsonPath,
    ) {
        let compiled = self.compiled.entry((kind, name.to_owned(), member));
        let compiled = compiled.or_insert_with(|| schema().and_then(Compiled::new));
        let Some(Compiled { validator, schema }) = compiled else { return };
        let faults: Vec<_> = validator
            .iter_errors(value)
            .map(|error| {
                let mut path = path.clone();
                path.0.extend(error.instance_path().iter().map(|segment| match segment {
                    LocationSegment::Property(key) => Step::Key(key.to_string()),
                    LocationSegment::Index(index) => Step::Index(index),
                }));
                let mut hint = format!("`kiln modules show {name}` documents what it takes");
                // The unknown key itself is shown, not the object that it is in.
                let (place, message) = match error.kind() {
                    ValidationErrorKind::AdditionalProperties { unexpected } => {
                        if let [key] = unexpected.as_slice()
                            && let Some(near) =
                                did_you_mean(key, options_beside(schema, error.schema_path().as_str()))
                        {
                            hint = near;
                        }
                        let keys = list(unexpected.iter().map(String::as_str));
                        (unexpected.first().map(|key| path.key(key)), format!("unknown option {keys}"))
                    }
                    _ => (None, shorten(&error.to_string())),
                };
                Finding { path, place, message, hint: Some(hint) }
            })
            .collect();
        self.findings.0.extend(faults);
    }
}

/// What the document says at a path.
fn find<'d>(document: &'d Json, path: &JsonPath) -> Option<&'d Json> {
    path.0.iter().try_fold(document, |value, step| match (step, value) {
        (Step::Key(key), Json::Object(members)) => members.get(key),
        (Step::Index(index), Json::Array(items)) => items.get(*index),
        _ => None,
    })
}

/// Cuts the quoted value out of a message that would fill the screen.
fn shorten(message: &str) -> String {
    const LONGEST: usize = 300;
    if message.chars().count() <= LONGEST {
        return message.to_owned();
    }
    let head: String = message.chars().take(LONGEST / 2).collect();
    let tail: Vec<char> = message.chars().rev().take(LONGEST / 3).collect();
    format!("{head} … {}", tail.into_iter().rev().collect::<String>())
}

#[cfg(test)]
mod tests {
    use kiln_api::ModuleError;
    use kiln_api::input::{Input, InputReply, InputRequest, Store};
    use kiln_api::mount::{Mount, MountRequest, Mounted};
    use kiln_api::stage::StageModule;

    use super::*;
    use crate::manifest::load;

    const MODULES: Modules = Modules {
        stages: &[StageModule {
            name: "org.osbuild.stage",
            capabilities: &[],
            schema: stage_schema,
            run: |_| Err(ModuleError::invalid("never run")),
        }],
        sources: &[],
        inputs: &[&Files],
        devices: &[],
        mounts: &[&FileSystem, &Bind],
        runners: &[],
    };

    fn stage_schema() -> ModuleSchema {
        let source = json!({"type": "object", "required": ["source"]});
        ModuleSchema {
            options: json!({"type": "object", "additionalProperties": false}),
            inputs: Some(json!({"additionalProperties": {"required": ["references"]}})),
            mounts: Some(json!({"type": "array", "maxItems": 2, "items": {"anyOf": [source, {}]}})),
            ..ModuleSchema::default()
        }
    }

    struct Files;

    impl Input for Files {
        fn name(&self) -> &'static str {
            "org.osbuild.files"
        }

        fn schema(&self) -> ModuleSchema {
            let references = json!({"anyOf": [{"type": "array"}, {"type": "object", "minProperties": 1}]});
            ModuleSchema { options: json!({}), references: Some(references), ..ModuleSchema::default() }
        }

        fn map(&self, _: &InputRequest<'_>, _: &dyn Store) -> Result<InputReply, ModuleError> {
            Err(ModuleError::invalid("never run"))
        }
    }

    struct FileSystem;
    struct Bind;

    impl Mount for FileSystem {
        fn name(&self) -> &'static str {
            "org.osbuild.ext4"
        }

        fn schema(&self) -> ModuleSchema {
            let required_members = &["source", "target"];
            ModuleSchema { options: json!({}), required_members, ..ModuleSchema::default() }
        }

        fn mount(&self, _: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
            Err(ModuleError::invalid("never run"))
        }
    }

    impl Mount for Bind {
        fn name(&self) -> &'static str {
            "org.osbuild.bind"
        }

        fn schema(&self) -> ModuleSchema {
            ModuleSchema { options: json!({}), ..ModuleSchema::default() }
        }

        fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
            FileSystem.mount(request)
        }
    }

    /// The findings for a manifest of one stage with these members, one line each.
    fn findings(members: &Value) -> Vec<String> {
        let mut stage = json!({"type": "org.osbuild.stage"});
        for (name, member) in members.as_object().expect("an object") {
            stage[name] = member.clone();
        }
        let manifest = json!({"version": "2", "pipelines": [{"name": "p", "stages": [stage]}]});
        let loaded = load(&manifest.to_string()).expect("well-formed");
        let found = validate(&loaded.document, &loaded.manifest, &MODULES);
        found.iter().map(|finding| format!("{}: {}", finding.path, finding.message)).collect()
    }

    #[test]
    fn references_are_checked_as_they_are_written() {
        let files = |references: Value| {
            json!({"inputs": {"f": {
                "type": "org.osbuild.files", "origin": "org.osbuild.source", "references": references,
            }}})
        };
        assert_eq!(findings(&files(json!([]))), [""; 0]);
        let found = findings(&files(json!({})));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(".pipelines[0].stages[0].inputs.f.references: "), "{found:?}");
    }

    #[test]
    fn a_mount_has_what_its_module_needs() {
        let mount = |members: Value| json!({"mounts": [members]});
        let place = ".pipelines[0].stages[0].mounts[0]";
        let found = findings(&mount(json!({"name": "m", "type": "org.osbuild.ext4", "options": {}})));
        let needed = ["source", "target"]
            .map(|name| format!("{place}: `{name}` is missing: `org.osbuild.ext4` needs it"));
        assert_eq!(found, needed);
        assert_eq!(findings(&mount(json!({"name": "m", "type": "org.osbuild.bind"}))), [""; 0]);
        assert_eq!(findings(&json!({})), [""; 0]);
    }
}
