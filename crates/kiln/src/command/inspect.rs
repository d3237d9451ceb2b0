//! `kiln inspect`: a manifest with all its ids, as JSON on standard output.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kiln_engine::manifest::describe;
use kiln_engine::runner;

use super::input::Input;
use crate::error::{CliError, CliResult, Kind};
use crate::present::print;

/// The arguments of `kiln inspect`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The manifest, or `-` for standard input
    manifest: PathBuf,
    /// Print on one line
    #[arg(long)]
    compact: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let input = Input::read(&arguments.manifest)?;
    if input.is_definition() {
        return Err(CliError::new(Kind::Usage, format!("`{}` is a definition, not a manifest", input.name))
            .hint("`kiln resolve` turns a definition into a manifest"));
    }
    // Ids need no modules: a manifest for another machine can be inspected too.
    let loaded = input.load(&input.text, false)?;
    let description = describe(&loaded.manifest, &host_runner());
    let text = if arguments.compact {
        description.to_string()
    } else {
        serde_json::to_string_pretty(&description.to_value()).unwrap_or_default()
    };
    print(format_args!("{text}\n"));
    Ok(ExitCode::SUCCESS)
}

/// The runner that would be chosen for the host; what the host asks for if none fits.
pub(crate) fn host_runner() -> String {
    let requested = runner::request_of(std::path::Path::new("/"));
    let available = kiln_modules::MODULES.runners.iter().map(|runner| runner.name);
    match runner::choose(&requested, available) {
        Ok(chosen) => chosen.to_owned(),
        Err(_) => requested,
    }
}
