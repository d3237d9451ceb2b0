//! Checks the modules of a manifest and their options against the modules' schemas.
//!
//! Everything is checked and every fault reported. What a schema is held against is what the document says, before
//! references are resolved and absent members filled in: a schema tells `[]` from `{}`, the manifest does not. So a
//! document that cannot be loaded is checked as far as it goes; that a member has the wrong type is left to whoever
//! loads it. A schema is made and compiled once for each module, however many stages use it.

use std::collections::HashMap;
use std::rc::Rc;

use jsonschema::Validator;
use kiln_api::module::{Kind, ModuleSchema, Modules};
use serde_json::{Value, json};

use super::finding::{Finding, Findings, did_you_mean};
use super::json::Json;
use super::place::JsonPath;
use super::{Format, Manifest, format1, words};

/// Everything that is wrong with the modules and options of a manifest.
pub fn validate(document: &Json, manifest: &Manifest, modules: &Modules) -> Vec<Finding> {
    let mut checker =
        Checker { modules, findings: Findings::default(), schemas: HashMap::new(), compiled: HashMap::new() };
    let root = JsonPath::default();
    match manifest.format {
        Format::One => {
            if let Some(pipeline) = document.get("pipeline") {
                checker.pipeline1(pipeline, &root.key("pipeline"));
            }
            for (name, description) in members(document, "sources") {
                checker.source1(name, description, &root.key("sources").key(name));
            }
        }
        Format::Two => {
            for (index, pipeline) in items(document, "pipelines") {
                let path = root.key("pipelines").index(index).key("stages");
                for (index, stage) in items(pipeline, "stages") {
                    checker.stage2(stage, &path.index(index));
                }
            }
            for (name, description) in members(document, "sources") {
                checker.source2(name, description, &root.key("sources").key(name));
            }
        }
    }
    checker.findings.0
}

/// The members of an object in an object.
fn members<'d>(object: &'d Json, key: &str) -> impl Iterator<Item = (&'d String, &'d Json)> {
    object.get(key).and_then(Json::as_object).into_iter().flatten()
}

/// The items of an array in an object.
fn items<'d>(object: &'d Json, key: &str) -> impl Iterator<Item = (usize, &'d Json)> {
    let items = match object.get(key) {
        Some(Json::Array(items)) => items.as_slice(),
        _ => &[],
    };
    items.iter().enumerate()
}

/// A module and the member of its description that a schema is for.
type Key = (Kind, String, &'static str);

struct Checker<'a> {
    modules: &'a Modules,
    findings: Findings,
    schemas: HashMap<(Kind, String), Rc<ModuleSchema>>,
    compiled: HashMap<Key, Option<Compiled>>,
}

/// A schema that is ready to be used, and its text, for suggestions.
struct Compiled {
    validator: Validator,
    schema: Value,
}

impl Compiled {
    /// An invalid schema of a native module is caught by the modules' own tests.
    fn new(schema: &Value) -> Option<Self> {
        Some(Self { validator: jsonschema::draft202012::new(schema).ok()?, schema: schema.clone() })
    }
}

/// A module of a manifest.
#[derive(Clone, Copy)]
struct Used<'n> {
    kind: Kind,
    name: &'n str,
}

impl Checker<'_> {
    /// The schema of a module by its name in the manifest; a finding if there is none.
    fn module(&mut self, used: Used<'_>, path: &JsonPath) -> Option<Rc<ModuleSchema>> {
        let Used { kind, name } = used;
        if let Some(schema) = self.schemas.get(&(kind, name.to_owned())) {
            return Some(schema.clone());
        }
        let modules = *self.modules;
        let schema = match kind {
            Kind::Stage => modules.stage(name).map(|module| (module.schema)()),
            Kind::Source => modules.source(name).map(|module| module.schema()),
            Kind::Input => modules.input(name).map(|module| module.schema()),
            Kind::Device => modules.device(name).map(|module| module.schema()),
            Kind::Mount => modules.mount(name).map(|module| module.schema()),
            Kind::Assembler | Kind::Runner => None,
        };
        if let Some(schema) = schema {
            let schema = Rc::new(schema);
            self.schemas.insert((kind, name.to_owned()), schema.clone());
            return Some(schema);
        }
        let names: Vec<&str> = match kind {
            Kind::Stage => modules.stages.iter().map(|module| module.name).collect(),
            Kind::Source => modules.sources.iter().map(|module| module.name()).collect(),
            Kind::Input => modules.inputs.iter().map(|module| module.name()).collect(),
            Kind::Device => modules.devices.iter().map(|module| module.name()).collect(),
            Kind::Mount => modules.mounts.iter().map(|module| module.name()).collect(),
            Kind::Assembler | Kind::Runner => Vec::new(),
        };
        let noun = kind.noun();
        let hint = did_you_mean(name, names.into_iter())
            .unwrap_or_else(|| format!("`kiln modules` lists every {noun} there is"));
        self.findings.hinted(path, format!("unknown {noun} `{name}`"), Some(hint));
        None
    }

    fn pipeline1(&mut self, pipeline: &Json, path: &JsonPath) {
        if let Some(build) = pipeline.get("build").and_then(|build| build.get("pipeline")) {
            self.pipeline1(build, &path.key("build").key("pipeline"));
        }
        let stages = path.key("stages");
        for (index, stage) in items(pipeline, "stages") {
            self.step1(Kind::Stage, stage, &stages.index(index));
        }
        if let Some(assembler) = pipeline.get("assembler") {
            self.step1(Kind::Assembler, assembler, &path.key("assembler"));
        }
    }

    fn step1(&mut self, kind: Kind, step: &Json, path: &JsonPath) {
        let Some(name) = step.get("name").and_then(Json::as_str) else { return };
        let used = Used { kind, name };
        if let Some(schema) = self.module(used, &path.key("name")) {
            self.options(used, &schema, step, path);
        }
    }

    fn source1(&mut self, name: &str, description: &Json, path: &JsonPath) {
        // What format 1 does not know is refused when it is loaded.
        let Some((kind, member)) = format1::source(name) else { return };
        let Some(items @ Json::Object(_)) = description.get(member) else { return };
        let used = Used { kind: Kind::Source, name: kind };
        if let Some(schema) = self.module(used, path) {
            self.check(used, "", &schema.options, &json!({"items": items.to_value()}), path);
        }
    }

    fn source2(&mut self, name: &str, description: &Json, path: &JsonPath) {
        let used = Used { kind: Kind::Source, name };
        if let Some(schema) = self.module(used, path)
            && let Json::Object(_) = description
        {
            self.check(used, "", &schema.options, &description.to_value(), path);
        }
    }

    fn stage2(&mut self, stage: &Json, path: &JsonPath) {
        if let Some(name) = stage.get("type").and_then(Json::as_str) {
            let used = Used { kind: Kind::Stage, name };
            if let Some(schema) = self.module(used, &path.key("type")) {
                self.options(used, &schema, stage, path);
                self.stage_members(used, &schema, stage, path);
            }
        }
        let inputs = path.key("inputs");
        for (name, input) in members(stage, "inputs") {
            self.input(input, &inputs.key(name));
        }
        let devices = path.key("devices");
        for (name, device) in members(stage, "devices") {
            let path = devices.key(name);
            let Some(name) = device.get("type").and_then(Json::as_str) else { continue };
            let used = Used { kind: Kind::Device, name };
            if let Some(schema) = self.module(used, &path.key("type")) {
                self.options(used, &schema, device, &path);
            }
        }
        let mounts = path.key("mounts");
        for (index, mount) in items(stage, "mounts") {
            let path = mounts.index(index);
            let Some(name) = mount.get("type").and_then(Json::as_str) else { continue };
            let used = Used { kind: Kind::Mount, name };
            let Some(schema) = self.module(used, &path.key("type")) else { continue };
            for member in schema.required_members {
                if mount.get(member).is_none() {
                    self.findings.add(&path, format!("`{member}` is missing: `{name}` needs it"));
                }
            }
            self.options(used, &schema, mount, &path);
        }
    }

    fn input(&mut self, input: &Json, path: &JsonPath) {
        let Some(name) = input.get("type").and_then(Json::as_str) else { return };
        let used = Used { kind: Kind::Input, name };
        let Some(schema) = self.module(used, &path.key("type")) else { return };
        let origin = input.get("origin").and_then(Json::as_str);
        if let Some(origin) = origin.filter(|_| !schema.origins.is_empty())
            && !schema.origins.contains(&origin)
        {
            let message = format!("`{name}` does not take content from `{origin}`");
            let hint = schema.origins.first().map(|origin| format!("its origin is `{origin}`"));
            self.findings.hinted(&path.key("origin"), message, hint);
        }
        if let (Some(references), Some(schema)) = (input.get("references"), &schema.references) {
            self.check(used, "references", schema, &references.to_value(), &path.key("references"));
        }
        self.options(used, &schema, input, path);
    }

    /// Checks the `options` of a description.
    fn options(&mut self, used: Used<'_>, schema: &ModuleSchema, description: &Json, path: &JsonPath) {
        let options = match description.get("options") {
            None => json!({}),
            Some(options @ Json::Object(_)) => options.to_value(),
            Some(_) => return,
        };
        self.check(used, "options", &schema.options, &options, &path.key("options"));
    }

    fn stage_members(&mut self, used: Used<'_>, schema: &ModuleSchema, stage: &Json, path: &JsonPath) {
        match (stage.get("inputs"), &schema.inputs) {
            (Some(Json::Object(inputs)), None) if !inputs.is_empty() => {
                self.findings.add(&path.key("inputs"), format!("`{}` takes no inputs", used.name));
            }
            (Some(value @ Json::Object(inputs)), Some(schema)) if !inputs.is_empty() => {
                self.check(used, "inputs", schema, &value.to_value(), &path.key("inputs"));
            }
            (None | Some(Json::Object(_)), Some(schema)) => {
                self.check(used, "inputs", schema, &json!({}), path);
            }
            _ => {}
        }
        let members = [("devices", &schema.devices, json!({})), ("mounts", &schema.mounts, json!([]))];
        for (member, schema, absent) in members {
            let Some(schema) = schema else { continue };
            let value = stage.get(member).map_or_else(|| absent.clone(), Json::to_value);
            // Of another type it was refused already.
            if value.is_object() == absent.is_object() {
                self.check(used, member, schema, &value, &path.key(member));
            }
        }
    }

    fn check(
        &mut self,
        used: Used<'_>,
        member: &'static str,
        schema: &Value,
        value: &Value,
        path: &JsonPath,
    ) {
        let compiled = self.compiled.entry((used.kind, used.name.to_owned(), member));
        let Some(Compiled { validator, schema }) = compiled.or_insert_with(|| Compiled::new(schema)) else {
            return;
        };
        if validator.is_valid(value) {
            return;
        }
        let help = format!("`kiln modules show {}` documents what it takes", used.name);
        for error in validator.iter_errors(value) {
            self.findings.0.extend(words::findings(&error, schema, path, &help));
        }
    }
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
        assemblers: &[],
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
