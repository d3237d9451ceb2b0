//! `kiln plan`: what a build would do, and why, without doing it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kiln_engine::manifest::{did_you_mean, list};
use kiln_engine::plan::{Plan, PlanError, Request, plan};
use kiln_engine::run::StoreView;
use kiln_modules::MODULES;
use kiln_store::object::ObjectStore;

use super::input::{Input, Ready, Resolving};
use super::library::LibraryArguments;
use super::session::{self, CacheArguments};
use crate::error::{CliError, CliResult, Kind};
use crate::present::{print, say};
use crate::signals;

/// The arguments of `kiln plan`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln plan manifest.json\n  kiln plan examples/debian.toml --export qcow2\n  kiln plan manifest.json --json | jq '.builds[].pipeline'"
)]
pub(crate) struct Arguments {
    /// The manifest or definition, or `-` for standard input
    manifest: PathBuf,
    /// Pipeline that would be exported, by name or id; all pipelines if left out
    #[arg(long, value_name = "NAME")]
    export: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Plan to fetch all sources, needed or not
    #[arg(long)]
    prefetch: bool,
    #[command(flatten)]
    cache: CacheArguments,
    #[command(flatten)]
    library: LibraryArguments,
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
    let ready = input.ready(&resolving, &arguments.library.index()?)?;
    let store = session::open_store(&arguments.cache.cache, session::durability(None)?, &interrupted)?;
    let plan = make(&ready, &arguments.export, arguments.prefetch, &store)?;
    if arguments.json {
        print(format_args!("{}\n", serde_json::to_string_pretty(&plan).unwrap_or_default()));
    } else {
        print(&plan);
    }
    Ok(ExitCode::SUCCESS)
}

/// Plans what was asked for; without exports that is what a definition exports, or all pipelines of a manifest.
pub(crate) fn make(
    ready: &Ready,
    exports: &[String],
    everything: bool,
    store: &ObjectStore,
) -> CliResult<Plan> {
    let manifest = &ready.manifest;
    let exports = if exports.is_empty() { &ready.exports } else { exports };
    let builds = if exports.is_empty() { manifest.pipelines.keys().cloned().collect() } else { Vec::new() };
    let request = Request { exports: exports.to_vec(), builds, everything, sources_first: false };
    let view = StoreView { store, modules: &MODULES };
    plan(manifest, &MODULES, &request, &view).map_err(|error| plan_error(&error))
}

/// The error for a request that cannot be planned.
pub(crate) fn plan_error(error: &PlanError) -> CliError {
    let shown = CliError::new(Kind::Build, error.to_string());
    match error {
        PlanError::UnknownPipeline { name, known } => {
            let known = || known.iter().map(String::as_str);
            shown.hint(
                did_you_mean(name, known())
                    .unwrap_or_else(|| format!("the manifest's pipelines are {}", list(known()))),
            )
        }
        PlanError::Empty { .. } => shown,
    }
}
