//! One of the two programs, its directories, and what came of running it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::error::{CliError, CliResult, Kind};

/// How often is looked whether a program has ended, and how far it is.
const LOOK: Duration = Duration::from_millis(50);

/// A program, and where it works.
pub(super) struct Side {
    pub(super) name: &'static str,
    program: OsString,
    /// The arguments before all others.
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    directory: PathBuf,
}

/// What came of running a program.
pub(super) struct Ended {
    /// The exit code, or 128 and a signal's number, as shells have it.
    pub(super) code: i32,
    /// What `--inspect` printed.
    pub(super) description: Value,
    /// What `--json` printed.
    pub(super) result: Value,
    /// The monitor's records.
    pub(super) records: Vec<Value>,
    /// How long the build took.
    pub(super) duration: Duration,
}

impl Side {
    pub(super) fn kiln(program: &Path, arguments: Vec<OsString>, work: &Path) -> Self {
        let program = program.as_os_str().to_owned();
        Self { name: "kiln", program, arguments, environment: Vec::new(), directory: work.join("kiln") }
    }

    pub(super) fn reference(checkout: &Path, library: &Path, work: &Path) -> Self {
        let arguments =
            ["-m".into(), "osbuild".into(), "--libdir".into(), library.as_os_str().to_owned()].to_vec();
        let environment = vec![("PYTHONPATH", checkout.as_os_str().to_owned())];
        let directory = work.join("reference");
        Self { name: "the reference", program: "python3".into(), arguments, environment, directory }
    }

    /// Where an export is.
    pub(super) fn export(&self, name: &str) -> PathBuf {
        self.directory.join("output").join(name)
    }

    /// Where what a stage has left is kept: its tree and its metadata.
    pub(super) fn kept(&self, id: &str) -> PathBuf {
        self.directory.join("cache/objects").join(id).join("data")
    }

    fn failed(&self, what: &str) -> impl Fn(io::Error) -> CliError {
        let message = format!("cannot {what} {}", self.name);
        move |error| CliError::new(Kind::Environment, format!("{message}: {error}"))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Kiln is the reference's command line by that name; the name says nothing to Python.
        command.arg0("osbuild").args(&self.arguments).stdin(Stdio::null()).stderr(Stdio::inherit());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Inspects the manifest, and builds it with every stage kept.
    pub(super) fn run(
        &self,
        manifest: &Path,
        exports: &[String],
        interrupted: &AtomicBool,
    ) -> CliResult<Ended> {
        fs::create_dir_all(&self.directory).map_err(self.failed("make the directory of"))?;
        let inspected = self.command().arg("--inspect").arg(manifest).output().map_err(self.failed("run"))?;
        let made = self.failed("make the files of");
        let created = |name: &str| {
            File::options().read(true).write(true).create(true).truncate(true).open(self.directory.join(name))
        };
        let mut records = created("records").map_err(&made)?;
        let mut result = created("result.json").map_err(&made)?;
        let mut command = self.command();
        let monitor = OwnedFd::from(records.try_clone().map_err(&made)?);
        let number = kiln_sys::inherited::pass(&mut command, monitor);
        command.arg("--cache").arg(self.directory.join("cache"));
        command.args(["--cache-max-size", "unlimited", "--checkpoint", "*", "--json"]);
        command.args(["--monitor", "JSONSeqMonitor", "--monitor-fd", &number.to_string()]);
        command.arg("--output-directory").arg(self.directory.join("output"));
        command.args(exports.iter().flat_map(|export| ["--export", export]));
        command.arg(manifest).stdout(result.try_clone().map_err(&made)?);
        let start = Instant::now();
        let status = self.wait(command, &self.directory.join("records"), interrupted)?;
        let duration = start.elapsed();
        let read = self.failed("read what was written by");
        let text = all_of(&mut records).map_err(&read)?;
        let texts = text.split(|byte| *byte == 0x1e).filter(|text| !text.trim_ascii().is_empty());
        Ok(Ended {
            code: code(status),
            description: self.json_of(&inspected.stdout),
            result: self.json_of(&all_of(&mut result).map_err(&read)?),
            records: texts.map(|text| self.json_of(text)).collect(),
            duration,
        })
    }

    /// What was written, without where it was done. What is not JSON is compared as text.
    fn json_of(&self, bytes: &[u8]) -> Value {
        let text = String::from_utf8_lossy(bytes).replace(&*self.directory.to_string_lossy(), "");
        serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text))
    }

    /// Runs the build in a process group of its own: an interruption reaches it once, from here.
    fn wait(&self, mut command: Command, records: &Path, interrupted: &AtomicBool) -> CliResult<ExitStatus> {
        let mut child = command.process_group(0).spawn().map_err(self.failed("start"))?;
        let bar = ProgressBar::new_spinner();
        let mut records = File::open(records).map_err(self.failed("read the records of"))?;
        let mut told = false;
        loop {
            if let Some(status) = child.try_wait().map_err(self.failed("wait for"))? {
                bar.finish_and_clear();
                return Ok(status);
            }
            if !told && interrupted.load(Ordering::Relaxed) {
                told = true;
                if let Some(process) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                    // One that has ended just now is waited for above.
                    let _ = rustix::process::kill_process(process, Signal::INT);
                }
            }
            if let Some(message) = last_message(&mut records) {
                bar.set_message(format!("{}: {message}", self.name));
            }
            bar.tick();
            std::thread::sleep(LOOK);
        }
    }
}

/// What a program has said last, if it has said something since it was asked last.
fn last_message(records: &mut File) -> Option<String> {
    let mut text = Vec::new();
    records.read_to_end(&mut text).ok()?;
    let record = text.split(|byte| *byte == 0x1e).rev().find_map(|text| {
        serde_json::from_slice::<Value>(text).ok()?.get("message")?.as_str().map(str::to_owned)
    })?;
    record.lines().next().map(|line| line.trim().chars().take(100).collect())
}

fn all_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut content)?;
    Ok(content)
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
