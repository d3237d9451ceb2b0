//! One pipeline: from the last stage that the cache holds to a finished object.

use std::sync::Arc;
use std::time::Instant;

use kiln_store::cache::BuildLock;
use kiln_store::object::{NewObject, Object, ObjectError, Outcome as Kept};

use super::guest::PipelineGuest;
use super::prepared::{Prepared, PreparedRoots};
use super::stage::StageRun;
use super::workplace::Workplace;
use super::{BuildTree, Context, PipelineResult, RunError};
use crate::event::{Event, Events};
use crate::index::{ChosenRunner, Origin};
use crate::manifest::{Id, Manifest, Pipeline};

/// Builds a pipeline, unless the cache has come to hold it meanwhile. A failing stage is a result; otherwise the
/// object is returned too, because it is held against eviction only as long as somebody has it.
pub(super) fn build(
    context: &Context<'_>,
    manifest: &Manifest,
    pipeline: &Pipeline,
    prepared: &PreparedRoots,
    events: Events<'_>,
) -> Result<(PipelineResult, Option<Arc<Object>>), RunError> {
    let start = Instant::now();
    let mut result = PipelineResult { name: pipeline.name.clone(), ..PipelineResult::default() };
    let Some(id) = pipeline.id() else { return Ok((result, None)) };
    let recipe = pipeline.recipe();
    // With a shell in place of the last stage there will be no object, whoever else makes it.
    let for_shell = context.shells.is_some_and(|shells| shells.replace_last_of(pipeline));
    let lock = if for_shell { None } else { Some(lock(context, pipeline, id, events)?) };
    if !for_shell && let Some(object) = context.store.get((id.as_str(), recipe))? {
        return Ok((result, Some(object)));
    }
    let build = build_tree(context, manifest, pipeline)?;
    let runner = choose_runner(context, pipeline)?;
    let mut base: Option<Arc<Object>> = None;
    let mut skipped = 0;
    for (index, stage) in pipeline.stages.iter().enumerate().rev().skip(for_shell.into()) {
        base = context.store.get((stage.id.as_str(), stage.recipe.as_str()))?;
        if base.is_some() {
            skipped = index + 1;
            break;
        }
    }
    let todo = pipeline.stages.get(skipped..).unwrap_or_default();
    events(Event::PipelineStarted { pipeline: &pipeline.name, id, stages: todo.len() });
    let mut tree = context.store.new_object((id.as_str(), recipe), pipeline.source_epoch)?;
    tree.note("pipeline", &pipeline.name);
    if let Some(base) = &base {
        tree.init_from(base)?;
    }
    drop(base);
    // Later than the tree: what is made there counts as made after it was begun.
    let mut guest = context
        .guests
        .filter(|guests| guests.has(pipeline))
        .map(|guests| PipelineGuest::start(guests, context, pipeline, &build, &runner))
        .transpose()?;
    let workplace = Workplace::of(context, manifest);
    // What a runner of the library does is known to nobody but itself: it prepares each build root anew.
    let prepared = match &runner.origin {
        // A virtual machine has its own.
        _ if guest.is_some() => None,
        Origin::Native => Some(prepared.get(workplace, &build, &runner.name)?),
        Origin::Library(_) => None,
    };
    for (index, stage) in todo.iter().enumerate() {
        events(Event::StageStarted { pipeline: &pipeline.name, index, stage: &stage.name, id: &stage.id });
        let metadata = tree.metadata_path(stage.id.as_str())?;
        let run = StageRun {
            workplace,
            pipeline,
            build: &build,
            runner: &runner,
            prepared: prepared.as_ref().map(|prepared| Prepared::path(prepared)),
            tree: tree.tree(),
            metadata: &metadata,
            events,
        };
        let mut stage_result = match &mut guest {
            Some(guest) => guest.run(&run, stage)?,
            None => run.run(stage)?,
        };
        stage_result.metadata = tree.metadata(stage.id.as_str())?;
        events(Event::StageFinished { pipeline: &pipeline.name, result: &stage_result });
        let success = stage_result.success;
        result.stages.push(stage_result);
        if !success {
            result.failed = true;
            break;
        }
        tree.note("stage", &stage.name);
        if index + 1 < todo.len() && context.checkpoints.stage(&stage.id) {
            let kept = tree.checkpoint((stage.id.as_str(), stage.recipe.as_str()))?;
            warn_if_refused(events, &stage.name, kept);
        }
    }
    drop(guest);
    let object = if result.failed { None } else { Some(finish(context, tree, pipeline, events)?) };
    drop(lock);
    result.duration = start.elapsed();
    events(Event::PipelineFinished {
        pipeline: &pipeline.name,
        success: !result.failed,
        duration: result.duration,
    });
    Ok((result, object))
}

/// Single flight: whoever else builds this object has the lock; when it is done the object may be there.
fn lock(
    context: &Context<'_>,
    pipeline: &Pipeline,
    id: &Id,
    events: Events<'_>,
) -> Result<BuildLock, RunError> {
    if let Some(lock) = context.store.cache().try_build_lock(id.as_str()).map_err(ObjectError::from)? {
        return Ok(lock);
    }
    events(Event::Waiting { pipeline: &pipeline.name });
    Ok(context.store.build_lock(id.as_str())?)
}

fn finish(
    context: &Context<'_>,
    tree: NewObject,
    pipeline: &Pipeline,
    events: Events<'_>,
) -> Result<Arc<Object>, RunError> {
    let keep = pipeline.id().is_some_and(|id| context.checkpoints.pipeline(id));
    let (object, kept) = tree.finish(keep)?;
    warn_if_refused(events, &pipeline.name, kept);
    Ok(object)
}

/// A checkpoint that cannot be kept must not vanish silently.
fn warn_if_refused(events: Events<'_>, name: &str, kept: Kept) {
    if let Kept::Refused(reason) = kept {
        let message = format!("the result of `{name}` is not kept in the cache: {reason}");
        events(Event::Warning { message: &message });
    }
}

fn build_tree(
    context: &Context<'_>,
    manifest: &Manifest,
    pipeline: &Pipeline,
) -> Result<BuildTree, RunError> {
    let Some(id) = &pipeline.build else { return Ok(BuildTree::Host) };
    let build = manifest.pipeline_by_id(id.as_str());
    let recipe = build.map_or("", Pipeline::recipe);
    match context.store.get((id.as_str(), recipe))? {
        Some(object) => Ok(BuildTree::Object(object)),
        None => {
            let name = build.map_or(id.as_str(), |pipeline| &pipeline.name);
            Err(RunError::Vanished { pipeline: name.to_owned() })
        }
    }
}

/// The runner that prepares the build roots of a pipeline.
pub(super) fn choose_runner(context: &Context<'_>, pipeline: &Pipeline) -> Result<ChosenRunner, RunError> {
    let requested = pipeline.runner.as_deref().unwrap_or(context.host_runner);
    context
        .index
        .runner(requested)
        .map_err(|source| RunError::NoRunner { pipeline: pipeline.name.clone(), source })
}
