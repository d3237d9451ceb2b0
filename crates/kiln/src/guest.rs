//! Kiln in a virtual machine: its first process, its task, and what loads modules; and, on the host, `kiln guest-run`.
//!
//! `kiln guest-run PROGRAM ARGUMENT…` (hidden) runs a program of the host in a guest that sees the host's files, with this environment and
//! working directory. What it writes to them stays in the guest. `cargo xtask guest-test` runs tests so.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::AtomicBool;

use kiln_sandbox::guest::{Guest, GuestError, GuestPlan, Kernel, PROGRAM, Task};
use serde_json::{Value, json};

use crate::error::{CliError, CliResult, Kind, chain};
use crate::present::say;
use crate::{settings, signals, vm};

/// The first argument of a run in a guest.
pub(crate) const GUEST_RUN: &str = "guest-run";

/// The member of a task that is a program to run.
const RUN: &str = "run";
/// The exit code of a program that a signal ended: this and the signal's number.
const SIGNALLED: i32 = 128;
/// The exit code of a program that could not be started.
const NOT_STARTED: i32 = 127;

/// Runs as a guest's first process.
pub(crate) fn boot() -> ExitCode {
    kiln_sandbox::guest::boot();
    // Powered off, unless this is no guest.
    ExitCode::FAILURE
}

/// Loads modules for a guest's kernel.
pub(crate) fn load(arguments: &[OsString]) -> ExitCode {
    match kiln_sandbox::guest::load_for_kernel(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // The kernel tells whoever needs the module.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Does what a guest was started for.
pub(crate) fn task() -> ExitCode {
    let done = || -> io::Result<()> {
        let mut task = Task::take()?;
        if let Some(program) = task.told.get(RUN).cloned() {
            return run_in_guest(&task, &program);
        }
        let wrong = match kiln_engine::run::serve(&mut task, Path::new(PROGRAM), vm::index) {
            Ok(true) => return Ok(()),
            Ok(false) => "the task is not known".to_owned(),
            Err(error) => chain(&error),
        };
        task.send(&json!({"failed": wrong}))?;
        // Ends with the machine.
        task.receive().map(|_| ())
    };
    match done() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(error);
            ExitCode::FAILURE
        }
    }
}

fn run_in_guest(task: &Task, program: &Value) -> io::Result<()> {
    let words: Vec<String> = serde_json::from_value(program["words"].clone())?;
    let directory: String = serde_json::from_value(program["directory"].clone())?;
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(words.first().map_or("", String::as_str));
    command
        .args(words.get(1..).unwrap_or_default())
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let code = match command.spawn() {
        Ok(mut child) => {
            // The command holds the pipe's other end; while it does, the end is never seen.
            drop(command);
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 {
                task.send(&json!({"output": String::from_utf8_lossy(&line)}))?;
                line.clear();
            }
            let status = child.wait()?;
            use std::os::unix::process::ExitStatusExt as _;
            status.code().or(status.signal().map(|signal| SIGNALLED + signal)).unwrap_or(NOT_STARTED)
        }
        Err(error) => {
            let name = words.first().map_or("", String::as_str);
            task.send(&json!({"output": format!("cannot start `{name}`: {error}\n")}))?;
            NOT_STARTED
        }
    };
    task.send(&json!({"exit": code}))
}

/// `kiln guest-run`
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    match run_words(arguments) {
        Ok(code) => code,
        Err(error) => {
            say(error.render());
            error.kind.code()
        }
    }
}

fn run_words(arguments: &[OsString]) -> CliResult<ExitCode> {
    let environment_error = |error: &dyn std::error::Error| CliError::from_error(Kind::Environment, error);
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    if words.is_empty() {
        return Err(CliError::new(Kind::Usage, "`kiln guest-run` needs a program to run"));
    }
    let directory = std::env::current_dir().map_err(|error| environment_error(&error))?;
    let interrupted = signals::interrupted().map_err(|error| environment_error(&error))?;
    let machine = vm::VmArguments::default().machine()?;
    let system = machine.kernels.as_deref().unwrap_or(Path::new("/"));
    let kernel = Kernel::find(&[system]).map_err(|error| guest_error(&error))?;
    let environment: BTreeMap<String, String> = settings::source_environment();
    let plan = GuestPlan {
        kernel: &kernel,
        hardware: machine.hardware,
        program: &settings::program().map_err(|error| environment_error(&error))?,
        shares: Vec::new(),
        environment,
        task: json!({ RUN: {"words": words, "directory": directory.display().to_string()} }),
    };
    let code = follow(&plan, &interrupted).map_err(|error| guest_error(&error))?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn follow(plan: &GuestPlan<'_>, interrupted: &AtomicBool) -> Result<i64, GuestError> {
    let mut guest = Guest::start(plan, interrupted)?;
    loop {
        let message = guest.receive(interrupted)?;
        if let Some(text) = message.get("output").and_then(Value::as_str) {
            // A reader that has gone is not an error.
            let _ = io::stdout().write_all(text.as_bytes());
        }
        if let Some(code) = message.get("exit").and_then(Value::as_i64) {
            return Ok(code);
        }
    }
}

/// The error for a guest that there is not.
pub(crate) fn guest_error(error: &GuestError) -> CliError {
    if let GuestError::Interrupted = error {
        return CliError::new(Kind::Interrupted, "interrupted");
    }
    let shown = CliError::new(Kind::Environment, chain(error));
    match error.hint() {
        Some(hint) => shown.hint(hint),
        None => shown,
    }
}
