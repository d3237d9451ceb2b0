//! `kiln inspect`: a manifest with all its ids, as JSON on standard output.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kiln_engine::manifest::describe;

use super::input::Input;
use super::library::{LibraryArguments, host_runner};
use crate::error::{CliError, CliResult, Kind};
use crate::present::print;

/// The arguments of `kiln inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln inspect manifest.json\n  kiln resolve examples/debian.toml | kiln inspect - --compact"
)]
pub(crate) struct Arguments {
    /// The manifest, or `-` for standard input
    manifest: PathBuf,
    /// Print on one line
    #[arg(long)]
    compact: bool,
    #[command(flatten)]
    library: LibraryArguments,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let input = Input::read(&arguments.manifest)?;
    if input.is_definition() {
        return Err(CliError::new(Kind::Usage, format!("`{}` is a definition, not a manifest", input.name))
            .hint("`kiln resolve` turns a definition into a manifest"));
    }
    // Ids need no modules: a manifest for another machine can be inspected too.
    let manifest = input.load(&input.text, None)?;
    let description = describe(&manifest, &host_runner(&arguments.library.index()?));
    let text = if arguments.compact {
        description.to_string()
    } else {
        serde_json::to_string_pretty(&description.to_value()).unwrap_or_default()
    };
    print(format_args!("{text}\n"));
    Ok(ExitCode::SUCCESS)
}
