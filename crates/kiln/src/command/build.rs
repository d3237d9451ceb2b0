//! `kiln build`: a manifest or a definition is built and its results are exported.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use kiln_engine::event::Event;
use kiln_engine::manifest::{Format, Manifest, did_you_mean, list};
use kiln_engine::run::{Checkpoints, Context, Guests, Outcome, RunError, run as carry_out};
use kiln_engine::runner::{self, NoRunner};
use kiln_sandbox::guest::GuestError;
use kiln_store::cache::{Durability, MaximumSize};

use super::input::{Input, Resolving};
use super::library::LibraryArguments;
use super::limits::{disk_full, keep_free, protect, set_limit};
use super::plan;
use super::session::{self, CacheArguments};
use super::shell::{BreakArguments, Standard, announce};
use super::size::{Share, parse_limit, parse_share};
use crate::error::{CliError, CliResult, Kind, chain};
use crate::present::{self, Presenter, ProgressMode, print};
use crate::{settings, signals, vm};

/// How many pipelines are built at the same time.
pub(crate) const JOBS: usize = 2;

/// The arguments of `kiln build`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln build examples/debian.toml\n  kiln build manifest.json --export image --output-directory out\n  kiln build - --export tree --json < manifest.json"
)]
pub(crate) struct Arguments {
    /// The manifest or definition, or `-` for standard input
    manifest: PathBuf,
    /// Pipeline to export, by name or id (repeat); a definition's outputs if left out
    #[arg(long, value_name = "NAME")]
    export: Vec<String>,
    /// Directory for exports: each is put into a directory of its name
    #[arg(long, value_name = "DIRECTORY", default_value = "output")]
    output_directory: PathBuf,
    #[command(flatten)]
    cache: CacheArguments,
    #[command(flatten)]
    breaks: BreakArguments,
    #[command(flatten)]
    library: LibraryArguments,
    /// Build this pipeline in a virtual machine, with a kernel that can do what the running one cannot: by name or id (repeat)
    #[arg(long, value_name = "PIPELINE")]
    in_vm: Vec<String>,
    #[command(flatten)]
    vm: vm::VmArguments,
    /// Keep only what matches in the cache: pipeline names, stage ids, stage names (repeat); all pipelines if left out
    #[arg(long, value_name = "GLOB")]
    checkpoint: Vec<String>,
    /// Most that the cache may hold: bytes, or with a unit as `20GiB`, or `unlimited`
    #[arg(long, value_name = "SIZE", value_parser = parse_limit)]
    cache_max_size: Option<MaximumSize>,
    /// When results reach the disk: `deferred` (flushed after they are kept: until then only a crash of the machine
    /// loses them), `before` (before they are kept: takes as long as the disk), `off` (never flushed: after a crash
    /// of the machine they may be incomplete); also by the variable `KILN_CACHE_SYNC` [default: deferred]
    #[arg(long, value_name = "WHEN", value_parser = session::parse_durability)]
    cache_sync: Option<Durability>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Keep so much of the cache's file system free: evict, or refuse; as `5GiB` or `10%`
    #[arg(long, value_name = "SIZE", value_parser = parse_share)]
    min_free: Option<Share>,
    /// Build so many pipelines at the same time
    #[arg(long, value_name = "N", default_value_t = JOBS, value_parser = at_least_one)]
    jobs: usize,
    /// Fetch so many files at the same time
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    downloads: Option<usize>,
    /// Stop a stage that runs longer than so many seconds
    #[arg(long, value_name = "SECONDS")]
    stage_timeout: Option<u64>,
    /// Fetch all sources, needed or not
    #[arg(long)]
    prefetch: bool,
    /// Fetch the package lists of a definition anew
    #[arg(long)]
    refresh: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressMode,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    session::require_root("`kiln build`")?;
    // Before any thread: the namespace is the calling thread's.
    let program = session::enter_private_namespace()?;
    let interrupted =
        signals::interrupted().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    // A shell wants the terminal for itself: nothing moves there, and nothing else happens meanwhile.
    let alone = arguments.breaks.any();
    let presenter = Presenter::new(arguments.progress, settings::stderr_is_terminal() && !alone);
    let input = Input::read(&arguments.manifest)?;
    let resolving = Resolving {
        state: arguments.cache.cache.join("apt"),
        refresh: arguments.refresh,
        note: &|line| presenter.note(line),
        interrupted: &interrupted,
    };
    let index = arguments.library.index()?;
    let ready = input.ready(&resolving, &index)?;
    let store = session::open_store(
        &arguments.cache.cache,
        session::durability(arguments.cache_sync)?,
        &interrupted,
    )?;
    set_limit(&store, arguments.cache_max_size)?;
    let manifest = &ready.manifest;
    let cache = store.cache();
    keep_free(cache, arguments.min_free)?;
    // Before it is looked for what there is: from now on nothing of it is evicted.
    let session = cache.begin_session().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let checkpoints = if arguments.checkpoint.is_empty() {
        Checkpoints::pipelines()
    } else {
        let checkpoints = Checkpoints::matching(manifest, &arguments.checkpoint);
        if checkpoints.matched().is_empty() {
            return Err(CliError::new(Kind::Build, "no checkpoint matches the patterns")
                .hint("patterns are matched with pipeline names, stage ids and stage names"));
        }
        checkpoints
    };
    let standard = Standard::beside(&arguments.manifest);
    let shells = arguments.breaks.shells(manifest, &standard)?;
    let guests = guests(arguments, manifest)?;
    let plan = plan::make(&ready, &arguments.export, arguments.prefetch, &store)?;
    protect(&session, cache, &plan)?;
    let environment = settings::source_environment();
    let terminal = settings::terminal();
    let host_runner = runner::request_of(std::path::Path::new("/"));
    let context = Context {
        index: &index,
        store: &store,
        program: &program,
        rundir: std::path::Path::new(settings::RUNDIR),
        environment: &environment,
        terminal: &terminal,
        host_runner: &host_runner,
        jobs: if alone { 1 } else { arguments.jobs },
        downloads: arguments.downloads,
        stage_timeout: arguments.stage_timeout.map(Duration::from_secs),
        checkpoints: &checkpoints,
        output_directory: Some(&arguments.output_directory),
        keep_owners: settings::keep_owners(),
        shells: shells.as_ref(),
        guests: guests.as_ref(),
        interrupted: &interrupted,
    };
    let warnings = Mutex::new(Vec::new());
    let outcome = carry_out(&context, manifest, &plan, &|event: Event<'_>| {
        if let Event::Warning { message } = event {
            warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_owned());
        }
        announce(&event);
        presenter.event(&event);
    });
    presenter.finish();
    let outcome = outcome.map_err(|error| run_error(&error))?;
    if arguments.json {
        let mut result = match manifest.format {
            Format::One => present::result1(manifest, &outcome),
            Format::Two => present::result2(manifest, &outcome, &store),
        };
        present::add_warnings(&mut result, warnings.into_inner().unwrap_or_else(PoisonError::into_inner));
        print(format_args!("{result}\n"));
    }
    conclude(&outcome, &presenter, arguments.json)
}

/// The pipelines that are built in virtual machines; none if none is.
fn guests(arguments: &Arguments, manifest: &Manifest) -> CliResult<Option<Guests>> {
    if let Some(unknown) = arguments.in_vm.iter().find(|name| manifest.pipeline(name).is_none()) {
        let error = CliError::new(Kind::Usage, format!("there is no pipeline `{unknown}`"));
        let names = manifest.pipelines.keys().map(String::as_str);
        return Err(match did_you_mean(unknown, names.clone()) {
            Some(hint) => error.hint(hint),
            None => error.hint(format!("pipelines are {}", list(names))),
        });
    }
    if arguments.breaks.any() && !arguments.in_vm.is_empty() {
        return Err(vm::no_shells());
    }
    arguments.vm.guests(&arguments.in_vm, &arguments.library)
}

fn conclude(outcome: &Outcome, presenter: &Presenter, json: bool) -> CliResult<ExitCode> {
    if !outcome.success {
        return Err(present::failure(outcome));
    }
    presenter.note(present::summary(outcome));
    if !json {
        for export in &outcome.exports {
            print(format_args!("{}\n", export.path.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The error for a runner that is not there.
pub(crate) fn no_runner(message: String, why: &NoRunner) -> CliError {
    let shown = CliError::new(Kind::Usage, message);
    match &why.near {
        Some(near) => shown.hint(format!("did you mean `{near}`?")),
        None => shown,
    }
}

/// The error for a run that could not go on.
pub(crate) fn run_error(error: &RunError) -> CliError {
    let kind = match error {
        RunError::Interrupted => return CliError::new(Kind::Interrupted, "interrupted"),
        RunError::NoRunner { source, .. } => return no_runner(chain(error), source),
        RunError::DiskFull(full) => return disk_full(full),
        RunError::Output { .. } => {
            let shown = CliError::new(Kind::Environment, chain(error));
            let room = if is_out_of_space(&shown) { "make room there, or " } else { "" };
            return shown.hint(format!("{room}choose another directory with `--output-directory`"));
        }
        RunError::Guest { pipeline, source } => {
            let shown = CliError::new(Kind::Environment, chain(error));
            return match source.hint() {
                Some(hint) if matches!(source, GuestError::NoKernel { .. }) => shown.hint(hint).hint(
                    "or name a directory with `boot/vmlinuz-…` and `lib/modules/…` by `--vm-kernel` or the variable `KILN_VM_KERNEL`",
                ),
                Some(hint) => shown.hint(hint),
                None => shown
                    .hint(format!("leave out `--in-vm {pipeline}` where this machine's kernel can do it")),
            };
        }
        RunError::Shell { .. } => {
            return CliError::new(Kind::Build, chain(error)).hint("end a shell with `exit 0` to go on");
        }
        RunError::NoOutputDirectory
        | RunError::NoShell { .. }
        | RunError::Runner { .. }
        | RunError::Vanished { .. } => Kind::Build,
        _ => Kind::Environment,
    };
    let mut shown = CliError::new(kind, chain(error));
    if is_out_of_space(&shown) {
        shown = shown.hint(present::MAKE_ROOM);
    }
    shown
}

fn is_out_of_space(error: &CliError) -> bool {
    error.message.contains("No space left on device")
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number, at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}
