//! `kiln graph`: pipelines, their build roots and inputs, and sources, as a picture.
//!
//! The graph is plain data ([`model`]); each format only writes it down. Arrows point from what is needed to what needs
//! it. Modules are not looked at: manifests for another machine can be drawn too.

mod dot;
mod layout;
mod mermaid;
mod model;
mod svg;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use self::model::{Graph, Stages};
use super::input::{Input, Resolving};
use super::resolve;
use super::session::CacheArguments;
use crate::error::{CliError, CliResult, Kind};
use crate::present::{print, say};
use crate::signals;

/// The arguments of `kiln graph`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln graph manifest.json -o manifest.svg\n  kiln graph manifest.json --format mermaid >> README.md\n  kiln graph manifest.json --format dot --stages count | dot -Tpdf -o manifest.pdf"
)]
pub(crate) struct Arguments {
    /// The manifest or definition, or `-` for standard input
    manifest: PathBuf,
    /// What to write; by default what the name of the file says, else Mermaid
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// File for the picture; standard output if left out
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How the stages of a pipeline are shown
    #[arg(long, value_name = "HOW", default_value = "few")]
    stages: Stages,
    #[command(flatten)]
    cache: CacheArguments,
}

/// The formats of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A flow chart for Markdown
    Mermaid,
    /// For Graphviz
    Dot,
    /// A drawing for browsers
    Svg,
}

impl Format {
    /// What the name of a file says.
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "mmd" | "mermaid" => Some(Self::Mermaid),
            "dot" | "gv" => Some(Self::Dot),
            "svg" => Some(Self::Svg),
            _ => None,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let interrupted =
        signals::interrupted().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let input = Input::read(&arguments.manifest)?;
    let resolving = Resolving {
        state: arguments.cache.cache.join("apt"),
        refresh: false,
        note: &|line| say(line),
        interrupted: &interrupted,
    };
    let manifest = input.manifest(&resolving)?;
    let graph = Graph::of(&manifest, arguments.stages);
    let format = arguments.format.or_else(|| Format::of(arguments.output.as_deref()?));
    let text = match format.unwrap_or(Format::Mermaid) {
        Format::Mermaid => mermaid::draw(&graph),
        Format::Dot => dot::draw(&graph),
        Format::Svg => svg::draw(&graph, &input.name),
    };
    match &arguments.output {
        Some(path) => resolve::write(path, &text)?,
        None => print(&text),
    }
    Ok(ExitCode::SUCCESS)
}
