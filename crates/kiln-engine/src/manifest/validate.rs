//! Checks a manifest against the schema of its format, and every module in it against the module's own schema.
//!
//! Everything is checked and every fault reported. What a schema is held against is what the document says, before
//! references are resolved and absent members filled in: a schema tells `[]` from `{}`, the manifest does not. A
//! schema is made and compiled once for each module, however many stages use it.
//!
//! Each finding has the path that the reference reports, which for mounts has their name where the document has
//! their place in a list, and the place in the document where they differ.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use jsonschema::{ValidationError, Validator};
use kiln_api::module::Kind;
use serde_json::Value;

use super::finding::{Finding, did_you_mean};
use super::place::JsonPath;
use super::{Format, source1, words};
use crate::index::{Description, Draft, Index, Origin, Unusable};

/// The schemas of the formats, without the modules.
const STRUCTURE_1: &str = include_str!("structure1.json");
const STRUCTURE_2: &str = include_str!("structure2.json");

/// The schema of a format: what a manifest looks like, whatever modules there are.
pub fn structure(format: Format) -> Value {
    let text = match format {
        Format::One => STRUCTURE_1,
        Format::Two => STRUCTURE_2,
    };
    serde_json::from_str(text).unwrap_or_default()
}

/// Everything that is wrong with a document of a format by the schemas of the format and of its modules.
pub fn validate(document: &Value, format: Format, index: &Index) -> Vec<Finding> {
    let mut checker = Checker {
        index,
        format,
        seen: HashSet::new(),
        findings: Vec::new(),
        compiled: HashMap::new(),
        names: HashMap::new(),
        hints: HashMap::new(),
    };
    let root = Path::default();
    if let Some(compiled) = Compiled::new(structure(format), Draft::Four, "") {
        checker.check(&compiled, document, &root);
    }
    match format {
        Format::One => {
            if let Some(pipeline) = document.get("pipeline") {
                checker.pipeline1(pipeline, &root.key("pipeline"));
            }
        }
        Format::Two => {
            for (index, pipeline) in items(document, "pipelines") {
                let path = root.key("pipelines").index(index).key("stages");
                for (index, stage) in items(pipeline, "stages") {
                    checker.stage2(stage, &path.index(index));
                }
            }
        }
    }
    for (name, description) in members(document, "sources") {
        checker.source(name, description, &root.key("sources").key(name));
    }
    checker.findings
}

/// The members of an object in an object.
fn members<'d>(object: &'d Value, key: &str) -> impl Iterator<Item = (&'d String, &'d Value)> {
    object.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// The items of an array in an object.
pub(super) fn items<'d>(object: &'d Value, key: &str) -> impl Iterator<Item = (usize, &'d Value)> {
    object.get(key).and_then(Value::as_array).into_iter().flatten().enumerate()
}

/// Where something stands: as the reference says it, and in the document.
#[derive(Clone, Default)]
struct Path {
    reported: JsonPath,
    place: JsonPath,
}

impl Path {
    fn key(&self, key: &str) -> Self {
        Self { reported: self.reported.key(key), place: self.place.key(key) }
    }

    fn index(&self, index: usize) -> Self {
        Self { reported: self.reported.index(index), place: self.place.index(index) }
    }
}

/// A schema that is ready to be used, and its text, for suggestions.
struct Compiled {
    validator: Validator,
    schema: Value,
    /// Where more is to be found; empty for nowhere.
    help: String,
    /// Members that may not be left out: nothing would be too little of them.
    needed: Vec<Needed>,
}

/// A member that may not be left out.
struct Needed {
    member: &'static str,
    validator: Validator,
    schema: Value,
    /// What stands for the member when it is left out.
    nothing: Value,
}

impl Compiled {
    /// None for a schema that is none; such a one of a native module is caught by the modules' own tests.
    fn new(schema: Value, draft: Draft, help: &str) -> Option<Self> {
        let validator = compile(&schema, draft).ok()?;
        Some(Self { validator, schema, help: help.to_owned(), needed: Vec::new() })
    }

    fn of(description: &Description, format: Format) -> Result<Self, String> {
        let name = &description.name;
        let schema = description
            .schema(format)
            .ok_or_else(|| "it says nothing of what it takes in this format of manifest".to_owned())?;
        let validator =
            compile(&schema, description.draft()).map_err(|error| format!("its schema is wrong: {error}"))?;
        let needed = |(member, schema, nothing): (&'static str, &Value, Value)| {
            let validator = compile(schema, description.draft()).ok()?;
            let enough = validator.is_valid(&nothing);
            (!enough).then(|| Needed { member, validator, schema: schema.clone(), nothing })
        };
        let help = format!("`kiln modules show {name}` documents what it takes");
        let needed = description.absent_members().into_iter().filter_map(needed).collect();
        Ok(Self { validator, schema, help, needed })
    }
}

/// Makes a schema ready to be used.
pub(super) fn compile(schema: &Value, draft: Draft) -> Result<Validator, Box<ValidationError<'static>>> {
    match draft {
        Draft::Four => jsonschema::draft4::new(schema),
        Draft::Of2020 => jsonschema::draft202012::new(schema),
    }
    .map_err(Box::new)
}

struct Checker<'a> {
    index: &'a Index,
    format: Format,
    /// What was found already, by path and message: a fault of a stage may be one of the manifest's format too.
    seen: HashSet<(JsonPath, String)>,
    findings: Vec<Finding>,
    compiled: HashMap<(Kind, String), Result<Rc<Compiled>, Unusable>>,
    /// The names of all modules of a kind, for suggestions.
    names: HashMap<Kind, Vec<String>>,
    /// What is suggested for names that no module has.
    hints: HashMap<(Kind, String), String>,
}

impl Checker<'_> {
    fn pipeline1(&mut self, pipeline: &Value, path: &Path) {
        if let Some(build) = pipeline.get("build").and_then(|build| build.get("pipeline")) {
            self.pipeline1(build, &path.key("build").key("pipeline"));
        }
        let stages = path.key("stages");
        for (index, stage) in items(pipeline, "stages") {
            self.module(Kind::Stage, stage, "name", &stages.index(index));
        }
        if let Some(assembler) = pipeline.get("assembler") {
            self.module(Kind::Assembler, assembler, "name", &path.key("assembler"));
        }
    }

    fn stage2(&mut self, stage: &Value, path: &Path) {
        self.module(Kind::Stage, stage, "type", path);
        let groups = [(Kind::Device, "devices"), (Kind::Input, "inputs")];
        for (kind, group) in groups {
            for (name, description) in members(stage, group) {
                self.module(kind, description, "type", &path.key(group).key(name));
            }
        }
        for (index, mount) in items(stage, "mounts") {
            let mut path = path.key("mounts").index(index);
            if let Some(name) = mount.get("name").and_then(Value::as_str) {
                path.reported.0.pop();
                path.reported = path.reported.key(name);
            }
            self.module(Kind::Mount, mount, "type", &path);
        }
    }

    fn source(&mut self, name: &str, description: &Value, path: &Path) {
        let known = match self.format {
            Format::One => source1(name).map_or(name, |(known, _)| known),
            Format::Two => name,
        };
        match self.schema(Kind::Source, known) {
            // That it is no object is said by the format.
            Ok(_) if !description.is_object() => {}
            Ok(compiled) => self.check(&compiled, description, path),
            Err(reason) => self.unusable(Kind::Source, name, &reason, path, &path.place),
        }
    }

    /// Checks the description of a module that is named by one of its members.
    fn module(&mut self, kind: Kind, description: &Value, named: &str, path: &Path) {
        // That it has no name is found by the schema of the format.
        let Some(name) = description.get(named).and_then(Value::as_str) else { return };
        let compiled = match self.schema(kind, name) {
            Ok(compiled) => compiled,
            Err(reason) => return self.unusable(kind, name, &reason, path, &path.place.key(named)),
        };
        self.check(&compiled, description, path);
        for needed in &compiled.needed {
            if description.get(needed.member).is_none() {
                self.absent(&compiled, needed, path);
            }
        }
    }

    /// The schema of a module by its name in the manifest.
    fn schema(&mut self, kind: Kind, name: &str) -> Result<Rc<Compiled>, Unusable> {
        if let Some(known) = self.compiled.get(&(kind, name.to_owned())) {
            return known.clone();
        }
        let compiled = self.index.describe(kind, name).and_then(|description| {
            Compiled::of(&description, self.format).map(Rc::new).map_err(|reason| match &description.origin {
                Origin::Native => Unusable::Broken(reason),
                Origin::Library(path) => Unusable::Broken(format!("`{}`: {reason}", path.display())),
            })
        });
        self.compiled.insert((kind, name.to_owned()), compiled.clone());
        compiled
    }

    fn unusable(&mut self, kind: Kind, name: &str, reason: &Unusable, path: &Path, place: &JsonPath) {
        let noun = kind.noun();
        let (message, hint) = match reason {
            Unusable::Unknown => (format!("unknown {noun} `{name}`"), Some(self.hint(kind, name))),
            Unusable::Broken(reason) => (format!("the {noun} `{name}` cannot be used: {reason}"), None),
        };
        self.add(Finding {
            path: path.reported.clone(),
            place: Some(place.clone()),
            of_key: kind == Kind::Source,
            message,
            hint,
        });
    }

    /// What is suggested for a name that no module has: the same mistake is often made many times.
    fn hint(&mut self, kind: Kind, name: &str) -> String {
        if let Some(hint) = self.hints.get(&(kind, name.to_owned())) {
            return hint.clone();
        }
        let names = self.names.entry(kind).or_insert_with(|| self.index.list(kind).into_keys().collect());
        let hint = did_you_mean(name, names.iter().map(String::as_str))
            .unwrap_or_else(|| format!("`kiln modules` lists every {} there is", kind.noun()));
        self.hints.insert((kind, name.to_owned()), hint.clone());
        hint
    }

    fn check(&mut self, compiled: &Compiled, value: &Value, path: &Path) {
        let Compiled { validator, schema, help, .. } = compiled;
        if validator.is_valid(value) {
            return;
        }
        for error in validator.iter_errors(value) {
            self.report(words::findings(&error, schema, &path.place, help), path);
        }
    }

    /// Says what is missing because a whole member is.
    fn absent(&mut self, compiled: &Compiled, needed: &Needed, path: &Path) {
        let Needed { member, validator, schema, nothing } = needed;
        let place = path.place.key(member);
        for error in validator.iter_errors(nothing) {
            self.report(words::findings(&error, schema, &place, &compiled.help), path);
        }
    }

    fn report(&mut self, findings: Vec<Finding>, path: &Path) {
        for mut finding in findings {
            if path.reported != path.place {
                let below = finding.path.0.split_off(path.place.0.len());
                let mut reported = path.reported.clone();
                reported.0.extend(below.iter().cloned());
                let mut place = std::mem::replace(&mut finding.path, reported);
                place.0.extend(below);
                finding.place.get_or_insert(place);
            }
            self.add(finding);
        }
    }

    fn add(&mut self, finding: Finding) {
        // An unknown key is told apart by its name, not by its path: that is the object's.
        if self.seen.insert((finding.path.clone(), finding.message.clone())) {
            self.findings.push(finding);
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_api::ModuleError;
    use kiln_api::input::{Input, InputReply, InputRequest, Store};
    use kiln_api::module::{ModuleSchema, Modules};
    use kiln_api::mount::{Mount, MountRequest, Mounted};
    use kiln_api::stage::StageModule;
    use serde_json::json;

    use super::*;
    use crate::manifest::check;

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
            let target_pattern = Some("^tree://");
            ModuleSchema { options: json!({}), target_pattern, ..ModuleSchema::default() }
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
        let found = check(&manifest.to_string(), &Index::native(MODULES)).expect("a manifest");
        found.iter().map(|finding| format!("{}: {}", finding.path, finding.message)).collect()
    }

    #[test]
    fn references_are_checked_as_they_are_written() {
        let files = |references: Value| {
            json!({"inputs": {"f": {
                "type": "org.osbuild.files", "origin": "org.osbuild.source", "references": references,
            }}})
        };
        let reported = ".pipelines[0].stages[0].inputs.f.references: ";
        let faults = [
            // An empty list is a list of names as well as one of objects.
            (json!([]), "expected at least 1 item"),
            (json!({}), "expected at least 1 member"),
        ];
        for (references, message) in faults {
            assert_eq!(findings(&files(references)), [format!("{reported}{message}")]);
        }
    }

    #[test]
    fn a_mount_has_what_its_module_needs() {
        let mount = |members: Value| json!({"mounts": [members]});
        let place = ".pipelines[0].stages[0].mounts.m";
        let found = findings(&mount(json!({"name": "m", "type": "org.osbuild.ext4", "options": {}})));
        let needed = ["source", "target"].map(|name| format!("{place}: `{name}` is missing"));
        assert_eq!(found, needed);
        let bind = |target: &str| json!({"name": "m", "type": "org.osbuild.bind", "target": target});
        assert_eq!(findings(&mount(json!({"name": "m", "type": "org.osbuild.bind"}))), [""; 0]);
        assert_eq!(findings(&mount(bind("tree://"))), [""; 0]);
        let found = findings(&mount(bind("/")));
        assert_eq!(found, [format!("{place}.target: `/` does not match the pattern `^tree://`")]);
        assert_eq!(findings(&json!({})), [""; 0]);
    }
}
