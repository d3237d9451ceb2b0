//! `kiln modules`: what native modules there are, and what each accepts.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use kiln_api::module::{Kind, ModuleSchema};
use kiln_engine::manifest::{did_you_mean, list as list_names};
use kiln_modules::MODULES;
use serde_json::{Map, Value, json};

use crate::error::{CliError, CliResult, Kind as ErrorKind};
use crate::present::print;

/// The arguments of `kiln modules`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all modules
    List,
    /// Document a module: what it does and which options it takes
    Show {
        /// The module's name; `org.osbuild.` may be left out
        name: String,
    },
}

/// A module of any kind, for listing.
struct Entry {
    kind: Kind,
    name: &'static str,
    schema: Option<ModuleSchema>,
    documentation: String,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let entries = entries();
    match &arguments.command {
        None | Some(Command::List) => list(&entries, arguments.json),
        Some(Command::Show { name }) => show(&entries, name, arguments.json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn entries() -> Vec<Entry> {
    let described = |kind, name, schema: ModuleSchema| {
        let documentation = schema.documentation().to_owned();
        Entry { kind, name, schema: Some(schema), documentation }
    };
    let mut entries = Vec::new();
    entries
        .extend(MODULES.stages.iter().map(|module| described(Kind::Stage, module.name, (module.schema)())));
    entries
        .extend(MODULES.sources.iter().map(|module| described(Kind::Source, module.name(), module.schema())));
    entries
        .extend(MODULES.inputs.iter().map(|module| described(Kind::Input, module.name(), module.schema())));
    entries
        .extend(MODULES.devices.iter().map(|module| described(Kind::Device, module.name(), module.schema())));
    entries
        .extend(MODULES.mounts.iter().map(|module| described(Kind::Mount, module.name(), module.schema())));
    entries.extend(MODULES.runners.iter().map(|runner| Entry {
        kind: Kind::Runner,
        name: runner.name,
        schema: None,
        documentation: runner.documentation.to_owned(),
    }));
    entries
}

impl Entry {
    /// The first sentence of the documentation, on one line.
    fn summary(&self) -> String {
        let paragraph = self.documentation.split("\n\n").next().unwrap_or_default();
        let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.split_once(". ") {
            Some((sentence, _)) => format!("{sentence}."),
            None => line,
        }
    }
}

fn list(entries: &[Entry], as_json: bool) {
    if as_json {
        let list: Vec<Value> = entries
            .iter()
            .map(|entry| json!({"kind": entry.kind.noun(), "name": entry.name, "summary": entry.summary()}))
            .collect();
        print(format_args!("{}\n", Value::Array(list)));
        return;
    }
    let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for entry in entries {
        let _ = writeln!(text, "{:7} {:width$}  {}", entry.kind.noun(), entry.name, entry.summary());
    }
    print(text);
}

fn show(entries: &[Entry], name: &str, as_json: bool) -> CliResult {
    let full = if name.contains("org.") { name.to_owned() } else { format!("org.osbuild.{name}") };
    let found: Vec<&Entry> = entries.iter().filter(|entry| entry.name == full).collect();
    if found.is_empty() {
        let hint = did_you_mean(&full, entries.iter().map(|entry| entry.name));
        return Err(CliError::new(ErrorKind::Usage, format!("there is no native module `{full}`"))
            .hint(hint.unwrap_or_else(|| "`kiln modules` lists them all".to_owned())));
    }
    if as_json {
        let all: Vec<Value> = found.iter().map(|entry| describe_json(entry)).collect();
        print(format_args!("{}\n", Value::Array(all)));
        return Ok(());
    }
    print(found.iter().map(|entry| describe(entry)).collect::<Vec<_>>().join("\n"));
    Ok(())
}

fn describe_json(entry: &Entry) -> Value {
    let mut members = Map::new();
    members.insert("kind".to_owned(), json!(entry.kind.noun()));
    members.insert("name".to_owned(), json!(entry.name));
    members.insert("documentation".to_owned(), json!(entry.documentation));
    if let Some(schema) = &entry.schema {
        members.insert("options".to_owned(), schema.options.clone());
        for (name, value) in [
            ("inputs", &schema.inputs),
            ("devices", &schema.devices),
            ("mounts", &schema.mounts),
            ("references", &schema.references),
        ] {
            members.extend(value.clone().map(|value| (name.to_owned(), value)));
        }
    }
    Value::Object(members)
}

fn describe(entry: &Entry) -> String {
    let mut text = format!("{} ({})\n\n", entry.name, entry.kind.noun());
    for line in entry.documentation.lines() {
        let _ = if line.is_empty() { writeln!(text) } else { writeln!(text, "  {line}") };
    }
    if let Some(schema) = &entry.schema {
        text.push_str("\nOptions:\n");
        let before = text.len();
        options(&schema.options, 1, &mut text);
        if text.len() == before {
            text.push_str("  none\n");
        }
        if !schema.required_members.is_empty() {
            let _ = writeln!(
                text,
                "\nRequired beside the options: {}",
                list_names(schema.required_members.iter().copied())
            );
        }
    }
    text
}

/// How deep nested options are shown; what is below is in `--json`.
const DEPTH: usize = 6;

fn options(schema: &Value, depth: usize, text: &mut String) {
    if depth > DEPTH {
        return;
    }
    let alternatives = ["oneOf", "anyOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    for alternative in alternatives {
        options(alternative, depth, text);
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let indent = "  ".repeat(depth);
    for (name, property) in properties {
        let need = if required.contains(&name.as_str()) { ", required" } else { "" };
        let default = property.get("default").map(|value| format!(", default {value}")).unwrap_or_default();
        let _ = writeln!(text, "{indent}{name} ({}{need}{default})", type_of(property));
        for line in property.get("description").and_then(Value::as_str).unwrap_or_default().lines() {
            let _ = writeln!(text, "{indent}    {line}");
        }
        options(property, depth + 1, text);
        if let Some(items) = property.get("items") {
            options(items, depth + 1, text);
        }
        if let Some(values @ Value::Object(_)) = property.get("additionalProperties") {
            options(values, depth + 1, text);
        }
    }
}

fn type_of(schema: &Value) -> String {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    }
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    match schema.get("type") {
        Some(Value::String(name)) if name == "array" => {
            format!("array of {}", schema.get("items").map_or("any".to_owned(), type_of))
        }
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
        _ => {
            let alternatives =
                ["oneOf", "anyOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
            let mut names: Vec<String> = alternatives.map(type_of).collect();
            names.dedup();
            if names.is_empty() { "any".to_owned() } else { names.join(" | ") }
        }
    }
}
