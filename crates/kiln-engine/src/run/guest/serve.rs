//! The guest's side: runs the stages that the host sends.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kiln_sandbox::guest::Task;
use serde_json::{Value, json};

use super::wire::{Order, Place, Report, STAGES, Stages, read_stage};
use crate::event::{Event, StageResult};
use crate::index::{ChosenRunner, Index, Origin};
use crate::manifest::Pipeline;
use crate::run::directories::PrivateRundir;
use crate::run::prepared::{Prepared, PreparedRoots};
use crate::run::stage::StageRun;
use crate::run::workplace::{ToldTrees, Trees, Workplace};
use crate::run::{BuildTree, RunError};

/// Runs the stages that a host sends, until it sends no more; `false` if this is no task of that kind.
///
/// `index` is made of what the program of the host wanted to be told here.
pub fn serve(
    task: &mut Task,
    program: &Path,
    index: impl FnOnce(&Value) -> Result<Index, String>,
) -> Result<bool, ServeError> {
    let Some(stages) = task.told.get(STAGES) else { return Ok(false) };
    let Stages { told, place } = serde_json::from_value(stages.clone()).map_err(io::Error::from)?;
    let index = index(&told).map_err(ServeError::Index)?;
    let build = place.build.clone().map_or(BuildTree::Host, BuildTree::Told);
    let runner = ChosenRunner {
        name: place.runner.clone(),
        origin: place.runner_program.clone().map_or(Origin::Native, Origin::Library),
    };
    let pipeline = Pipeline {
        name: place.pipeline.clone(),
        build: None,
        runner: None,
        source_epoch: place.source_epoch,
        stages: Vec::new(),
    };
    let prepared = PreparedRoots::default();
    let own =
        Own { place: &place, index: &index, program, build: &build, runner: &runner, pipeline: &pipeline };
    let rundir = PrivateRundir::mount(&place.rundir);
    while let Some(message) = task.receive()? {
        let order: Order = serde_json::from_value(message).map_err(io::Error::from)?;
        let result = match &rundir {
            Ok(_) => own.run(&prepared, &order, task),
            Err(error) => Err(RunError::InGuest { pipeline: String::new(), reason: crate::chain(error) }),
        };
        // The host looks at the tree as soon as it has the result.
        rustix::fs::sync();
        task.send(&json!(report(result)))?;
    }
    Ok(true)
}

/// Why a guest cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The modules cannot be found.
    #[error("cannot find the modules: {0}")]
    Index(String),
    /// The connection with the host failed.
    #[error("the connection with the host failed")]
    Connection(#[from] io::Error),
}

/// What does not change from stage to stage.
struct Own<'a> {
    place: &'a Place,
    index: &'a Index,
    program: &'a Path,
    build: &'a BuildTree,
    runner: &'a ChosenRunner,
    pipeline: &'a Pipeline,
}

impl Own<'_> {
    fn run(&self, prepared: &PreparedRoots, order: &Order, task: &Task) -> Result<StageResult, RunError> {
        let wrong = || RunError::InGuest {
            pipeline: self.place.pipeline.clone(),
            reason: "the stage cannot be understood".to_owned(),
        };
        let stage = read_stage(&order.stage).ok_or_else(wrong)?;
        let trees = ToldTrees {
            trees: order.trees.clone(),
            sources: self.place.sources.clone(),
            scratch: self.place.scratch.clone(),
        };
        // An interrupted host ends the machine.
        let interrupted = AtomicBool::new(false);
        let workplace = Workplace {
            index: self.index,
            program: self.program,
            rundir: &self.place.rundir,
            terminal: &self.place.terminal,
            stage_timeout: self.place.stage_timeout.map(Duration::from_secs),
            shells: None,
            interrupted: &interrupted,
            trees: Trees::Told(&trees),
        };
        let prepared = match &self.runner.origin {
            Origin::Native => Some(prepared.get(workplace, self.build, &self.runner.name)?),
            Origin::Library(_) => None,
        };
        let run = StageRun {
            workplace,
            pipeline: self.pipeline,
            build: self.build,
            runner: self.runner,
            prepared: prepared.as_ref().map(|prepared| Prepared::path(prepared)),
            tree: &order.tree,
            metadata: &order.metadata,
            events: &|event| {
                let report = match event {
                    Event::Output { text, .. } => Report::Output(text.to_owned()),
                    Event::Warning { message } => Report::Warning(message.to_owned()),
                    Event::Service { service, text } => {
                        Report::Service { service: service.to_owned(), text: text.to_owned() }
                    }
                    _ => return,
                };
                // A host that does not listen ends the machine.
                let _ = task.send(&json!(report));
            },
        };
        run.run(&stage)
    }
}

fn report(result: Result<StageResult, RunError>) -> Report {
    match result {
        Ok(result) => Report::Result {
            success: result.success,
            error: result.error,
            reason: result.reason,
            seconds: result.duration.as_secs_f64(),
        },
        Err(RunError::Runner { runner, output }) => Report::Runner { runner, output },
        Err(RunError::InGuest { reason, .. }) => Report::Error(reason),
        Err(error) => Report::Error(crate::chain(&error)),
    }
}
