//! `kiln modules`: what modules there are, where they come from, and what each accepts.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use kiln_api::module::Kind;
use kiln_engine::index::{Description, Index, Origin, Unusable};
use kiln_engine::manifest::{Format, did_you_mean, list as list_names};
use serde_json::{Map, Value, json};

use super::library::LibraryArguments;
use crate::error::{CliError, CliResult, Kind as ErrorKind};
use crate::present::print;

/// The kinds in the order in which they are listed.
const KINDS: [Kind; 7] =
    [Kind::Stage, Kind::Assembler, Kind::Source, Kind::Input, Kind::Device, Kind::Mount, Kind::Runner];

/// The arguments of `kiln modules`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln modules\n  kiln modules show mkdir\n  kiln modules list --libdir /usr/lib/osbuild\n  kiln modules show org.osbuild.curl --json"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    library: LibraryArguments,
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

/// A module of any kind.
struct Entry {
    kind: Kind,
    name: String,
    origin: Origin,
    summary: String,
    documentation: String,
    /// What it says of what it takes; runners say nothing.
    description: Option<Arc<Description>>,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let index = arguments.library.index()?;
    match &arguments.command {
        None | Some(Command::List) => list(&index, arguments.json),
        Some(Command::Show { name }) => show(&index, name, arguments.json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// All modules of a kind.
fn entries(index: &Index, kind: Kind) -> Vec<Entry> {
    index.list(kind).into_iter().map(|(name, origin)| Entry::new(index, kind, name, origin)).collect()
}

impl Entry {
    fn new(index: &Index, kind: Kind, name: String, origin: Origin) -> Self {
        let (summary, documentation, description) = match index.describe(kind, &name) {
            Ok(found) => {
                let documentation = match &found.origin {
                    Origin::Native => found.text.clone(),
                    Origin::Library(_) => format!("{}\n\n{}", found.summary, found.text.trim()),
                };
                (found.summary.clone(), documentation.trim_end().to_owned(), Some(found))
            }
            // Runners are programs and nothing more.
            Err(_) if kind == Kind::Runner => {
                let native = index.modules().runner(&name).filter(|_| origin == Origin::Native);
                let text = native.map(|runner| runner.documentation).unwrap_or_default();
                (text.to_owned(), text.to_owned(), None)
            }
            Err(Unusable::Broken(reason)) => {
                let text = format!("cannot be used: {reason}");
                (text.clone(), text, None)
            }
            Err(Unusable::Unknown) => (String::new(), String::new(), None),
        };
        Self { kind, name, origin, summary, documentation, description }
    }

    fn origin(&self) -> String {
        match &self.origin {
            Origin::Native => "native".to_owned(),
            Origin::Library(path) => path.display().to_string(),
        }
    }
}

fn first_sentence(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.split_once(". ") {
        Some((sentence, _)) => format!("{sentence}."),
        None => line,
    }
}

fn list(index: &Index, as_json: bool) {
    let entries: Vec<Entry> = KINDS.into_iter().flat_map(|kind| entries(index, kind)).collect();
    if as_json {
        let list: Vec<Value> = entries
            .iter()
            .map(|entry| {
                json!({
                    "kind": entry.kind.noun(),
                    "name": entry.name,
                    "origin": entry.origin(),
                    "summary": first_sentence(&entry.summary),
                })
            })
            .collect();
        print(format_args!("{}\n", Value::Array(list)));
        return;
    }
    let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    // Where all come from the same place it need not be said.
    let mixed = entries.iter().any(|entry| entry.origin != Origin::Native);
    let mut text = String::new();
    for Entry { kind, name, origin, summary, .. } in &entries {
        let _ = write!(text, "{:9} {name:width$}  ", kind.noun());
        if mixed {
            text.push_str(if *origin == Origin::Native { "native   " } else { "library  " });
        }
        let _ = writeln!(text, "{}", first_sentence(summary));
    }
    print(text);
}

fn show(index: &Index, name: &str, as_json: bool) -> CliResult {
    let full = if name.contains("org.") { name.to_owned() } else { format!("org.osbuild.{name}") };
    // Only what is asked for is read: descriptions are files of the library.
    let found: Vec<Entry> = KINDS
        .into_iter()
        .filter_map(|kind| Some(Entry::new(index, kind, full.clone(), index.origin(kind, &full)?)))
        .collect();
    if found.is_empty() {
        let names: Vec<String> = KINDS.into_iter().flat_map(|kind| index.list(kind).into_keys()).collect();
        let hint = did_you_mean(&full, names.iter().map(String::as_str));
        return Err(CliError::new(ErrorKind::Usage, format!("there is no module `{full}`"))
            .hint(hint.unwrap_or_else(|| "`kiln modules` lists them all".to_owned())));
    }
    if as_json {
        let all: Vec<Value> = found.iter().map(describe_json).collect();
        print(format_args!("{}\n", Value::Array(all)));
        return Ok(());
    }
    print(found.iter().map(describe).collect::<Vec<_>>().join("\n"));
    Ok(())
}

/// The schemas of the members of a module's description that say anything, `options` first.
fn members(schema: &Value) -> Vec<(&str, &Value)> {
    let properties = || schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let says = |value: &Value| ["properties", "$ref"].iter().any(|key| value.get(key).is_some());
    let rest = properties().filter(|(name, value)| *name != "options" && says(value));
    properties()
        .filter(|(name, _)| *name == "options")
        .chain(rest)
        .map(|(name, schema)| (name.as_str(), schema))
        .collect()
}

fn describe_json(entry: &Entry) -> Value {
    let mut members = Map::new();
    members.insert("kind".to_owned(), json!(entry.kind.noun()));
    members.insert("name".to_owned(), json!(entry.name));
    members.insert("origin".to_owned(), json!(entry.origin()));
    members.insert("documentation".to_owned(), json!(entry.documentation));
    let Some(description) = &entry.description else { return Value::Object(members) };
    if !description.capabilities.is_empty() {
        members.insert("capabilities".to_owned(), json!(description.capabilities));
    }
    match description.members() {
        Some(schema) => {
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
        None => {
            let schemas = [("schema", Format::One), ("schema_2", Format::Two)];
            members.extend(
                schemas
                    .into_iter()
                    .filter_map(|(name, format)| Some((name.to_owned(), description.schema(format)?))),
            );
        }
    }
    Value::Object(members)
}

fn describe(entry: &Entry) -> String {
    let mut text = format!("{} ({}, {})\n\n", entry.name, entry.kind.noun(), entry.origin());
    for line in entry.documentation.lines() {
        let _ = if line.is_empty() { writeln!(text) } else { writeln!(text, "  {line}") };
    }
    let Some(description) = &entry.description else { return text };
    match description.members() {
        Some(schema) => {
            described("Options", &schema.options, &schema.options, &mut text);
            if !schema.required_members.is_empty() {
                let required = list_names(schema.required_members.iter().copied());
                let _ = writeln!(text, "\nRequired beside the options: {required}");
            }
        }
        None => {
            let formats = [Format::Two, Format::One];
            let schema =
                formats.into_iter().find_map(|format| description.schema(format)).unwrap_or_default();
            for (name, member) in members(&schema) {
                let mut letters = name.chars();
                let first = letters.next().into_iter().flat_map(char::to_uppercase);
                let title: String = first.chain(letters).collect();
                described(&title, member, &schema, &mut text);
            }
        }
    }
    if !description.capabilities.is_empty() {
        let names = list_names(description.capabilities.iter().map(String::as_str));
        let _ = writeln!(text, "\nCapabilities: {names}");
    }
    text
}

/// A paragraph with the members that a schema knows; references lead to what is in `root`.
fn described(title: &str, schema: &Value, root: &Value, text: &mut String) {
    let _ = writeln!(text, "\n{title}:");
    let before = text.len();
    options(schema, root, 1, text);
    if text.len() == before {
        text.push_str("  none\n");
    }
}

/// How deep nested options are shown; what is below is in `--json`.
const DEPTH: usize = 6;

fn options(schema: &Value, root: &Value, depth: usize, text: &mut String) {
    if depth > DEPTH {
        return;
    }
    let schema = referred(schema, root);
    let alternatives = ["oneOf", "anyOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    for alternative in alternatives {
        options(alternative, root, depth, text);
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
        let property = referred(property, root);
        let need = if required.contains(&name.as_str()) { ", required" } else { "" };
        let default = property.get("default").map(|value| format!(", default {value}")).unwrap_or_default();
        let _ = writeln!(text, "{indent}{name} ({}{need}{default})", type_of(property, root));
        for line in property.get("description").and_then(Value::as_str).unwrap_or_default().lines() {
            let _ = writeln!(text, "{indent}    {line}");
        }
        options(property, root, depth + 1, text);
        if let Some(items) = property.get("items") {
            options(items, root, depth + 1, text);
        }
        if let Some(values @ Value::Object(_)) = property.get("additionalProperties") {
            options(values, root, depth + 1, text);
        }
    }
}

/// What a reference leads to; anything else is itself.
fn referred<'s>(schema: &'s Value, root: &'s Value) -> &'s Value {
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
    target.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

fn type_of(schema: &Value, root: &Value) -> String {
    let schema = referred(schema, root);
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    }
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    match schema.get("type") {
        Some(Value::String(name)) if name == "array" => {
            format!("array of {}", schema.get("items").map_or("any".to_owned(), |items| type_of(items, root)))
        }
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
        _ => {
            let alternatives =
                ["oneOf", "anyOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
            let mut names: Vec<String> = alternatives.map(|alternative| type_of(alternative, root)).collect();
            names.dedup();
            if names.is_empty() { "any".to_owned() } else { names.join(" | ") }
        }
    }
}
