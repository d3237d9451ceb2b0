//! `kiln shell`: a shell in a stage's build root; and the shells of `--break` and `--break-on-failure`.

use std::fs::File;
use std::io::{Stderr, Stdin, Stdout};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kiln_engine::event::{Event, ShellMoment};
use kiln_engine::manifest::{Id, Manifest, Stage, did_you_mean};
use kiln_engine::plan::{Cached, Request, plan};
use kiln_engine::run::{
    Break, Checkpoints, Context, Ended, RunError, ShellPlace, Shells, StoreView, Streams, run as carry_out,
};
use kiln_engine::runner;
use kiln_modules::MODULES;

use super::build;
use super::input::{Input, Resolving};
use super::library::{LibraryArguments, assign_recipes};
use super::limits::{protect, set_limit};
use super::plan::plan_error;
use super::session::{self, CacheArguments};
use crate::error::{CliError, CliResult, Kind};
use crate::present::{self, Presenter, ProgressMode, say};
use crate::{settings, signals};

/// The terminal that the program was started from, whatever its standard streams are.
const TERMINAL: &str = "/dev/tty";

/// What a shell's exit code is when a signal has ended it: this and the signal's number.
const SIGNALLED: u8 = 128;

/// The arguments that open shells during a build.
#[derive(Debug, Args)]
pub(crate) struct BreakArguments {
    /// Open a shell in the build root of a stage before it runs: by name or id; before every stage without a value
    #[arg(long = "break", value_name = "STAGE", num_args = 0..=1, require_equals = true, default_missing_value = "*")]
    before: Option<String>,
    /// Open a shell in the build root of a stage that has failed
    #[arg(long = "break-on-failure")]
    after_failure: bool,
}

/// The standard streams, for as long as a build runs.
pub(crate) struct Standard {
    input: Stdin,
    /// The terminal, where standard input is the manifest.
    terminal: Option<File>,
    output: Stdout,
    error: Stderr,
}

impl Standard {
    pub(crate) fn new() -> Self {
        Self { input: std::io::stdin(), terminal: None, output: std::io::stdout(), error: std::io::stderr() }
    }

    /// Those of a command with a manifest: what was read from standard input leaves nothing there for a shell, which
    /// then reads from the terminal, if there is one.
    pub(crate) fn beside(manifest: &Path) -> Self {
        let terminal = (manifest == Path::new("-")).then(|| File::open(TERMINAL).ok()).flatten();
        Self { terminal, ..Self::new() }
    }

    /// All three of them.
    pub(crate) fn streams(&self) -> Streams<'_> {
        let input = self.terminal.as_ref().map_or_else(|| self.input.as_fd(), File::as_fd);
        Streams { input, output: self.output.as_fd(), error: self.error.as_fd() }
    }

    /// Standard output is for the result: what a shell says goes to standard error.
    fn without_output(&self) -> Streams<'_> {
        Streams { output: self.error.as_fd(), ..self.streams() }
    }
}

impl BreakArguments {
    /// Whether a shell may be opened, which wants the terminal for itself.
    pub(crate) const fn any(&self) -> bool {
        self.before.is_some() || self.after_failure
    }

    /// The shells that are wanted; a usage error if there is no such stage.
    pub(crate) fn shells<'a>(
        &self,
        manifest: &Manifest,
        standard: &'a Standard,
    ) -> CliResult<Option<Shells<'a>>> {
        if let Some(wanted) = &self.before
            && !matches_any(manifest, wanted)
        {
            let names = manifest.pipelines.values().flat_map(|pipeline| &pipeline.stages);
            let hint = did_you_mean(wanted, names.map(|stage| stage.name.as_str()));
            let error = CliError::new(Kind::Usage, format!("no stage has the name or id `{wanted}`"));
            return Err(error.hint(hint.unwrap_or_else(|| "`kiln inspect` prints all stages".to_owned())));
        }
        Ok(shells(self.before.as_deref(), self.after_failure, standard.without_output()))
    }
}

/// Whether any stage of a manifest is one to break before.
pub(crate) fn matches_any(manifest: &Manifest, wanted: &str) -> bool {
    let is_wanted = |stage: &Stage| stage.name == wanted || stage.id.as_str() == wanted;
    wanted == "*" || manifest.pipelines.values().flat_map(|pipeline| &pipeline.stages).any(is_wanted)
}

/// The shells of a build; none if none is wanted.
pub(crate) fn shells<'a>(
    before: Option<&str>,
    after_failure: bool,
    streams: Streams<'a>,
) -> Option<Shells<'a>> {
    let wanted = before.is_some() || after_failure;
    wanted.then(|| Shells { before: before.map(Break::of), after_failure, instead: None, streams })
}

/// Says on standard error that there is a shell now, and how to go on.
pub(crate) fn announce(event: &Event<'_>) {
    let Event::ShellStarted { pipeline, stage, moment, .. } = event else { return };
    let what = match moment {
        ShellMoment::Before => {
            format!("before `{stage}` runs; `exit` lets it run, `exit 1` stops the build")
        }
        ShellMoment::AfterFailure => format!("after `{stage}` failed; `exit` ends the build"),
        ShellMoment::Instead => "what is done here is thrown away".to_owned(),
    };
    say(format_args!("{pipeline}: a shell in the build root, with the tree in /run/osbuild/tree: {what}"));
}

/// The arguments of `kiln shell`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln shell manifest.json tree               the finished tree of a pipeline\n  kiln shell manifest.json image:3            what the third stage of a pipeline sees\n  kiln shell manifest.json mkfs.ext4          the same, by the stage's name\n  echo 'ls /run/osbuild/tree' | kiln shell manifest.json tree\n\nExit codes: that of the shell; if none was opened, those of other commands."
)]
pub(crate) struct Arguments {
    /// The manifest or definition, or `-` for standard input
    manifest: PathBuf,
    /// A pipeline: its finished tree. A stage, by name, id or `PIPELINE:NUMBER`: its inputs, devices and mounts, and
    /// the tree as it is before it
    place: String,
    #[command(flatten)]
    cache: CacheArguments,
    #[command(flatten)]
    library: LibraryArguments,
}

/// What the cache holds, but for what the shell stands for.
struct Except<'a> {
    view: StoreView<'a>,
    id: &'a Id,
}

impl Cached for Except<'_> {
    fn object(&self, id: &Id, recipe: &str) -> bool {
        id != self.id && self.view.object(id, recipe)
    }

    fn item(&self, source: &str, checksum: &str) -> bool {
        self.view.item(source, checksum)
    }
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    session::require_root("`kiln shell`")?;
    // Before any thread: the namespace is the calling thread's.
    let program = session::enter_private_namespace()?;
    let interrupted =
        signals::interrupted().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let presenter = Presenter::new(ProgressMode::Plain, false);
    let input = Input::read(&arguments.manifest)?;
    let resolving = Resolving {
        state: arguments.cache.cache.join("apt"),
        refresh: false,
        note: &|line| presenter.note(line),
        interrupted: &interrupted,
    };
    let index = arguments.library.index()?;
    let mut manifest = input.ready(&resolving, &index)?.manifest;
    let place = find(&manifest, &arguments.place)?;
    let no_place = || CliError::new(Kind::Usage, format!("there is no `{}`", arguments.place));
    let id = place.cut(&mut manifest).ok_or_else(no_place)?;
    assign_recipes(&mut manifest, &index);
    let store = session::open_store(&arguments.cache.cache, session::durability(None)?, &interrupted)?;
    set_limit(&store, None)?;
    // Before it is looked for what there is: from now on nothing of it is evicted.
    let session =
        store.cache().begin_session().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let request = Request { builds: vec![place.pipeline.clone()], ..Request::default() };
    let view = Except { view: StoreView { store: &store, modules: &MODULES }, id: &id };
    let plan = plan(&manifest, &MODULES, &request, &view).map_err(|error| plan_error(&error))?;
    protect(&session, store.cache(), &plan)?;
    // The next shell at this place begins at once.
    let before = manifest.pipelines.get(&place.pipeline).and_then(|pipeline| pipeline.stages.last());
    let kept: Vec<String> =
        before.and_then(|stage| stage.base.as_ref()).map(Id::to_string).into_iter().collect();
    let mut checkpoints = Checkpoints::matching(&manifest, &kept);
    checkpoints.pipelines = true;
    let environment = settings::source_environment();
    let terminal = settings::terminal();
    let host_runner = runner::request_of(Path::new("/"));
    let standard = Standard::beside(&arguments.manifest);
    let shells =
        Shells { before: None, after_failure: false, instead: Some(id.clone()), streams: standard.streams() };
    let context = Context {
        index: &index,
        store: &store,
        program: &program,
        rundir: Path::new(settings::RUNDIR),
        environment: &environment,
        terminal: &terminal,
        host_runner: &host_runner,
        jobs: build::JOBS,
        downloads: None,
        stage_timeout: None,
        checkpoints: &checkpoints,
        output_directory: None,
        keep_owners: settings::keep_owners(),
        shells: Some(&shells),
        guests: None,
        interrupted: &interrupted,
    };
    let outcome = carry_out(&context, &manifest, &plan, &|event: Event<'_>| {
        announce(&event);
        // The stage does not begin.
        let instead = matches!(&event, Event::StageStarted { id: stage, .. } if **stage == id);
        if !instead {
            presenter.event(&event);
        }
    });
    match outcome {
        Err(RunError::ShellEnded(ended)) => Ok(exit_code(ended)),
        Err(error) => Err(build::run_error(&error)),
        Ok(outcome) => Err(present::failure(&outcome)),
    }
}

fn exit_code(ended: Ended) -> ExitCode {
    let code = match ended {
        Ended::Exited(code) => u8::try_from(code).unwrap_or(u8::MAX),
        Ended::Signalled(signal) => SIGNALLED.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX)),
        Ended::TimedOut | Ended::Interrupted => Kind::Interrupted as u8,
    };
    ExitCode::from(code)
}

/// Finds the place that a text names: a pipeline, a stage's id, `PIPELINE:NUMBER`, or a stage's name.
fn find(manifest: &Manifest, text: &str) -> CliResult<ShellPlace> {
    if manifest.pipelines.contains_key(text) {
        return Ok(ShellPlace { pipeline: text.to_owned(), stage: None });
    }
    let stages = || {
        manifest.pipelines.values().flat_map(|pipeline| {
            pipeline.stages.iter().enumerate().map(move |(index, stage)| (pipeline, index, stage))
        })
    };
    let full = if text.contains("org.") { text.to_owned() } else { format!("org.osbuild.{text}") };
    let named = |stage: &Stage| stage.name == full;
    let found: Vec<ShellPlace> = stages()
        .filter(|(pipeline, index, stage)| {
            stage.id.as_str() == text || named(stage) || format!("{}:{}", pipeline.name, index + 1) == text
        })
        .map(|(pipeline, index, _)| ShellPlace { pipeline: pipeline.name.clone(), stage: Some(index) })
        .collect();
    match found.as_slice() {
        [place] => Ok(place.clone()),
        [] => {
            let known = manifest.pipelines.keys().map(String::as_str);
            let known = known.chain(stages().map(|(_, _, stage)| stage.name.as_str()));
            let hint = did_you_mean(text, known);
            Err(CliError::new(Kind::Usage, format!("the manifest has no pipeline or stage `{text}`"))
                .hint(hint.unwrap_or_else(|| "`kiln inspect` prints all pipelines and stages".to_owned())))
        }
        several => {
            let places: Vec<String> = several
                .iter()
                .map(|place| format!("`{}:{}`", place.pipeline, place.stage.unwrap_or_default() + 1))
                .collect();
            Err(CliError::new(Kind::Usage, format!("the manifest has {} stages `{text}`", several.len()))
                .hint(format!("say which one: {}", places.join(", "))))
        }
    }
}
