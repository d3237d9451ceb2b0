//! `kiln resolve`: a definition becomes a manifest in which every package is pinned.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kiln_engine::plan::bytes;

use super::input::{Input, Resolving};
use super::session::CacheArguments;
use crate::error::{CliError, CliResult, Kind};
use crate::present::{print, say};
use crate::signals;

/// The arguments of `kiln resolve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln resolve examples/debian.toml -o debian.json\n  kiln resolve examples/debian.toml --refresh > debian.json"
)]
pub(crate) struct Arguments {
    /// The definition, or `-` for standard input
    definition: PathBuf,
    /// File for the manifest; standard output if left out
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Fetch the package lists anew
    #[arg(long)]
    refresh: bool,
    #[command(flatten)]
    cache: CacheArguments,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let interrupted =
        signals::interrupted().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let input = Input::read(&arguments.definition)?;
    if !input.is_definition() {
        return Err(CliError::new(Kind::Usage, format!("`{}` is a manifest, not a definition", input.name))
            .hint("a definition is TOML (its name ends in `.toml`) or JSON with a `name`"));
    }
    let resolving = Resolving {
        state: arguments.cache.cache.join("apt"),
        refresh: arguments.refresh,
        note: &|line| say(line),
        interrupted: &interrupted,
    };
    let resolution = input.resolve(&resolving)?;
    let text = serde_json::to_string_pretty(&resolution.manifest).unwrap_or_default() + "\n";
    match &arguments.output {
        Some(path) => write(path, &text)?,
        None => print(&text),
    }
    let summary = &resolution.summary;
    say(format_args!(
        "resolved `{}` for {}: {} packages for the image, {} for the build root, {} to download",
        input.name,
        summary.distro,
        summary.image_packages,
        summary.build_packages,
        bytes(summary.download_size)
    ));
    Ok(ExitCode::SUCCESS)
}

/// Writes a file under a temporary name first: nobody sees half a manifest.
pub(super) fn write(path: &Path, text: &str) -> CliResult {
    let failed = |error: std::io::Error| {
        CliError::new(Kind::Environment, format!("cannot write `{}`: {error}", path.display()))
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
