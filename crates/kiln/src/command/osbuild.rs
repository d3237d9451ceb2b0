//! The reference's command line, as far as callers of `osbuild` need it: same options, same exit codes.
//!
//! Without `--export` nothing is built, but all sources are fetched: callers use that as prefetch. Otherwise only
//! what the build needs is fetched, but in the reference's order: all sources first.
//!
//! What the reference says on standard output is said there in its words; what helps people beside that goes to
//! standard error.

mod text;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, CommandFactory as _, Parser};
use kiln_engine::event::Event;
use kiln_engine::index::Index;
use kiln_engine::manifest::{Format, LoadError, Manifest, describe, load_valid};
use kiln_engine::plan::{Request, plan};
use kiln_engine::run::{Checkpoints, Context, Outcome, RunError, StoreView, run as carry_out};
use kiln_engine::{manifest, runner};
use kiln_modules::MODULES;
use kiln_store::cache::MaximumSize;
use kiln_store::object::ObjectStore;

use self::text::Style;
use super::input::Input;
use super::library::{LibraryArguments, assign_recipes, host_runner};
use super::shell::{self, Standard, announce};
use super::{build, limits, plan as plan_command, session, size};
use crate::error::{CliError, CliResult, Kind, manifest_error};
use crate::monitor::{self, Descriptor, Monitor};
use crate::present::{self, print, say};
use crate::{settings, signals, vm};

/// The version that callers are told: they ask for at least 190.
const VERSION: &str = "191";

/// Build operating system images
#[derive(Debug, Parser)]
// Long options may be shortened and the last one of several counts, as in the reference.
#[command(name = "osbuild", version = VERSION, disable_version_flag = true)]
#[command(
    after_help = "Examples:\n  osbuild --export image --output-directory out manifest.json\n  osbuild --cache /var/cache/osbuild --checkpoint build --export image --output-directory out --json - < manifest.json\n  osbuild --inspect manifest.json"
)]
#[command(infer_long_args = true, args_override_self = true)]
struct Arguments {
    /// Manifest to build, or `-` for standard input
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
    /// Directory with objects and downloads
    #[arg(long, alias = "store", value_name = "DIRECTORY", default_value = ".osbuild")]
    cache: PathBuf,
    #[command(flatten)]
    library: LibraryArguments,
    /// Most that the cache may hold: bytes, or with a unit, or `unlimited`
    #[arg(long, value_name = "SIZE", value_parser = size::parse_limit)]
    cache_max_size: Option<MaximumSize>,
    /// Stage to keep in the cache: pipeline name, stage id or stage name, as shell patterns (repeat)
    #[arg(long, value_name = "ID")]
    checkpoint: Vec<String>,
    /// Pipeline to export (repeat)
    #[arg(long, value_name = "ID")]
    export: Vec<String>,
    /// Build a pipeline in a virtual machine (repeat)
    #[arg(long, value_name = "ID")]
    in_vm: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Directory for exports
    #[arg(long, value_name = "DIRECTORY")]
    output_directory: Option<PathBuf>,
    /// Print the manifest with all its ids as JSON
    #[arg(long)]
    inspect: bool,
    /// What reports the build: by default the log, with `--json` or `--quiet` nothing
    #[arg(long, value_name = "NAME")]
    monitor: Option<monitor::Kind>,
    /// Descriptor that the monitor writes to
    #[arg(long, value_name = "FD", default_value = "1", value_parser = number, allow_negative_numbers = true)]
    monitor_fd: i64,
    /// Stop a stage that runs longer than so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = number, allow_negative_numbers = true)]
    stage_timeout: Option<i64>,
    /// Open a shell in the build root of a stage before it runs: by name or id; before every stage without a value
    #[arg(long = "break", value_name = "STAGE", num_args = 0..=1, default_missing_value = "*")]
    before: Option<String>,
    /// Open a shell in the build root of a stage that has failed
    #[arg(long)]
    break_on_failure: bool,
    /// Directory for device nodes of build roots: by default `/run/osbuild`, or `osbuild` in the user's own
    #[arg(long, value_name = "DIRECTORY")]
    rundir: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Print the version
    #[arg(long, action = ArgAction::Version)]
    version: (),
}

/// All that the `osbuild` command line takes.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// The `osbuild` program.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            say(text::usage(&error));
            return Kind::Usage.code();
        }
        Err(help) => return super::usage(&help),
    };
    super::finish(run(&arguments).map_err(as_there))
}

/// There is no code of its own for what the machine lacks.
fn as_there(mut error: CliError) -> CliError {
    if error.kind == Kind::Environment {
        error.kind = Kind::Build;
    }
    error
}

/// What is wrong before the manifest is even looked at is no invalid manifest.
fn unreadable(error: CliError) -> CliError {
    CliError { kind: Kind::Build, ..error }
}

/// Reads a whole number as Python does, except for digits of other scripts; a larger one than there can be is as large
/// as there can be.
fn number(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let parts: Vec<&str> = digits.split('_').collect();
    if parts.iter().any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("expected a whole number".to_owned());
    }
    let number = parts.concat().parse().unwrap_or(i64::MAX);
    Ok(if negative { -number } else { number })
}

fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    // Before anything is opened.
    let target = match arguments.monitor() {
        monitor::Kind::Null => None,
        // Nothing is going to be reported.
        _ if arguments.inspect => None,
        kind => Some((kind, Descriptor::open(i32::try_from(arguments.monitor_fd).unwrap_or(-1))?)),
    };
    let style = Style::of_stdout();
    let input = Input::read(&arguments.manifest).map_err(unreadable)?;
    let as_json = arguments.json || arguments.inspect;
    let invalid = |error: CliError, findings: &[manifest::Finding]| {
        if as_json {
            let faults: Vec<_> =
                findings.iter().map(|finding| present::fault(&finding.message, &finding.path)).collect();
            print(format_args!("{}\n", present::invalid(&faults)));
            return Ok(Kind::Usage.code());
        }
        print(style.invalid(&input.name, findings));
        Err(error)
    };
    let index = arguments.library.index()?;
    let mut manifest = match load_valid(&input.text, &index) {
        Ok(manifest) => manifest,
        Err(error) => {
            let shown = manifest_error(&input.name, &input.text, &error);
            return match error {
                LoadError::Invalid(findings) => invalid(shown, &findings),
                // Only what is an object has a format.
                LoadError::Unsupported if input.text.trim_start().starts_with('{') => {
                    print("Unsupported manifest format\n");
                    Err(shown)
                }
                LoadError::Unsupported | LoadError::Syntax(_) => Err(unreadable(shown)),
            };
        }
    };
    // Whether anything is built with them or not.
    if let Some(unserved) = manifest.runners.iter().find_map(|runner| index.runner(runner).err()) {
        return Err(unreadable(build::no_runner(unserved.to_string(), &unserved)));
    }
    let exports = arguments.exports();
    let unknown: Vec<_> = exports.iter().filter(|name| manifest.pipeline(name).is_none()).collect();
    if let Some(name) = unknown.first() {
        for name in &unknown {
            print(style.unknown_export(name, &manifest));
        }
        print(style.failed());
        let known = manifest.pipelines.keys().cloned().collect();
        let error = kiln_engine::plan::PlanError::UnknownPipeline { name: (*name).clone(), known };
        return Err(plan_command::plan_error(&error));
    }
    let checkpoints = Checkpoints::matching(&manifest, &arguments.checkpoint);
    if !arguments.checkpoint.is_empty() && checkpoints.matched().is_empty() {
        print("No checkpoints matched provided patterns!\n");
        print(style.failed());
        return Err(CliError::new(Kind::Build, "no checkpoint matches the patterns"));
    }
    if arguments.inspect {
        print(format_args!("{}\n", describe(&manifest, &host_runner(&index))));
        return Ok(ExitCode::SUCCESS);
    }
    if !exports.is_empty() && arguments.output_directory.is_none() {
        print("Need --output-directory for --export\n");
        return Err(CliError::new(Kind::Build, "an export needs `--output-directory`"));
    }
    session::require_root("`osbuild`")?;
    // Before any thread: the namespace is the calling thread's.
    let program = session::enter_private_namespace()?;
    assign_recipes(&mut manifest, &index);
    execute(
        arguments,
        &Job {
            index: &index,
            manifest: &manifest,
            checkpoints: &checkpoints,
            program: &program,
            exports,
            style,
        },
        target,
    )
}

impl Arguments {
    /// The monitor that was named, or the one that suits the other options.
    fn monitor(&self) -> monitor::Kind {
        let default = if self.json || self.quiet { monitor::Kind::Null } else { monitor::Kind::Log };
        self.monitor.unwrap_or(default)
    }

    /// Each export once, in the order in which they were named.
    fn exports(&self) -> Vec<String> {
        let mut exports = self.export.clone();
        let mut seen = std::collections::HashSet::new();
        exports.retain(|name| seen.insert(name.clone()));
        exports
    }
}

/// What is to be done.
struct Job<'a> {
    index: &'a Index,
    manifest: &'a Manifest,
    checkpoints: &'a Checkpoints,
    program: &'a Path,
    exports: Vec<String>,
    style: Style,
}

fn execute(
    arguments: &Arguments,
    job: &Job<'_>,
    target: Option<(monitor::Kind, Descriptor)>,
) -> CliResult<ExitCode> {
    let interrupted =
        signals::interrupted().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let store = session::open_store(&arguments.cache, session::durability(None)?, &interrupted)?;
    if let Some(limit) = arguments.cache_max_size {
        store.set_maximum_size(limit).map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    }
    // Before it is looked for what there is: from now on nothing of it is evicted.
    let session =
        store.cache().begin_session().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let exports = job.exports.clone();
    let request =
        Request { everything: exports.is_empty(), exports, builds: Vec::new(), sources_first: true };
    let view = StoreView { store: &store, modules: &MODULES };
    let plan =
        plan(job.manifest, &MODULES, &request, &view).map_err(|error| plan_command::plan_error(&error))?;
    // What is not built needs no machine.
    let in_vm = plan.builds.iter().map(|build| &build.pipeline).filter(|name| arguments.in_vm.contains(name));
    let in_vm: Vec<String> = in_vm.cloned().collect();
    if !in_vm.is_empty() && (arguments.before.is_some() || arguments.break_on_failure) {
        return Err(vm::no_shells());
    }
    let guests = vm::VmArguments::default().guests(&in_vm, &arguments.library)?;
    limits::protect(&session, store.cache(), &plan)?;
    let environment = settings::source_environment();
    let terminal = settings::terminal();
    let host_runner = runner::request_of(Path::new("/"));
    let standard = Standard::new();
    let shells = shell::shells(arguments.before.as_deref(), arguments.break_on_failure, standard.streams());
    let context = Context {
        index: job.index,
        store: &store,
        program: job.program,
        rundir: &arguments.rundir.clone().unwrap_or_else(settings::rundir),
        environment: &environment,
        terminal: &terminal,
        host_runner: &host_runner,
        jobs: 1,
        downloads: None,
        stage_timeout: arguments.stage_timeout.map(|limit| Duration::from_secs(limit.max(0).unsigned_abs())),
        checkpoints: job.checkpoints,
        output_directory: arguments.output_directory.as_deref(),
        keep_owners: settings::keep_owners(),
        shells: shells.as_ref(),
        guests: guests.as_ref(),
        interrupted: &interrupted,
    };
    if let Some(wanted) =
        arguments.before.as_deref().filter(|wanted| !shell::matches_any(job.manifest, wanted))
    {
        say(format_args!("warning: no stage has the name or id `{wanted}`: there will be no shell"));
    }
    let target = target.map(|(kind, out)| (kind, out.until(&interrupted)));
    let steps = job.manifest.sources.len() + plan.builds.len();
    let monitor = Monitor::new(target, job.manifest, job.index, &host_runner, steps);
    let name = arguments.manifest.display();
    monitor.say(&format!("starting {name}"));
    let outcome = carry_out(&context, job.manifest, &plan, &|event: Event<'_>| {
        monitor.event(&event);
        announce(&event);
        if let Event::Warning { message } = event {
            // Warnings are for people: standard output may be for programs.
            say(format_args!("warning: {message}"));
        }
    });
    match &outcome {
        Ok(Outcome { success: true, .. }) => monitor.say(&format!("manifest {name} finished successfully\n")),
        Err(RunError::Interrupted) => {
            print(job.style.aborted());
            return Ok(Kind::Interrupted.code());
        }
        _ => monitor.say(&format!("manifest {name} failed\n")),
    }
    let outcome = outcome.map_err(|error| {
        let shown = build::run_error(&error);
        // The reference knows before it begins that no runner fits the host, and says so in its own way.
        if matches!(error, RunError::NoRunner { .. }) { unreadable(shown) } else { shown }
    })?;
    conclude(arguments, job, &outcome, &store)
}

fn conclude(
    arguments: &Arguments,
    job: &Job<'_>,
    outcome: &Outcome,
    store: &ObjectStore,
) -> CliResult<ExitCode> {
    if arguments.json {
        let result = match job.manifest.format {
            Format::One => present::result1(job.manifest, outcome),
            Format::Two => present::result2(job.manifest, outcome, store),
        };
        print(format_args!("{result}\n"));
        return Ok(if outcome.success { ExitCode::SUCCESS } else { Kind::Build.code() });
    }
    if !outcome.success {
        if !arguments.quiet {
            print(job.style.failed());
        }
        return Err(present::failure(outcome));
    }
    if !arguments.quiet {
        let cached = |id: &manifest::Id| store.contains(id.as_str()).unwrap_or(false);
        let checkpoints: Vec<_> = job.checkpoints.matched().iter().map(|id| (id, cached(id))).collect();
        print(job.style.summary(job.manifest, &checkpoints));
    }
    Ok(ExitCode::SUCCESS)
}
