//! The first process of a sandbox: sets the build root up, starts the program, reaps, and reports.
//!
//! It is a program of its own, executed by [`start`](crate::start), and single-threaded. Its own standard
//! output is the module's: it never writes to it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::SandboxError;
use crate::build_root::BuildRoot;
use crate::capability;
use crate::carry_out::NewRoot;
use crate::report::Report;

/// The first argument with which Kiln is executed to become a sandbox's first process.
pub const SANDBOX_INIT: &str = "sandbox-init";

/// New files and directories get the usual permissions, whatever Kiln was started with.
const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// An operation that failed, as a phrase for `cannot …`, and why.
type Failure = (String, io::Error);

/// The descriptors that the helper is started with, by their numbers in its arguments.
struct Pipes {
    plan: OwnedFd,
    report: OwnedFd,
    lifeline: OwnedFd,
}

/// Runs as the first process of a sandbox and returns the exit code to end with.
///
/// `arguments` are those of the process, from the program's own name on: `kiln sandbox-init PLAN REPORT
/// LIFELINE`, where the last three are numbers of inherited descriptors. To be called before anything else
/// in `main` when the first argument is [`SANDBOX_INIT`].
pub fn init_main(arguments: &[OsString]) -> i32 {
    // Called by hand there is nobody to report to.
    let Ok(pipes) = inherited(arguments) else { return 2 };
    let report = match set_up_and_start(pipes.plan) {
        Ok(program) => wait_for(program, &pipes.lifeline),
        Err((operation, error)) => Some(Report::failed(operation, &error)),
    };
    // Best effort: if Kiln is gone nobody wants to know.
    if let Some(report) = report
        && let Ok(text) = serde_json::to_vec(&report)
    {
        let _ = File::from(pipes.report).write_all(&text);
    }
    0
}

fn inherited(arguments: &[OsString]) -> io::Result<Pipes> {
    let descriptor = |index: usize| {
        let number =
            arguments.get(index).and_then(|number| number.to_str()).and_then(|text| text.parse().ok());
        kiln_sys::process::inherited_descriptor(number.unwrap_or(-1))
    };
    Ok(Pipes { plan: descriptor(2)?, report: descriptor(3)?, lifeline: descriptor(4)? })
}

fn set_up_and_start(plan: OwnedFd) -> Result<Pid, Failure> {
    let plan = read_plan(plan).map_err(during("read the plan"))?;
    let kept = capability::parse(plan.capabilities.iter().map(String::as_str))
        .map_err(|error| (error.to_string(), io::Error::from(io::ErrorKind::InvalidInput)))?;
    kiln_sys::process::close_others_on_exec().map_err(during("close inherited descriptors"))?;
    if plan.terminal {
        take_terminal().map_err(during("take the terminal"))?;
    } else {
        rustix::process::setsid().map_err(|error| during("start a new session")(error.into()))?;
    }
    kiln_sys::namespace::loopback_up().map_err(during("bring up the loopback interface"))?;
    // While the plan is carried out modes are exact.
    rustix::process::umask(Mode::empty());
    let root = NewRoot::mount(&plan.root).map_err(during("mount the new root"))?;
    for operation in &plan.operations {
        root.apply(operation).map_err(|error| (operation.action(), error))?;
    }
    root.enter().map_err(during("enter the new root"))?;
    rustix::process::umask(UMASK);
    capability::keep_only(kept).map_err(|error| during("drop capabilities")(error.into()))?;
    let program = execute(&plan)?;
    // As under bubblewrap: the first process has nothing left to do that needs a capability.
    capability::drop_all().map_err(|error| during("drop capabilities")(error.into()))?;
    Ok(program)
}

/// Becomes the process group that reads from the terminal: what is typed there is for the program, and so is Ctrl-C.
fn take_terminal() -> io::Result<()> {
    rustix::process::setpgid(None, None)?;
    kiln_sys::terminal::set_foreground(io::stdin().as_fd(), rustix::process::getpid())
}

fn during(operation: &str) -> impl FnOnce(io::Error) -> Failure {
    let operation = operation.to_owned();
    move |error| (operation, error)
}

fn read_plan(plan: OwnedFd) -> io::Result<BuildRoot> {
    let mut text = Vec::new();
    File::from(plan).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn execute(plan: &BuildRoot) -> Result<Pid, Failure> {
    let (program, arguments) = plan
        .arguments
        .split_first()
        .ok_or_else(|| ("run an empty command".to_owned(), io::Error::from(io::ErrorKind::InvalidInput)))?;
    let mut command = Command::new(program);
    kiln_sys::process::with_default_signals(&mut command);
    let child = command
        .args(arguments)
        .env_clear()
        .envs(plan.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| (format!("execute `{program}`"), error))?;
    // Process ids fit: the kernel's are positive `int`s.
    Pid::from_raw(child.id().cast_signed())
        .ok_or_else(|| during("start the program")(io::ErrorKind::Other.into()))
}

/// Reaps until the program has ended, or Kiln has: then there is nothing to report.
fn wait_for(program: Pid, lifeline: &OwnedFd) -> Option<Report> {
    let children = match kiln_sys::process::child_signal() {
        Ok(children) => children,
        Err(error) => return Some(Report::failed("watch the program", &error)),
    };
    loop {
        // Only then poll: a child that ends from here on makes `children` readable.
        if let Some(report) = reap(program) {
            return Some(report);
        }
        let mut descriptors =
            [PollFd::new(&children, PollFlags::IN), PollFd::new(lifeline, PollFlags::empty())];
        // Fails only when interrupted.
        let _ = poll(&mut descriptors, None);
        let [_, lifeline] = &descriptors;
        if !lifeline.revents().is_empty() {
            return None;
        }
        let _ = rustix::io::read(&children, &mut [0u8; 128]);
    }
}

fn reap(program: Pid) -> Option<Report> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == program => return Some(ended(status)),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

fn ended(status: WaitStatus) -> Report {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Report::Exited(code),
        (None, Some(signal)) => Report::Signalled(signal),
        // Not asked for stopped children.
        (None, None) => Report::Exited(0),
    }
}

impl From<SandboxError> for io::Error {
    fn from(error: SandboxError) -> Self {
        io::Error::other(error)
    }
}
