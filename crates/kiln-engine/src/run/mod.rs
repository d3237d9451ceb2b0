//! Walks the plan: fetches, builds pipelines, exports.
//!
//! A step starts as soon as what it needs is there: a build root installs while the image's packages still
//! download, and independent pipelines run side by side. The first failure lets what is running finish and starts
//! nothing new; an interruption stops what is running.

mod checkpoint;
mod copy;
mod directories;
mod exception;
mod export;
mod fetch;
#[cfg(test)]
mod fuzz;
mod guest;
mod host_side;
mod output;
mod pipeline;
mod prepared;
mod remote_loop;
mod schedule;
mod shell;
mod stage;
mod workplace;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_api::module::Modules;
use kiln_api::source::ItemResult;
use kiln_sandbox::SandboxError;
use kiln_sandbox::guest::GuestError;
pub use kiln_sandbox::{Ended, Streams};
use kiln_store::cache::DiskFull;
use kiln_store::object::{Object, ObjectError, ObjectStore};

pub use checkpoint::Checkpoints;
pub use copy::{CopyContext, copy_sources, sources_of};
pub use export::Exported;
pub use guest::{Guests, ServeError, serve};
pub use shell::{Break, ShellPlace, Shells};
pub use stage::FULL;

use self::directories::PrivateRundir;
use crate::event::{Events, StageResult};
use crate::index::Index;
use crate::manifest::{Id, Manifest};
use crate::plan::{Cached, Plan};
use crate::runner::NoRunner;

/// The argument with which a native module is told to be an assembler.
pub const ASSEMBLER: &str = "assembler";

/// What a run works with.
pub struct Context<'a> {
    /// The modules there are.
    pub index: &'a Index,
    /// The object store.
    pub store: &'a ObjectStore,
    /// The executable that is module, runner and sandbox helper.
    pub program: &'a Path,
    /// Where device nodes of build roots are mounted, as `/run/osbuild`.
    pub rundir: &'a Path,
    /// The environment that sources see.
    pub environment: &'a BTreeMap<String, String>,
    /// The value of `TERM` in build roots.
    pub terminal: &'a str,
    /// The runner that the host's os-release asks for.
    pub host_runner: &'a str,
    /// How many pipelines are built at the same time.
    pub jobs: usize,
    /// How many items a source fetches at the same time.
    pub downloads: Option<usize>,
    /// How long a stage may run.
    pub stage_timeout: Option<Duration>,
    /// What is kept in the cache.
    pub checkpoints: &'a Checkpoints,
    /// Where exports go.
    pub output_directory: Option<&'a Path>,
    /// Whether exported files keep their owners.
    pub keep_owners: bool,
    /// The shells that the user wants in build roots.
    pub shells: Option<&'a Shells<'a>>,
    /// The pipelines that are built in virtual machines.
    pub guests: Option<&'a Guests>,
    /// Set when the user interrupts.
    pub interrupted: &'a AtomicBool,
}

impl Context<'_> {
    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// What became of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether everything succeeded.
    pub success: bool,
    /// Downloads in the order of the plan.
    pub fetches: Vec<FetchResult>,
    /// Pipelines in the order in which they ended.
    pub pipelines: Vec<PipelineResult>,
    /// Exports in the order in which they were asked for.
    pub exports: Vec<Exported>,
    /// How long all of it took.
    pub duration: Duration,
}

/// What became of a download.
#[derive(Debug)]
pub struct FetchResult {
    /// The source.
    pub source: String,
    /// One result per item.
    pub results: Vec<ItemResult>,
    /// How long it took.
    pub duration: Duration,
}

/// What became of a pipeline.
#[derive(Debug, Default)]
pub struct PipelineResult {
    /// Its name.
    pub name: String,
    /// Whether a stage failed: the last one.
    pub failed: bool,
    /// The stages that ran.
    pub stages: Vec<StageResult>,
    /// How long it took.
    pub duration: Duration,
}

/// Why a run could not go on. A failing stage or download is no such error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The user interrupted.
    #[error("interrupted")]
    Interrupted,
    /// The store failed.
    #[error(transparent)]
    Store(ObjectError),
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// No runner fits.
    #[error("cannot build the pipeline `{pipeline}`")]
    NoRunner {
        /// The pipeline.
        pipeline: String,
        /// What was asked for and what there is.
        source: NoRunner,
    },
    /// A runner could not prepare a build root.
    #[error("the runner `{runner}` failed to prepare the build root: {output}")]
    Runner {
        /// The runner.
        runner: String,
        /// What it said.
        output: String,
    },
    /// The shell before a stage did not end well.
    #[error("the shell in the build root of `{stage}` ended with {status}")]
    Shell {
        /// The stage.
        stage: String,
        /// How the shell ended.
        status: String,
    },
    /// The shell that was all that was wanted has ended.
    #[error("the shell has ended")]
    ShellEnded(Ended),
    /// There is nothing that could be the shell.
    #[error("the build root of `{stage}` has no shell: neither `bash` nor `sh`")]
    NoShell {
        /// The stage.
        stage: String,
    },
    /// There is no such module.
    #[error("unknown {kind} `{name}`")]
    UnknownModule {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// There is no virtual machine for a pipeline.
    #[error("cannot build the pipeline `{pipeline}` in a virtual machine")]
    Guest {
        /// The pipeline.
        pipeline: String,
        /// The reason.
        source: GuestError,
    },
    /// A run could not go on in a virtual machine.
    #[error("in the virtual machine of the pipeline `{pipeline}`: {reason}")]
    InGuest {
        /// The pipeline.
        pipeline: String,
        /// What was said there.
        reason: String,
    },
    /// An object that was there when the run was planned has gone.
    #[error("the tree of the pipeline `{pipeline}` has vanished from the cache: another program removed it")]
    Vanished {
        /// The pipeline.
        pipeline: String,
    },
    /// There is too little room on the disk, and nothing more to evict.
    #[error("too little room: {0}")]
    DiskFull(DiskFull),
    /// Exports were asked for without a place for them.
    #[error("an export needs an output directory")]
    NoOutputDirectory,
    /// The output directory cannot take an export.
    #[error("cannot write to the output directory `{path}`", path = .path.display())]
    Output {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: OutputError,
    },
    /// A pipe could not be made.
    #[error("cannot make a pipe")]
    Pipe(#[source] io::Error),
    /// An operation on a path failed.
    #[error("cannot {action} `{path}`", path = .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Why nothing can be put into an output directory.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
#[non_exhaustive]
pub enum OutputError {
    /// It cannot be made or written to.
    Directory(io::Error),
    /// A tree cannot be copied or moved.
    Export(ObjectError),
}

impl From<ObjectError> for RunError {
    fn from(error: ObjectError) -> Self {
        if error.is_interrupted() { Self::Interrupted } else { Self::Store(error) }
    }
}

impl RunError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// The tree that a pipeline's tools come from.
enum BuildTree {
    Host,
    Object(Arc<Object>),
    /// An object that somebody else holds.
    Told(PathBuf),
}

impl BuildTree {
    fn path(&self) -> &Path {
        match self {
            Self::Host => Path::new("/"),
            Self::Object(object) => object.tree(),
            Self::Told(path) => path,
        }
    }

    fn is_object(&self) -> bool {
        !matches!(self, Self::Host)
    }
}

/// Carries out a plan.
pub fn run(
    context: &Context<'_>,
    manifest: &Manifest,
    plan: &Plan,
    events: Events<'_>,
) -> Result<Outcome, RunError> {
    let start = Instant::now();
    if !plan.exports.is_empty() && context.output_directory.is_none() {
        return Err(RunError::NoOutputDirectory);
    }
    // What can be known to fail fails before anything is built.
    for build in &plan.builds {
        manifest
            .pipelines
            .get(&build.pipeline)
            .map(|own| pipeline::choose_runner(context, own))
            .transpose()?;
        let guests = context.guests;
        let own = manifest.pipelines.get(&build.pipeline);
        if let Some(own) = own.filter(|own| guests.is_some_and(|guests| guests.has(own))) {
            let pipeline = || own.name.clone();
            guests
                .map_or(Ok(()), Guests::check)
                .map_err(|source| RunError::Guest { pipeline: pipeline(), source })?;
        }
    }
    if !plan.exports.is_empty()
        && let Some(output) = context.output_directory
    {
        export::check_output(output)?;
    }
    // What the plan relies on must not be evicted meanwhile: a loaded object is locked.
    let _held = plan
        .cached
        .iter()
        .map(|cached| context.store.get((cached.id.as_str(), cached.recipe.as_str())))
        .collect::<Result<Vec<_>, _>>()?;
    let _rundir = match plan.builds.as_slice() {
        [] => None,
        _ => Some(PrivateRundir::mount(context.rundir)?),
    };
    let (mut outcome, built) = schedule::carry_out(context, manifest, plan, events)?;
    if outcome.success {
        outcome.exports = export::export(context, plan, built, events)?;
    }
    outcome.duration = start.elapsed();
    Ok(outcome)
}

/// The planner's view of an object store.
pub struct StoreView<'a> {
    /// The store.
    pub store: &'a ObjectStore,
    /// The sources that know where their items are.
    pub modules: &'a Modules,
}

impl Cached for StoreView<'_> {
    fn object(&self, id: &Id, recipe: &str) -> bool {
        // An object that cannot be read now is built again.
        self.store.contains((id.as_str(), recipe)).unwrap_or(false)
    }

    fn item(&self, source: &str, checksum: &str) -> bool {
        let module = self.modules.source(source);
        module.is_some_and(|module| module.cached(&self.store.sources_dir(), checksum))
    }
}
