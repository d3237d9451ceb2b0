//! Runs the steps of a plan as soon as what they need is done.
//!
//! Downloads run one after the other on a thread of their own (each is parallel in itself), in the order in which
//! pipelines need them; pipelines run on as many threads as there are jobs.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kiln_store::object::Object;

use super::prepared::PreparedRoots;
use super::{Context, Outcome, RunError, fetch, pipeline};
use crate::event::Events;
use crate::manifest::Manifest;
use crate::plan::{Build, Plan};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Done,
}

struct Progress {
    fetches: Vec<State>,
    builds: Vec<State>,
    outcome: Outcome,
    /// Finished objects: later steps must find them.
    held: Vec<Arc<Object>>,
    error: Option<RunError>,
    /// Nothing new is started.
    stopped: bool,
}

impl Progress {
    fn ready(&self, build: &Build) -> bool {
        let done = |states: &[State], indices: &[usize]| {
            indices.iter().all(|&index| states.get(index) == Some(&State::Done))
        };
        done(&self.fetches, &build.fetches) && done(&self.builds, &build.needs)
    }

    fn fail(&mut self, error: RunError) {
        self.stopped = true;
        self.error.get_or_insert(error);
    }
}

struct Schedule<'a> {
    context: &'a Context<'a>,
    manifest: &'a Manifest,
    plan: &'a Plan,
    events: Events<'a>,
    prepared: PreparedRoots,
    progress: Mutex<Progress>,
    changed: Condvar,
}

pub(super) fn carry_out(
    context: &Context<'_>,
    manifest: &Manifest,
    plan: &Plan,
    events: Events<'_>,
) -> Result<(Outcome, Vec<Arc<Object>>), RunError> {
    let progress = Progress {
        fetches: vec![State::Waiting; plan.fetches.len()],
        builds: vec![State::Waiting; plan.builds.len()],
        outcome: Outcome::default(),
        held: Vec::new(),
        error: None,
        stopped: false,
    };
    let schedule = Schedule {
        context,
        manifest,
        plan,
        events,
        prepared: PreparedRoots::default(),
        progress: Mutex::new(progress),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        if !plan.fetches.is_empty() {
            scope.spawn(|| schedule.fetch_all());
        }
        for _ in 0..context.jobs.clamp(1, plan.builds.len().max(1)) {
            scope.spawn(|| schedule.build_ready());
        }
    });
    let progress = schedule.progress.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut outcome = progress.outcome;
    match progress.error {
        Some(error) => Err(error),
        None if context.is_interrupted() => Err(RunError::Interrupted),
        None => {
            outcome.success = !progress.stopped;
            Ok((outcome, progress.held))
        }
    }
}

impl Schedule<'_> {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch_all(&self) {
        for (index, step) in self.plan.fetches.iter().enumerate() {
            let first = self.plan.sources_first;
            // Sources that are fetched first are fetched whatever became of the others: callers prefetch.
            let progress = self.lock();
            if progress.error.is_some() || progress.stopped && !first || self.context.is_interrupted() {
                break;
            }
            drop(progress);
            let result = fetch::fetch(self.context, self.manifest, index, step, first, self.events);
            let mut progress = self.lock();
            match result {
                Ok(result) => {
                    if result.results.iter().any(|item| item.error.is_some()) {
                        progress.stopped = true;
                    } else if let Some(state) = progress.fetches.get_mut(index) {
                        *state = State::Done;
                    }
                    progress.outcome.fetches.push(result);
                }
                Err(error) => progress.fail(error),
            }
            drop(progress);
            self.changed.notify_all();
        }
    }

    fn build_ready(&self) {
        while let Some((index, step)) = self.next_build() {
            let result = match self.manifest.pipelines.get(&step.pipeline) {
                Some(pipeline) => {
                    pipeline::build(self.context, self.manifest, pipeline, &self.prepared, self.events)
                }
                None => Ok((super::PipelineResult::default(), None)),
            };
            let mut progress = self.lock();
            match result {
                Ok((result, object)) => {
                    progress.held.extend(object);
                    if result.failed {
                        progress.stopped = true;
                    } else if let Some(state) = progress.builds.get_mut(index) {
                        *state = State::Done;
                    }
                    progress.outcome.pipelines.push(result);
                }
                Err(error) => progress.fail(error),
            }
            drop(progress);
            self.changed.notify_all();
        }
    }

    /// Waits for a step that can run; none when there is nothing left to start.
    fn next_build(&self) -> Option<(usize, &Build)> {
        let mut progress = self.lock();
        loop {
            let waiting =
                |progress: &Progress, index: usize| progress.builds.get(index) == Some(&State::Waiting);
            let mut steps =
                self.plan.builds.iter().enumerate().filter(|(index, _)| waiting(&progress, *index));
            if progress.stopped || self.context.is_interrupted() || steps.clone().next().is_none() {
                return None;
            }
            if let Some((index, step)) = steps.find(|(_, build)| progress.ready(build)) {
                if let Some(state) = progress.builds.get_mut(index) {
                    *state = State::Running;
                }
                return Some((index, step));
            }
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
