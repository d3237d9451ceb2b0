//! `kiln validate`: everything that is wrong with a manifest or a definition, at once.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kiln_engine::index::Index;
use kiln_engine::manifest::place::{JsonPath, Place};
use kiln_engine::manifest::{LoadError, check};
use serde_json::{Value, json};

use super::input::{Input, definition_error};
use super::library::LibraryArguments;
use crate::error::{CliError, CliResult, Kind, Located, findings_error, locate, manifest_error};
use crate::present::{self, print};

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
    let faults = if input.is_definition() {
        input.definition().err().map(Faults::Definition)
    } else {
        of_manifest(&input, &arguments.library.index()?)
    };
    match faults {
        Some(faults) if arguments.json => {
            print(format_args!("{}\n", present::invalid(&faults.errors(&input.text))));
            Ok(Kind::Usage.code())
        }
        Some(faults) => Err(faults.shown(&input)),
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

/// What is wrong.
enum Faults {
    /// It is no manifest.
    Unreadable(LoadError),
    Manifest(Vec<Located>),
    Definition(Vec<kiln_resolve::Finding>),
}

fn of_manifest(input: &Input, index: &Index) -> Option<Faults> {
    match check(&input.text, index) {
        Ok(findings) if findings.is_empty() => None,
        Ok(findings) | Err(LoadError::Invalid(findings)) => {
            Some(Faults::Manifest(locate(&input.text, findings)))
        }
        Err(error) => Some(Faults::Unreadable(error)),
    }
}

impl Faults {
    /// For people.
    fn shown(&self, input: &Input) -> CliError {
        match self {
            Self::Unreadable(error) => manifest_error(&input.name, &input.text, error),
            Self::Manifest(findings) => findings_error(&input.name, findings),
            Self::Definition(findings) => definition_error(findings),
        }
    }

    /// For programs.
    fn errors(&self, text: &str) -> Vec<Value> {
        let at = |place: &Place| (place.line, place.column);
        match self {
            Self::Unreadable(fault) => {
                let place = match fault {
                    LoadError::Syntax(fault) => Some(Place::at(text, fault.offset, 1)),
                    _ => None,
                };
                vec![error(&fault.to_string(), &JsonPath::default(), place.as_ref().map(at), None)]
            }
            Self::Manifest(findings) => findings
                .iter()
                .map(|(finding, place)| {
                    let hint = finding.hint.as_deref();
                    error(&finding.message, &finding.path, place.as_ref().map(at), hint)
                })
                .collect(),
            Self::Definition(findings) => findings
                .iter()
                .map(|finding| {
                    let place = Some((finding.line, finding.column));
                    error(&finding.message, &JsonPath::default(), place, finding.hint.as_deref())
                })
                .collect(),
        }
    }
}

/// An error of the reference's object, with what Kiln adds.
fn error(message: &str, path: &JsonPath, place: Option<(usize, usize)>, hint: Option<&str>) -> Value {
    let mut error = present::fault(message, path);
    if let Some((line, column)) = place {
        error["line"] = json!(line);
        error["column"] = json!(column);
    }
    if let Some(hint) = hint {
        error["hint"] = json!(hint);
    }
    error
}
