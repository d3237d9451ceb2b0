//! `kiln cache export-sources`: what a manifest needs from its sources goes to another cache, for a machine without a network.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kiln_engine::plan::count;
use kiln_engine::run::{CopyContext, FetchResult, copy_sources, sources_of};
use kiln_modules::MODULES;
use kiln_store::cache::Durability;
use serde_json::json;

use super::{CacheArguments, print_json};
use crate::command::build::run_error;
use crate::command::input::{Input, Resolving};
use crate::command::library::LibraryArguments;
use crate::command::plan::plan_error;
use crate::command::session;
use crate::error::{CliError, CliResult, Kind};
use crate::present::{Presenter, ProgressMode, print};
use crate::{settings, signals};

/// How many failed items are named.
const NAMED: usize = 20;

/// The arguments of `kiln cache export-sources`.
#[derive(Debug, Args)]
#[command(
    after_help = "What is in the cache is copied, verified on the way, and nothing is fetched: `kiln build --prefetch` does that.\nWith the directory as its `--cache`, a build elsewhere needs no network for its sources.\n\nExamples:\n  kiln cache export-sources manifest.json /media/disk/cache\n  kiln cache export-sources manifest.json other --export qcow2 --cache /var/cache/kiln\n\nJSON: {directory, copied, present, failed: [{source, item, error}]}; numbers are of items."
)]
pub(super) struct Arguments {
    /// The manifest or definition, or `-` for standard input
    manifest: PathBuf,
    /// Directory of the other cache, which is made if it is not there
    directory: PathBuf,
    /// Copy only what the export of this pipeline needs (repeat)
    #[arg(long, value_name = "NAME")]
    export: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressMode,
    #[command(flatten)]
    cache: CacheArguments,
    #[command(flatten)]
    library: LibraryArguments,
}

pub(super) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let interrupted =
        signals::interrupted().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let presenter = Presenter::new(arguments.progress, settings::stderr_is_terminal());
    let input = Input::read(&arguments.manifest)?;
    let resolving = Resolving {
        state: arguments.cache.cache.join("apt"),
        refresh: false,
        note: &|line| presenter.note(line),
        interrupted: &interrupted,
    };
    let index = arguments.library.index()?;
    let ready = input.ready(&resolving, &index)?;
    let fetches =
        sources_of(&ready.manifest, &MODULES, &arguments.export).map_err(|error| plan_error(&error))?;

    let from = super::open(&arguments.cache, false)?;
    // From before it is looked for what there is: nothing of it is evicted meanwhile.
    let _session = from.begin_session().map_err(|error| super::cache_error(&error))?;
    let to = session::open_store(&arguments.directory, Durability::default(), &interrupted)?;
    refuse_itself(from.directory(), &arguments.directory)?;
    let _other = to.cache().begin_session().map_err(|error| super::cache_error(&error))?;
    // Of any type: what is carried away has to be on the disk.
    to.cache().expect_downloads(None).map_err(|error| super::cache_error(&error))?;

    let environment = settings::source_environment();
    let context = CopyContext {
        index: &index,
        from: &from.sources(),
        to: &to.sources_dir(),
        environment: &environment,
        interrupted: &interrupted,
    };
    let results = copy_sources(&context, &ready.manifest, &fetches, &|event| presenter.event(&event));
    presenter.finish();
    conclude(&results.map_err(|error| run_error(&error))?, arguments)
}

fn conclude(results: &[FetchResult], arguments: &Arguments) -> CliResult<ExitCode> {
    let items = || results.iter().flat_map(|result| result.results.iter().map(|item| (&result.source, item)));
    let failed: Vec<_> = items()
        .filter_map(|(source, item)| Some((source, item.checksum.as_str(), item.error.as_ref()?)))
        .collect();
    let present = items().filter(|(_, item)| item.cached).count();
    let copied = items().count() - present - failed.len();
    if arguments.json {
        let failed = failed
            .iter()
            .map(|(source, item, error)| json!({"source": source, "item": item, "error": error}));
        print_json(&json!({
            "directory": arguments.directory.to_string_lossy(),
            "copied": copied,
            "present": present,
            "failed": failed.collect::<Vec<_>>(),
        }));
    }
    if failed.iter().any(|(.., error)| *error == "interrupted") {
        return Err(CliError::new(Kind::Interrupted, "interrupted"));
    }
    if !failed.is_empty() {
        let mut error =
            CliError::new(Kind::Build, format!("{} could not be copied", count(failed.len(), "item")));
        for (source, item, reason) in failed.iter().take(NAMED) {
            error = error.place(format!("{source}: {item}: {reason}"));
        }
        if failed.len() > NAMED {
            error = error.place(format!("and {} more", failed.len() - NAMED));
        }
        return Err(error.hint("`kiln build --prefetch` fetches what is not in the cache"));
    }
    if !arguments.json {
        let present = if present > 0 { format!(", {present} there already") } else { String::new() };
        print(format_args!(
            "{} copied to {}{present}\n",
            count(copied, "item"),
            arguments.directory.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Both are open: the same directory has the same file.
fn refuse_itself(from: &Path, to: &Path) -> CliResult {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if real(from).is_some() && real(from) == real(to) {
        return Err(CliError::new(Kind::Usage, format!("`{}` is the cache itself", to.display()))
            .hint("name the directory of another cache, which is made if it is not there"));
    }
    Ok(())
}
