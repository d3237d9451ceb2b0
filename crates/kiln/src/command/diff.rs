//! `kiln diff`: what differs between two manifests, and which option made the ids differ: why something is built again.
//!
//! The comparison is [`kiln_engine::compare`]; here are its words. Modules are not looked at: manifests for another
//! machine can be compared too.

mod files;
mod json;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kiln_engine::compare::compare;
use kiln_engine::{recipe, runner};

use super::input::{Input, Resolving};
use super::session::CacheArguments;
use crate::error::{CliError, CliResult, Kind};
use crate::present::{print, say};
use crate::signals;

/// The arguments of `kiln diff`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln diff yesterday.json today.json\n  git show HEAD:image.json | kiln diff - image.json\n  kiln diff --json a.json b.json | jq '.pipelines[] | select(.equal | not) | .name'\n\nExit codes: 0 nothing differs, 1 something differs, 2 wrong input or usage."
)]
pub(crate) struct Arguments {
    /// The first manifest or definition, or `-` for standard input
    old: PathBuf,
    /// The second manifest or definition, or `-` for standard input
    new: PathBuf,
    /// Print JSON: all pipelines and stages, with all that differs and all causes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cache: CacheArguments,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    if arguments.old == Path::new("-") && arguments.new == Path::new("-") {
        return Err(CliError::new(Kind::Usage, "standard input can only be one of the two manifests"));
    }
    let interrupted =
        signals::interrupted().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let resolving = Resolving {
        state: arguments.cache.cache.join("apt"),
        refresh: false,
        note: &|line| say(line),
        interrupted: &interrupted,
    };
    let host_runner = runner::request_of(Path::new("/"));
    let read = |path: &Path| {
        let input = Input::read(path)?;
        let mut manifest = input.manifest(&resolving)?;
        // Both by the same code and on the same host: what is left is what the manifests say.
        recipe::assign(&mut manifest, &|_, _| String::new(), &host_runner);
        Ok((input.name, manifest))
    };
    let (old_name, old) = read(&arguments.old)?;
    let (new_name, new) = read(&arguments.new)?;
    let comparison = compare(&old, &new);
    if arguments.json {
        let value = json::describe(&comparison);
        print(format_args!("{}\n", serde_json::to_string_pretty(&value).unwrap_or_default()));
    } else if comparison.is_equal() {
        print(format_args!("`{old_name}` and `{new_name}` do not differ\n"));
    } else {
        print(text::Words::new(&old, &new).describe(&comparison));
    }
    // As `diff` does it.
    Ok(if comparison.is_equal() { ExitCode::SUCCESS } else { Kind::Build.code() })
}
