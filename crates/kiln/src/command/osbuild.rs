//! The reference's command line, as far as callers of `osbuild` need it: same options, same exit codes.
//!
//! Without `--export` nothing is built, but all sources are fetched: callers use that as prefetch.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser};
use kiln_engine::event::Event;
use kiln_engine::manifest::{Format, Manifest, describe, load};
use kiln_engine::plan::{Request, plan};
use kiln_engine::run::{Checkpoints, Context, Outcome, StoreView, run as carry_out};
use kiln_engine::{manifest, recipe, runner};
use kiln_modules::MODULES;
use kiln_store::cache::MaximumSize;
use kiln_store::object::ObjectStore;

use super::input::Input;
use super::{build, inspect, limits, plan as plan_command, session, size};
use crate::error::{CliError, CliResult, Kind, findings_error, manifest_error};
use crate::present::{self, print, say};
use crate::{settings, signals};

/// The version that callers are told: they ask for at least 190.
const VERSION: &str = "191";

/// Build operating system images
#[derive(Debug, Parser)]
#[command(name = "osbuild", version = VERSION, disable_version_flag = true)]
struct Arguments {
    /// Manifest to build, or `-` for standard input
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
    /// Directory with objects and downloads
    #[arg(long, alias = "store", value_name = "DIRECTORY", default_value = ".osbuild")]
    cache: PathBuf,
    /// Most that the cache may hold: bytes, or with a unit, or `unlimited`
    #[arg(long, value_name = "SIZE", value_parser = size::parse_limit)]
    cache_max_size: Option<MaximumSize>,
    /// Stage to keep in the cache: pipeline name, stage id or stage name, as shell patterns (repeat)
    #[arg(long, value_name = "ID")]
    checkpoint: Vec<String>,
    /// Pipeline to export (repeat)
    #[arg(long, value_name = "ID")]
    export: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Directory for exports
    #[arg(long, value_name = "DIRECTORY")]
    output_directory: Option<PathBuf>,
    /// Print the manifest with all its ids as JSON
    #[arg(long)]
    inspect: bool,
    /// `NullMonitor` or `LogMonitor`
    #[arg(long, value_name = "NAME")]
    monitor: Option<String>,
    /// Stop a stage that runs longer than so many seconds
    #[arg(long, value_name = "SECONDS")]
    stage_timeout: Option<u64>,
    /// Directory for device nodes of build roots
    #[arg(long, value_name = "DIRECTORY", default_value = build::RUNDIR)]
    rundir: PathBuf,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Print the version
    #[arg(long, action = ArgAction::Version)]
    version: (),
}

/// The `osbuild` program.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return super::usage(&error),
    };
    super::finish(run(&arguments))
}

fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let log = monitor(arguments)?;
    let input = Input::read(&arguments.manifest)?;
    let as_json = arguments.json || arguments.inspect;
    let invalid = |error: CliError, findings: &[manifest::Finding]| {
        if as_json {
            print(format_args!("{}\n", error_object(findings)));
            return Ok(Kind::Usage.code());
        }
        Err(error)
    };
    let loaded = match load(&input.text) {
        Ok(mut loaded) => {
            recipe::assign(&mut loaded.manifest, kiln_modules::CODE, &runner::request_of(Path::new("/")));
            loaded
        }
        Err(error) => {
            let shown = manifest_error(&input.name, &input.text, &error);
            return match error {
                manifest::LoadError::Invalid(findings) => invalid(shown, &findings),
                _ => Err(shown),
            };
        }
    };
    let findings = manifest::validate::validate(&loaded.document, &loaded.manifest, &MODULES);
    if !findings.is_empty() {
        return invalid(findings_error(&input.name, &input.text, &findings), &findings);
    }
    let manifest = &loaded.manifest;
    let checkpoints = Checkpoints::matching(manifest, &arguments.checkpoint)
        .map_err(|error| CliError::from_error(Kind::Usage, &error))?;
    let unknown = arguments.export.iter().find(|name| manifest.pipeline(name).is_none());
    if let Some(name) = unknown {
        let known = manifest.pipelines.keys().cloned().collect();
        let error = kiln_engine::plan::PlanError::UnknownPipeline { name: name.clone(), known };
        return Err(plan_command::plan_error(&error));
    }
    if !arguments.checkpoint.is_empty() && checkpoints.matched().is_empty() {
        return Err(CliError::new(Kind::Build, "no checkpoint matches the patterns"));
    }
    if arguments.inspect {
        print(format_args!("{}\n", describe(manifest, &inspect::host_runner())));
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.export.is_empty() && arguments.output_directory.is_none() {
        return Err(CliError::new(Kind::Build, "an export needs `--output-directory`"));
    }
    session::require_root("`osbuild`")?;
    // Before any thread: the namespace is the calling thread's.
    let program = session::enter_private_namespace()?;
    execute(arguments, manifest, &checkpoints, &program, log)
}

fn execute(
    arguments: &Arguments,
    manifest: &Manifest,
    checkpoints: &Checkpoints,
    program: &Path,
    log: bool,
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
    // Each once, in the order in which they were named.
    let mut exports = arguments.export.clone();
    let mut seen = std::collections::HashSet::new();
    exports.retain(|name| seen.insert(name.clone()));
    let request = Request { everything: exports.is_empty(), exports, builds: Vec::new() };
    let view = StoreView { store: &store, modules: &MODULES };
    let plan = plan(manifest, &MODULES, &request, &view).map_err(|error| plan_command::plan_error(&error))?;
    limits::protect(&session, store.cache(), &plan)?;
    let environment = settings::source_environment();
    let terminal = settings::terminal();
    let host_runner = runner::request_of(Path::new("/"));
    let context = Context {
        modules: MODULES,
        store: &store,
        program,
        rundir: &arguments.rundir,
        environment: &environment,
        terminal: &terminal,
        host_runner: &host_runner,
        jobs: 1,
        downloads: None,
        stage_timeout: arguments.stage_timeout.map(Duration::from_secs),
        checkpoints,
        output_directory: arguments.output_directory.as_deref(),
        keep_owners: settings::keep_owners(),
        interrupted: &interrupted,
    };
    let outcome = carry_out(&context, manifest, &plan, &|event: Event<'_>| {
        if log {
            log_event(&event);
        } else if let Event::Warning { message } = event {
            warn(message);
        }
    });
    let outcome = outcome.map_err(|error| build::run_error(&error))?;
    conclude(arguments, manifest, checkpoints, &outcome, &store)
}

fn conclude(
    arguments: &Arguments,
    manifest: &Manifest,
    checkpoints: &Checkpoints,
    outcome: &Outcome,
    store: &ObjectStore,
) -> CliResult<ExitCode> {
    if arguments.json {
        let result = match manifest.format {
            Format::One => present::result1(manifest, outcome),
            Format::Two => present::result2(manifest, outcome, store),
        };
        print(format_args!("{result}\n"));
    }
    if !outcome.success {
        if arguments.json {
            return Ok(Kind::Build.code());
        }
        return Err(present::failure(outcome));
    }
    if !arguments.json && !arguments.quiet {
        print("\nPipelines\n");
        for pipeline in manifest.pipelines.values() {
            let id = pipeline.id().map_or("None", |id| id.as_str());
            print(format_args!("  {:<10}\t{id}\n", format!("{}:", pipeline.name)));
        }
        print("\nCheckpoints\n");
        for id in checkpoints.matched() {
            let cached = store.contains(id.as_str()).unwrap_or(false);
            print(format_args!("  {id}: {}\n", if cached { "cached" } else { "not cached" }));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the build is logged to standard output.
fn monitor(arguments: &Arguments) -> CliResult<bool> {
    match arguments.monitor.as_deref() {
        None => Ok(!arguments.json && !arguments.quiet),
        Some("NullMonitor") => Ok(false),
        Some("LogMonitor") => Ok(true),
        Some(name) => Err(CliError::new(Kind::Usage, format!("the monitor `{name}` is not supported yet"))
            .hint("use `NullMonitor` or `LogMonitor`")),
    }
}

/// Warnings are for people: standard output may be for programs.
fn warn(message: &str) {
    say(format_args!("warning: {message}"));
}

fn log_event(event: &Event<'_>) {
    match event {
        Event::FetchStarted { source, .. } => print(format_args!("Starting pipeline source {source}\n")),
        Event::FetchFinished { source, .. } => print(format_args!("Finished pipeline source {source}\n")),
        Event::PipelineStarted { pipeline, .. } => print(format_args!("Starting pipeline {pipeline}\n")),
        Event::PipelineFinished { pipeline, .. } => print(format_args!("Finished pipeline {pipeline}\n")),
        Event::StageStarted { stage, id, .. } => print(format_args!("Starting module {stage} ({id})\n")),
        Event::Output { text, .. } => {
            print(text);
            // A stage may say something and then work for long.
            let _ = std::io::stdout().flush();
        }
        Event::StageFinished { result, .. } => {
            print(format_args!("Finished module {} in {}\n", result.name, present::seconds(result.duration)));
        }
        Event::Warning { message } => warn(message),
        Event::Download { .. }
        | Event::Waiting { .. }
        | Event::ExportStarted { .. }
        | Event::ExportFinished { .. } => {}
    }
}

/// The reference's object for an invalid manifest.
fn error_object(findings: &[manifest::Finding]) -> serde_json::Value {
    let errors: Vec<serde_json::Value> = findings
        .iter()
        .map(|finding| {
            let path: Vec<serde_json::Value> = finding
                .path
                .0
                .iter()
                .map(|step| match step {
                    manifest::place::Step::Key(key) => serde_json::json!(key),
                    manifest::place::Step::Index(index) => serde_json::json!(index),
                })
                .collect();
            serde_json::json!({"message": finding.message, "path": path})
        })
        .collect();
    serde_json::json!({
        "type": "https://osbuild.org/validation-error",
        "title": "JSON Schema validation failed",
        "success": false,
        "errors": errors,
    })
}
