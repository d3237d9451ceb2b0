//! One stage: the host's side is opened, the build root planned and carried out, the result collected.

use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_api::module::Kind;
use kiln_sandbox::{BuildRoot, Ended, PROC_CMDLINE, Program, StageRoot};

use super::directories::Directories;
use super::exception::Exceptions;
use super::host_side::{Host, HostSide, uses_programs};
use super::output::Decoder;
use super::remote_loop::LoopServer;
use super::workplace::Workplace;
use super::{ASSEMBLER, BuildTree, RunError};
use crate::event::{Event, Events, StageResult};
use crate::host::{Log, Pump};
use crate::index::{ChosenRunner, Library, Origin};
use crate::manifest::json::{Json, Object};
use crate::manifest::{Pipeline, Stage};

/// How much is read from a stage at once.
const CHUNK: usize = 32 * 1024;

/// How the reason of a failure ends when there was no room left.
pub const FULL: &str = "the file system of the cache is full";

/// With less room than this, in bytes, a failure is most likely due to that: tools say it in many ways, or not
/// at all.
const LEAST_ROOM: u64 = 64 * 1024;

/// What a stage is run with, beside itself.
pub(super) struct StageRun<'a> {
    pub(super) workplace: Workplace<'a>,
    pub(super) pipeline: &'a Pipeline,
    pub(super) build: &'a BuildTree,
    /// The chosen runner.
    pub(super) runner: &'a ChosenRunner,
    /// What the runner has prepared.
    pub(super) prepared: Option<&'a Path>,
    /// The tree that is changed.
    pub(super) tree: &'a Path,
    /// Where metadata goes.
    pub(super) metadata: &'a Path,
    pub(super) events: Events<'a>,
}

impl StageRun<'_> {
    /// Runs the stage. That it fails is a result, not an error.
    pub(super) fn run(&self, stage: &Stage) -> Result<StageResult, RunError> {
        if uses_programs(stage, self.workplace.index) {
            return Pump::new().during(self.events, |log| self.run_with(stage, log));
        }
        self.run_with(stage, &Log::nowhere())
    }

    fn run_with(&self, stage: &Stage, log: &Log) -> Result<StageResult, RunError> {
        let mut start = Instant::now();
        let workplace = self.workplace;
        let directories = Directories::create(workplace.trees, workplace.rundir)?;
        let exceptions = Exceptions::listen(&directories.exceptions)
            .map_err(RunError::io("listen on", &directories.exceptions))?;
        let loops = self.loop_server(stage, &directories)?;
        let mut result = StageResult {
            id: stage.id.clone(),
            name: stage.name.clone(),
            success: false,
            output: String::new(),
            error: None,
            reason: None,
            metadata: None,
            duration: Duration::ZERO,
        };
        let mut host_side = HostSide::default();
        let host = Host { index: workplace.index, log, interrupted: workplace.interrupted };
        let ended = match host_side.open(stage, host, workplace.trees, self.tree, &directories) {
            Ok(told) => {
                self.write_arguments(stage, told, &directories.arguments)?;
                if self.shell_before(stage, &directories, &exceptions)? {
                    start = Instant::now();
                }
                let (ended, output) = self.carry_out(stage, &directories, &exceptions)?;
                result.output = output;
                result.error = exceptions.take();
                if ended == Ended::Interrupted {
                    return Err(RunError::Interrupted);
                }
                let reason = self.reason(ended);
                if reason.is_some() {
                    result.duration = start.elapsed();
                    self.shell_after_failure(stage, &directories, &exceptions)?;
                }
                reason
            }
            Err(error) => Some(crate::chain(&error)),
        };
        // The stage's own devices may lie on those that it was given.
        let unlooped = loops.map_or(Ok(()), LoopServer::close).err().map(|error| crate::chain(&error));
        // Data that could not be written back is a failure of the stage even if its program succeeded.
        let closed = host_side.close().err().map(|error| crate::chain(&error));
        let closed = unlooped.or(closed);
        for reason in ended.iter().chain(&closed) {
            if !self.exited(reason) {
                let open = !result.output.is_empty() && !result.output.ends_with('\n');
                let line = format!("{}{reason}\n", if open { "\n" } else { "" });
                (self.events)(Event::Output {
                    pipeline: &self.pipeline.name,
                    stage: &stage.name,
                    text: &line,
                });
                result.output.push_str(&line);
            }
        }
        result.reason =
            ended.or(closed).map(|reason| if self.is_full() { format!("{reason}; {FULL}") } else { reason });
        result.success = result.reason.is_none();
        if result.duration.is_zero() {
            result.duration = start.elapsed();
        }
        Ok(result)
    }

    /// The endpoint for loop devices, which native stages do not need.
    fn loop_server(&self, stage: &Stage, directories: &Directories) -> Result<Option<LoopServer>, RunError> {
        let kind = if stage.assembler { Kind::Assembler } else { Kind::Stage };
        let external = matches!(self.workplace.index.origin(kind, &stage.name), Some(Origin::Library(_)));
        let Some(loops) = self.workplace.index.loops().filter(|_| external) else { return Ok(None) };
        let path = &directories.remote_loop;
        LoopServer::start(path, loops).map(Some).map_err(RunError::io("listen on", path))
    }

    /// Whether a reason is only an exit status, which needs no line in the output.
    fn exited(&self, reason: &str) -> bool {
        reason.starts_with("exit status")
    }

    fn is_full(&self) -> bool {
        rustix::fs::statvfs(self.tree)
            .is_ok_and(|volume| volume.f_bavail.saturating_mul(volume.f_frsize) < LEAST_ROOM)
    }

    fn reason(&self, ended: Ended) -> Option<String> {
        match ended {
            Ended::Exited(0) => None,
            Ended::Exited(code) => Some(format!("exit status {code}")),
            Ended::Signalled(signal) => Some(format!("the stage was killed by signal {signal}")),
            Ended::TimedOut => {
                let limit = self.workplace.stage_timeout.unwrap_or_default().as_secs();
                Some(format!("the stage was stopped: it ran longer than {limit} s"))
            }
            Ended::Interrupted => Some("interrupted".to_owned()),
        }
    }

    /// The stage's build root.
    pub(super) fn plan(
        &self,
        stage: &Stage,
        directories: &Directories,
        exceptions: &Exceptions,
    ) -> BuildRoot {
        let workplace = self.workplace;
        let epoch = self.pipeline.source_epoch.map(|epoch| epoch.to_string());
        let mut environment: Vec<(&str, &str)> =
            epoch.iter().map(|epoch| ("SOURCE_DATE_EPOCH", epoch.as_str())).collect();
        // A stage in a prepared build root is executed without the runner.
        if let (Origin::Native, Some(runner)) =
            (&self.runner.origin, workplace.index.modules().runner(&self.runner.name))
        {
            environment.extend(runner.environment);
        }
        let kind = if stage.assembler { Kind::Assembler } else { Kind::Stage };
        let origin = workplace.index.origin(kind, &stage.name).unwrap_or(Origin::Native);
        let description = workplace.index.describe(kind, &stage.name).ok();
        let capabilities: Vec<&str> = description
            .iter()
            .flat_map(|description| description.capabilities.iter().map(String::as_str))
            .collect();
        let program = |origin: &'_ Origin| match origin {
            Origin::Native => workplace.program.to_owned(),
            // A module may be a link to another one.
            Origin::Library(path) => path.canonicalize().unwrap_or_else(|_| path.clone()),
        };
        let (runner, module) = (program(&self.runner.origin), program(&origin));
        let external = [&self.runner.origin, &origin].into_iter().any(|origin| *origin != Origin::Native);
        let library = workplace.index.library().filter(|_| external);
        let mut sockets = vec![(exceptions.path.clone(), "osbuild")];
        if directories.remote_loop.exists() {
            sockets.push((directories.remote_loop.clone(), "remoteloop"));
        }
        StageRoot {
            root: self.build.path(),
            boot: self.build.is_object(),
            dev: &directories.dev,
            var: &directories.var,
            proc_cmdline: PROC_CMDLINE,
            library: library.map(Library::directory),
            package: library.and_then(Library::package_elsewhere),
            runner: Program { path: &runner, name: &self.runner.name },
            module: Program { path: &module, name: &stage.name },
            // An assembler may have the name of a stage.
            words: if stage.assembler && matches!(origin, Origin::Native) { &[ASSEMBLER] } else { &[] },
            tree: self.tree,
            meta: self.metadata,
            inputs: &directories.inputs,
            mounts: &directories.mounts,
            arguments: &directories.arguments,
            sockets: &sockets,
            environment: &environment,
            capabilities: &capabilities,
            terminal: workplace.terminal,
            prepared: self.prepared,
        }
        .plan()
    }

    fn carry_out(
        &self,
        stage: &Stage,
        directories: &Directories,
        exceptions: &Exceptions,
    ) -> Result<(Ended, String), RunError> {
        let workplace = self.workplace;
        let plan = self.plan(stage, directories, exceptions);
        let (reader, writer) = std::io::pipe().map_err(RunError::Pipe)?;
        let deadline = workplace.stage_timeout.map(|limit| Instant::now() + limit);
        let running = kiln_sandbox::start(&plan, workplace.program, writer.as_fd())?;
        drop(writer);
        std::thread::scope(|scope| {
            let output = scope.spawn(|| self.collect(stage, reader));
            let ended = running.wait(deadline, workplace.interrupted)?;
            Ok((ended, output.join().unwrap_or_default()))
        })
    }

    fn collect(&self, stage: &Stage, mut reader: PipeReader) -> String {
        let (mut decoder, mut all) = (Decoder::default(), String::new());
        let mut buffer = vec![0; CHUNK];
        let mut emit = |text: String| {
            if !text.is_empty() {
                (self.events)(Event::Output {
                    pipeline: &self.pipeline.name,
                    stage: &stage.name,
                    text: &text,
                });
                all.push_str(&text);
            }
        };
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => emit(decoder.push(buffer.get(..count).unwrap_or_default())),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        emit(decoder.finish());
        all
    }

    fn write_arguments(&self, stage: &Stage, told: Object, path: &Path) -> Result<(), RunError> {
        let object = |members: Vec<(&str, Json)>| {
            Json::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
        };
        let mut meta = vec![("id", Json::from(stage.id.as_str()))];
        meta.extend(self.pipeline.source_epoch.map(|epoch| ("source-epoch", Json::Integer(epoch))));
        let mut arguments = Object::new();
        arguments.insert("tree".to_owned(), Json::from("/run/osbuild/tree"));
        let paths = object(vec![
            ("devices", Json::from("/dev")),
            ("inputs", Json::from("/run/osbuild/inputs")),
            ("mounts", Json::from("/run/osbuild/mounts")),
        ]);
        arguments.insert("paths".to_owned(), paths);
        arguments.extend(told);
        arguments.insert("options".to_owned(), Json::Object(stage.options.clone()));
        arguments.insert("meta".to_owned(), object(meta));
        std::fs::write(path, Json::Object(arguments).to_string()).map_err(RunError::io("write", path))
    }
}
