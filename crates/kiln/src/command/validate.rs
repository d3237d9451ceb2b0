//! `kiln validate`: everything that is wrong with a manifest or a definition, at once.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kiln_engine::index::Index;
use kiln_engine::manifest::place::{JsonPath, Place, Step};
use kiln_engine::manifest::{Finding, LoadError, check};
use serde_json::{Value, json};

use super::input::{Input, definition_error};
use super::library::LibraryArguments;
use crate::error::{CliError, CliResult, Kind, findings_error, manifest_error, places};
use crate::present::print;

/// The arguments of `kiln validate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln validate manifest.json\n  kiln validate examples/debian.toml\n  kiln resolve examples/debian.toml | kiln validate --json -"
)]
pub(crate) struct Arguments {
    /// The manifest or definition, or `-` for standard input
    manifest: PathBuf,
    /// Print JSON: the error object of osbuild, with line, column and hint of each error
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    library: LibraryArguments,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let input = Input::read(&arguments.manifest)?;
    let (errors, shown) = if input.is_definition() {
        of_definition(&input)
    } else {
        of_manifest(&input, &arguments.library.index()?)
    };
    match shown {
        Some(_) if arguments.json => {
            print(format_args!("{}\n", error_object(&errors)));
            Ok(Kind::Usage.code())
        }
        Some(error) => Err(error),
        None if arguments.json => {
            print(format_args!("{}\n", json!({"success": true, "errors": []})));
            Ok(ExitCode::SUCCESS)
        }
        None => {
            print(format_args!("`{}` is valid\n", input.name));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn of_definition(input: &Input) -> (Vec<Value>, Option<CliError>) {
    let Err(findings) = input.definition() else { return (Vec::new(), None) };
    let errors = findings
        .iter()
        .map(|finding| {
            let place = Some((finding.line, finding.column));
            error(&finding.message, &JsonPath::default(), place, finding.hint.as_deref())
        })
        .collect();
    (errors, Some(definition_error(&findings)))
}

fn of_manifest(input: &Input, index: &Index) -> (Vec<Value>, Option<CliError>) {
    let Input { name, text, .. } = input;
    match check(text, index) {
        Ok(findings) if findings.is_empty() => (Vec::new(), None),
        Ok(findings) | Err(LoadError::Invalid(findings)) => {
            let places = places(text, &findings);
            let mut found: Vec<(Finding, Option<Place>)> = findings.into_iter().zip(places).collect();
            // In the order in which somebody reads the manifest.
            found.sort_by_key(|(_, place)| place.as_ref().map(|place| (place.line, place.column)));
            let errors = found
                .iter()
                .map(|(finding, place)| {
                    let place = place.as_ref().map(|place| (place.line, place.column));
                    error(&finding.message, &finding.path, place, finding.hint.as_deref())
                })
                .collect();
            let findings: Vec<Finding> = found.into_iter().map(|(finding, _)| finding).collect();
            (errors, Some(findings_error(name, text, &findings)))
        }
        Err(fault) => {
            let place = match &fault {
                LoadError::Syntax(fault) => Some(Place::at(text, fault.offset, 1)),
                _ => None,
            };
            let place = place.map(|place| (place.line, place.column));
            let errors = vec![error(&fault.to_string(), &JsonPath::default(), place, None)];
            (errors, Some(manifest_error(name, text, &fault)))
        }
    }
}

fn error(message: &str, path: &JsonPath, place: Option<(usize, usize)>, hint: Option<&str>) -> Value {
    let path: Vec<Value> = path
        .0
        .iter()
        .map(|step| match step {
            Step::Key(key) => json!(key),
            Step::Index(index) => json!(index),
        })
        .collect();
    let mut error = json!({"message": message, "path": path});
    if let Some((line, column)) = place {
        error["line"] = json!(line);
        error["column"] = json!(column);
    }
    if let Some(hint) = hint {
        error["hint"] = json!(hint);
    }
    error
}

/// The reference's object for an invalid manifest.
fn error_object(errors: &[Value]) -> Value {
    json!({
        "type": "https://osbuild.org/validation-error",
        "title": "JSON Schema validation failed",
        "success": false,
        "errors": errors,
    })
}
