//! Starting a sandbox and waiting for it.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_sys::process::{Child, Namespaces, Spawn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use crate::build_root::BuildRoot;
use crate::init::SANDBOX_INIT;
use crate::report::Report;
use crate::{SandboxError, capability};

/// How soon an interruption is noticed at the latest: it is a flag, which nothing can wait for.
const INTERRUPTION: Duration = Duration::from_millis(50);

/// What a build root does not share with Kiln. The host name is not among what osbuild separates; a stage
/// that sets it must not set the host's.
const NAMESPACES: Namespaces = Namespaces { mount: true, pid: true, ipc: true, network: true, uts: true };

/// How a sandbox's program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It ended with an exit code.
    Exited(i32),
    /// A signal ended it.
    Signalled(i32),
    /// It was still running at the deadline and has been killed.
    TimedOut,
    /// It was running when the run was interrupted and has been killed.
    Interrupted,
}

/// A running sandbox. Dropping it kills all of its processes and waits until they are gone.
#[derive(Debug)]
pub struct Running {
    child: Child,
    report: PipeReader,
    /// Held, not used: the sandbox ends when it closes.
    _lifeline: PipeWriter,
    /// Given back when everything in the sandbox has ended.
    _terminal: Option<Terminal>,
    reaped: bool,
}

/// The standard streams of a sandbox's program.
#[derive(Clone, Copy, Debug)]
pub struct Streams<'a> {
    /// Standard input.
    pub input: BorrowedFd<'a>,
    /// Standard output.
    pub output: BorrowedFd<'a>,
    /// Standard error.
    pub error: BorrowedFd<'a>,
}

impl Streams<'_> {
    /// Whether the input is the terminal that Kiln itself may read from.
    pub fn have_terminal(&self) -> bool {
        kiln_sys::terminal::is_in_foreground(self.input)
    }
}

/// The terminal that a sandbox's program reads from, and who did before.
#[derive(Debug)]
struct Terminal {
    descriptor: OwnedFd,
    group: Pid,
}

impl Terminal {
    fn lend(input: BorrowedFd<'_>) -> io::Result<Self> {
        let group = kiln_sys::terminal::foreground(input).ok_or(Errno::NOTTY)?;
        Ok(Self { descriptor: rustix::io::fcntl_dupfd_cloexec(input, 3)?, group })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that has been closed meanwhile is nobody's.
        let _ = kiln_sys::terminal::set_foreground(self.descriptor.as_fd(), self.group);
    }
}

/// Starts the program of a build root in its sandbox.
///
/// `helper` is a program that calls [`init_main`](crate::init_main), normally `/proc/self/exe`. Standard output
/// and standard error of the program go to `output`; a caller that reads the other end of a pipe closes its own
/// copy of this one to see the end. That the setup failed is reported by [`Running::wait`].
pub fn start(plan: &BuildRoot, helper: &Path, output: BorrowedFd<'_>) -> Result<Running, SandboxError> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(SandboxError::host("open", Path::new("/dev/null")))?;
    start_with(plan, helper, Streams { input: null.as_fd(), output, error: output })
}

/// Starts the program of a build root in its sandbox, with these standard streams.
///
/// If the plan is for the user at a terminal, `input` must be the terminal of Kiln's own session.
pub fn start_with(plan: &BuildRoot, helper: &Path, streams: Streams<'_>) -> Result<Running, SandboxError> {
    capability::parse(plan.capabilities.iter().map(String::as_str))?;
    let failed = |source| SandboxError::Start { program: helper.to_owned(), source };
    start_helper(plan, helper, streams).map_err(failed)
}

fn start_helper(plan: &BuildRoot, helper: &Path, streams: Streams<'_>) -> io::Result<Running> {
    let terminal = plan.terminal.then(|| Terminal::lend(streams.input)).transpose()?;
    let plan = plan_file(plan)?;
    let (report, report_writer) = io::pipe()?;
    let (lifeline_reader, lifeline) = io::pipe()?;
    let inherited = vec![plan.as_fd(), report_writer.as_fd(), lifeline_reader.as_fd()];
    let mut arguments = vec![c"kiln".to_owned(), CString::new(SANDBOX_INIT)?];
    for descriptor in &inherited {
        arguments.push(CString::new(descriptor.as_raw_fd().to_string())?);
    }
    let child = kiln_sys::process::spawn(&Spawn {
        program: CString::new(helper.as_os_str().as_bytes())?,
        arguments,
        stdin: streams.input,
        output: streams.output,
        error: streams.error,
        inherited,
        namespaces: NAMESPACES,
    })?;
    Ok(Running { child, report, _lifeline: lifeline, _terminal: terminal, reaped: false })
}

/// The plan in a file that has no name: it may be larger than a pipe holds.
fn plan_file(plan: &BuildRoot) -> io::Result<OwnedFd> {
    let descriptor = rustix::fs::memfd_create("kiln-plan", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(descriptor);
    file.write_all(&serde_json::to_vec(plan)?)?;
    file.rewind()?;
    Ok(file.into())
}

impl Running {
    /// The sandbox's first process, in Kiln's pid namespace.
    pub fn pid(&self) -> i32 {
        self.child.pid.as_raw_nonzero().get()
    }

    /// Waits for the program to end. At the deadline, or when `interrupted` is set, everything in the sandbox is
    /// killed. When this returns no process of the sandbox is left.
    pub fn wait(
        mut self,
        deadline: Option<Instant>,
        interrupted: &AtomicBool,
    ) -> Result<Ended, SandboxError> {
        let killed = loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if self.ends_within(left.unwrap_or(INTERRUPTION).min(INTERRUPTION))? {
                break None;
            }
            if interrupted.load(Ordering::Relaxed) {
                break Some(Ended::Interrupted);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break Some(Ended::TimedOut);
            }
        };
        if killed.is_some() {
            self.kill();
        }
        let status = self.reap()?;
        let report = self.read_report()?;
        match (report, killed) {
            (Some(Report::Failed { operation, errno }), _) => {
                Err(SandboxError::Setup { operation, source: io::Error::from_raw_os_error(errno) })
            }
            (Some(Report::Exited(code)), _) => Ok(Ended::Exited(code)),
            (Some(Report::Signalled(signal)), _) => Ok(Ended::Signalled(signal)),
            (None, Some(ended)) => Ok(ended),
            (None, None) => Err(SandboxError::Lost { status: describe(status) }),
        }
    }

    /// Kills everything in the sandbox. [`wait`](Self::wait) still has to be called, or the value dropped.
    pub fn kill(&self) {
        // Fails only if it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::KILL);
    }

    fn ends_within(&self, time: Duration) -> Result<bool, SandboxError> {
        let timeout =
            Timespec::try_from(time).map_err(|error| SandboxError::Wait(io::Error::other(error)))?;
        let mut descriptors = [PollFd::new(&self.child.pidfd, PollFlags::IN)];
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(SandboxError::Wait(error.into())),
        }
    }

    /// Returns when the first process and everything else in its pid namespace is gone.
    fn reap(&mut self) -> Result<Option<WaitIdStatus>, SandboxError> {
        loop {
            let id = WaitId::PidFd(self.child.pidfd.as_fd());
            match rustix::process::waitid(id, WaitIdOptions::EXITED) {
                Ok(status) => {
                    self.reaped = true;
                    return Ok(status);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(SandboxError::Wait(error.into())),
            }
        }
    }

    fn read_report(&mut self) -> Result<Option<Report>, SandboxError> {
        let mut text = Vec::new();
        // Ends: all processes that had the other end are gone.
        self.report.read_to_end(&mut text).map_err(SandboxError::Wait)?;
        // A first process that was killed while it wrote has said nothing.
        Ok(serde_json::from_slice(&text).ok())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // Nothing can be done if it fails, and nobody told.
            let _ = self.reap();
        }
    }
}

fn describe(status: Option<WaitIdStatus>) -> String {
    let status = status.as_ref();
    match (status.and_then(WaitIdStatus::exit_status), status.and_then(WaitIdStatus::terminating_signal)) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}
