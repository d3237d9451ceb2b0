//! Events: the only way out of the engine. Presenters turn them into text, progress, JSON.

use std::time::Duration;

use kiln_api::source::ItemResult;
use serde_json::Value;

use crate::manifest::Id;

/// What happened. Sent from any thread; the receiver must not block for long.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A download begins.
    FetchStarted {
        /// Index in the plan.
        fetch: usize,
        /// The source.
        source: &'a str,
        /// The pipeline it is for.
        pipeline: Option<&'a str>,
        /// How many items are to come.
        items: usize,
        /// How many bytes are known to come.
        bytes: u64,
    },
    /// Something happened to an item.
    Download {
        /// Index in the plan.
        fetch: usize,
        /// What.
        event: kiln_api::source::DownloadEvent<'a>,
    },
    /// A download ended.
    FetchFinished {
        /// Index in the plan.
        fetch: usize,
        /// The source.
        source: &'a str,
        /// How many items failed.
        failed: usize,
        /// What became of each item; in plans that fetch sources first, also of those that were there already.
        results: &'a [ItemResult],
        /// How long it took.
        duration: Duration,
    },
    /// A pipeline waits for another program that builds the same object.
    Waiting {
        /// The pipeline.
        pipeline: &'a str,
    },
    /// A pipeline begins.
    PipelineStarted {
        /// Its name.
        pipeline: &'a str,
        /// Its id.
        id: &'a Id,
        /// How many stages will run.
        stages: usize,
    },
    /// A stage begins.
    StageStarted {
        /// The pipeline.
        pipeline: &'a str,
        /// The stage's position among those that run, from 0.
        index: usize,
        /// The module.
        stage: &'a str,
        /// The stage's id.
        id: &'a Id,
    },
    /// A stage wrote something; not necessarily a whole line.
    Output {
        /// The pipeline.
        pipeline: &'a str,
        /// The module.
        stage: &'a str,
        /// The text.
        text: &'a str,
    },
    /// A module that runs on the host as a program said something: one line.
    Service {
        /// Which one, as `input/tree (org.osbuild.tree)`.
        service: &'a str,
        /// The line.
        text: &'a str,
    },
    /// A shell is about to be opened in a stage's build root; until the next event it has the terminal.
    ShellStarted {
        /// The pipeline.
        pipeline: &'a str,
        /// The module.
        stage: &'a str,
        /// The stage's id.
        id: &'a Id,
        /// Why.
        moment: ShellMoment,
    },
    /// A stage ended.
    StageFinished {
        /// The pipeline.
        pipeline: &'a str,
        /// What became of it.
        result: &'a StageResult,
    },
    /// A pipeline ended.
    PipelineFinished {
        /// Its name.
        pipeline: &'a str,
        /// Whether all stages succeeded.
        success: bool,
        /// How long it took.
        duration: Duration,
    },
    /// A tree is copied to the output directory.
    ExportStarted {
        /// The export's name.
        name: &'a str,
    },
    /// A tree is in the output directory.
    ExportFinished {
        /// The export's name.
        name: &'a str,
        /// How long it took.
        duration: Duration,
    },
    /// Something that the user should know and that does not stop the build.
    Warning {
        /// One sentence.
        message: &'a str,
    },
}

/// When a shell is opened in a stage's build root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShellMoment {
    /// Before the stage runs.
    Before,
    /// After it has failed.
    AfterFailure,
    /// Instead of it.
    Instead,
}

/// What became of a stage.
#[derive(Clone, Debug)]
pub struct StageResult {
    /// The stage's id.
    pub id: Id,
    /// The module.
    pub name: String,
    /// Whether it succeeded.
    pub success: bool,
    /// All that it wrote.
    pub output: String,
    /// The exception that it reported, as `{"type": "exception", "data": {…}}`.
    pub error: Option<Value>,
    /// How it ended, if not well: `exit status 1`, `timed out after 30 s`.
    pub reason: Option<String>,
    /// The metadata that it left.
    pub metadata: Option<Value>,
    /// How long it took.
    pub duration: Duration,
}

/// Where events go.
pub type Events<'a> = &'a (dyn Fn(Event<'_>) + Sync);
