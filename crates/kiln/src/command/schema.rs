//! `kiln schema`: the JSON Schema of manifests, for editors.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use kiln_engine::manifest;

use super::library::LibraryArguments;
use crate::error::CliResult;
use crate::present::print;

/// The arguments of `kiln schema`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln schema > manifest.schema.json\n  kiln schema --format 2 --libdir /usr/lib/osbuild\n\ndocs/editors.md tells how editors use it."
)]
pub(crate) struct Arguments {
    /// Describe manifests of this format only
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    #[command(flatten)]
    library: LibraryArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One pipeline with nested build pipelines and an assembler
    #[value(name = "1")]
    One,
    /// A list of named pipelines
    #[value(name = "2")]
    Two,
}

impl From<Format> for manifest::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::One => Self::One,
            Format::Two => Self::Two,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let schema = manifest::schema(&arguments.library.index()?, arguments.format.map(Into::into));
    print(format_args!("{schema:#}\n"));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
