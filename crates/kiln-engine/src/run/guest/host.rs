//! The host's side: a machine for a pipeline, and its stages one after the other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_sandbox::guest::{Guest, GuestError, GuestPlan, Kernel, Share};
use kiln_store::cache::TemporaryDirectory;
use serde_json::{Value, json};

use super::Guests;
use super::wire::{Order, Place, Report, STAGES, Stages, write_stage};
use crate::event::{Event, StageResult};
use crate::index::{ChosenRunner, Origin};
use crate::manifest::{Pipeline, Stage};
use crate::run::stage::StageRun;
use crate::run::{BuildTree, Context, RunError};

/// The machine of a pipeline; it ends when this is dropped.
pub(in crate::run) struct PipelineGuest {
    pipeline: String,
    guest: Guest,
    // Goes after the machine.
    _scratch: TemporaryDirectory,
}

impl PipelineGuest {
    /// Starts the machine.
    pub(in crate::run) fn start(
        guests: &Guests,
        context: &Context<'_>,
        pipeline: &Pipeline,
        build: &BuildTree,
        runner: &ChosenRunner,
    ) -> Result<Self, RunError> {
        let failed = |error| failed(&pipeline.name, error);
        let scratch = context.store.tempdir("guest-")?;
        let sources = context.store.sources_dir();
        let place = Place {
            pipeline: pipeline.name.clone(),
            source_epoch: pipeline.source_epoch,
            build: build.is_object().then(|| real(build.path())).transpose()?,
            runner: runner.name.clone(),
            runner_program: match &runner.origin {
                Origin::Native => None,
                Origin::Library(path) => Some(path.clone()),
            },
            rundir: std::path::absolute(context.rundir).map_err(RunError::io("find", context.rundir))?,
            terminal: context.terminal.to_owned(),
            stage_timeout: context.stage_timeout.map(|limit| limit.as_secs()),
            // There is none where nothing was ever fetched.
            sources: if sources.exists() { real(&sources)? } else { sources },
            scratch: real(scratch.path())?,
        };
        let systems: Vec<&Path> = match &guests.kernels {
            Some(directory) => vec![directory],
            // As in the reference, where it must be there.
            None if build.is_object() => vec![build.path(), Path::new("/")],
            None => vec![Path::new("/")],
        };
        let kernel = Kernel::find(&systems).map_err(failed)?;
        let plan = GuestPlan {
            kernel: &kernel,
            hardware: guests.hardware,
            program: context.program,
            shares: vec![Share::new(context.store.cache().directory()).map_err(failed)?],
            environment: guests.environment.clone(),
            task: json!({ STAGES: Stages { told: guests.told.clone(), place } }),
        };
        let guest = Guest::start(&plan, context.interrupted).map_err(failed)?;
        Ok(Self { pipeline: pipeline.name.clone(), guest, _scratch: scratch })
    }

    /// Runs a stage. That it fails is a result, not an error.
    pub(in crate::run) fn run(&mut self, run: &StageRun<'_>, stage: &Stage) -> Result<StageResult, RunError> {
        let workplace = run.workplace;
        // Held until the stage has ended.
        let held = stage
            .pipeline_references()
            .filter_map(|id| workplace.trees.get(id).transpose().map(|tree| Ok((id, tree?))))
            .collect::<Result<Vec<_>, RunError>>()?;
        let trees = held
            .iter()
            .map(|(id, tree)| Ok(((*id).to_owned(), real(tree.path())?)))
            .collect::<Result<_, RunError>>()?;
        let order =
            Order { stage: write_stage(stage), tree: real(run.tree)?, metadata: real(run.metadata)?, trees };
        let pipeline = self.pipeline.as_str();
        let failed = |error| failed(pipeline, error);
        self.guest.send(&json!(order)).map_err(failed)?;
        let mut output = String::new();
        loop {
            let message = self.guest.receive(workplace.interrupted).map_err(failed)?;
            match serde_json::from_value(message).map_err(|error| in_guest(pipeline, error.to_string()))? {
                Report::Output(text) => {
                    (run.events)(Event::Output { pipeline, stage: &stage.name, text: &text });
                    output.push_str(&text);
                }
                Report::Warning(message) => (run.events)(Event::Warning { message: &message }),
                Report::Service { service, text } => {
                    (run.events)(Event::Service { service: &service, text: &text });
                }
                Report::Result { success, error, reason, seconds } => {
                    return Ok(StageResult {
                        id: stage.id.clone(),
                        name: stage.name.clone(),
                        success,
                        output,
                        error: error.filter(|error| *error != Value::Null),
                        reason,
                        metadata: None,
                        duration: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
                    });
                }
                Report::Runner { runner, output } => return Err(RunError::Runner { runner, output }),
                Report::Error(reason) => return Err(in_guest(pipeline, reason)),
            }
        }
    }
}

fn failed(pipeline: &str, error: GuestError) -> RunError {
    match error {
        GuestError::Interrupted => RunError::Interrupted,
        source => RunError::Guest { pipeline: pipeline.to_owned(), source },
    }
}

fn in_guest(pipeline: &str, reason: String) -> RunError {
    RunError::InGuest { pipeline: pipeline.to_owned(), reason }
}

/// A path as it is in the guest, too: there are no links of the host in between.
fn real(path: &Path) -> Result<PathBuf, RunError> {
    path.canonicalize().map_err(RunError::io("find", path))
}
