//! The one way to run a child process to its end.
//!
//! The child's standard output is captured, inherited or discarded as asked; the end of its standard error
//! is kept for the error message and, unless captured, also passed on. The child has no standard input
//! unless some is given, and dies with the thread that started it. A child that may take long can be
//! [watched](Run::watched), and is killed when nobody wants its result any more.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How much of a failed child's standard error an error carries, in bytes: enough for the last screen of text.
const TAIL: usize = 4096;

/// The status of a program that there is not.
const NOT_FOUND: &str = "an error: the program was not found";

/// Why a child process failed.
#[derive(Debug, thiserror::Error)]
#[error("`{program}` failed with {status}{separator}{stderr}", separator = if .stderr.is_empty() { "" } else { ": " })]
pub struct CommandError {
    /// The program's name as it was given.
    pub program: String,
    /// `exit status 1`, `signal 9`, or why it could not be started.
    pub status: String,
    /// The end of its standard error, trimmed.
    pub stderr: String,
}

impl CommandError {
    /// Whether there is no such program.
    pub fn is_not_found(&self) -> bool {
        self.status == NOT_FOUND
    }
}

/// A child process to be run.
#[derive(Debug)]
pub struct Run {
    command: Command,
    input: Option<Vec<u8>>,
}

impl Run {
    /// Starts the description of a child process.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), input: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of the child's environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts the child with no environment but what is set afterwards.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.command.env_clear();
        self
    }

    /// Sets the child's working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Shows the child, and nobody else, a directory as `/dev`.
    pub fn dev(mut self, directory: &Path) -> io::Result<Self> {
        crate::chroot::own_dev(&mut self.command, directory)?;
        Ok(self)
    }

    /// Lets the child, and what it starts, hold a descriptor open, under whatever number it has.
    pub fn holding(mut self, descriptor: std::os::fd::BorrowedFd<'_>) -> io::Result<Self> {
        use std::os::unix::process::CommandExt;
        let descriptor = rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?;
        let keep = move || {
            rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::empty()).map_err(io::Error::from)
        };
        // SAFETY: the closure makes one system call on a descriptor that it owns, and neither allocates nor takes locks.
        #[expect(unsafe_code, reason = "the hook runs between fork and exec")]
        unsafe {
            self.command.pre_exec(keep);
        }
        Ok(self)
    }

    /// Gives the child a text to read from its standard input.
    #[must_use]
    pub fn input(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// The program and its arguments, for messages.
    pub fn words(&self) -> Vec<OsString> {
        std::iter::once(self.command.get_program())
            .chain(self.command.get_args())
            .map(OsStr::to_owned)
            .collect()
    }

    /// Runs the child with inherited standard output and error and expects it to succeed.
    pub fn run(self) -> Result<(), CommandError> {
        self.finish(Stdio::inherit(), true).map(|_| ())
    }

    /// Runs the child, expects it to succeed, and returns what it wrote to its standard output.
    pub fn output(self) -> Result<Vec<u8>, CommandError> {
        self.finish(Stdio::piped(), false)
    }

    /// Runs the child silently and says how it ended; an error only if it could not be started or fed.
    pub fn status(mut self) -> Result<ExitStatus, CommandError> {
        let program = self.program();
        let failed = |error: io::Error| start_error(&program, &error);
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = self.spawn().map_err(failed)?;
        child.wait().map_err(failed)
    }

    /// Runs the child like [`output`](Self::output) and asks, every so often and before it is started, whether to go
    /// on. If not, the child is killed, and there is no output: `None`.
    ///
    /// What the child has started itself is not killed; programs that care end when their parent does.
    pub fn watched(
        mut self,
        every: Duration,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        if !go_on() {
            return Ok(None);
        }
        let program = self.program();
        let failed = |error: io::Error| start_error(&program, &error);
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn().map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let errors = std::thread::spawn(move || keep_tail(stderr, false));
        let output = std::thread::spawn(move || {
            let mut text = Vec::new();
            stdout.map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut text)).map(|_| text)
        });
        let wanted = wait_while(&child, every, go_on);
        if !matches!(wanted, Ok(true)) {
            // Best effort: it may have ended by itself. The threads end with the last process that has the pipes.
            let _ = child.kill();
            let _ = child.wait();
            return wanted.map(|_| None).map_err(failed);
        }
        let status = child.wait().map_err(failed)?;
        let stderr = errors.join().unwrap_or_default();
        if !status.success() {
            return Err(CommandError { program, status: describe(status), stderr });
        }
        output.join().unwrap_or_else(|_| Ok(Vec::new())).map(Some).map_err(failed)
    }

    fn program(&self) -> String {
        self.command.get_program().to_string_lossy().into_owned()
    }

    fn spawn(&mut self) -> io::Result<Child> {
        die_with_parent(&mut self.command);
        self.command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = self.command.spawn()?;
        if let Some(text) = self.input.take()
            && let Some(mut stdin) = child.stdin.take()
        {
            // A separate thread: a child that writes much before it reads must not block both sides.
            std::thread::spawn(move || {
                // A child that does not read all of its input says so by its exit status.
                let _ = stdin.write_all(&text);
            });
        }
        Ok(child)
    }

    fn finish(mut self, stdout: Stdio, pass_on: bool) -> Result<Vec<u8>, CommandError> {
        let program = self.program();
        let failed = |error: io::Error| start_error(&program, &error);
        self.command.stdout(stdout).stderr(Stdio::piped());
        let mut child = self.spawn().map_err(failed)?;
        let stderr = child.stderr.take();
        let errors = std::thread::spawn(move || keep_tail(stderr, pass_on));
        let mut text = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_end(&mut text).map_err(failed)?;
        }
        let status = child.wait().map_err(failed)?;
        let stderr = errors.join().unwrap_or_default();
        if status.success() {
            return Ok(text);
        }
        Err(CommandError { program, status: describe(status), stderr })
    }
}

/// Waits for a child's end, `true`, or until it is no longer wanted.
fn wait_while(child: &Child, every: Duration, go_on: &mut dyn FnMut() -> bool) -> io::Result<bool> {
    let end = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let every = Timespec::try_from(every).map_err(io::Error::other)?;
    loop {
        match poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&every)) {
            Ok(0) | Err(rustix::io::Errno::INTR) if !go_on() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Arranges for a child to be killed when the thread that starts it ends, however it ends.
pub fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let set = || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(io::Error::from)
    };
    // SAFETY: the closure makes one system call and neither allocates nor takes locks.
    #[expect(unsafe_code, reason = "the hook runs between fork and exec")]
    unsafe {
        command.pre_exec(set);
    }
}

/// An exit status in words: `exit status 1`, `signal 9`.
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn start_error(program: &str, error: &io::Error) -> CommandError {
    let status = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND.to_owned(),
        _ => format!("an error: {error}"),
    };
    CommandError { program: program.to_owned(), status, stderr: String::new() }
}

fn keep_tail(stream: Option<impl Read>, pass_on: bool) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut tail: Vec<u8> = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(count) = stream.read(&mut buffer) {
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { break };
        if pass_on {
            // Best effort: the child must go on even if nobody reads what it says.
            let _ = io::stderr().write_all(chunk);
        }
        tail.extend_from_slice(chunk);
        if tail.len() > 2 * TAIL {
            tail.drain(..tail.len() - TAIL);
        }
    }
    let start = tail.len().saturating_sub(TAIL);
    String::from_utf8_lossy(tail.get(start..).unwrap_or_default()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_child_is_reported_with_status_and_stderr() {
        let error = Run::new("sh").args(["-c", "echo no such luck >&2; exit 3"]).output().expect_err("fails");
        assert_eq!(error.to_string(), "`sh` failed with exit status 3: no such luck");
    }

    #[test]
    fn a_missing_program_is_reported_by_name() {
        let error = Run::new("kiln-no-such-program").output().expect_err("not there");
        assert_eq!(
            error.to_string(),
            "`kiln-no-such-program` failed with an error: the program was not found"
        );
        assert!(error.is_not_found());
    }

    #[test]
    fn a_watched_child_ends_by_itself_or_is_killed() {
        let every = Duration::from_millis(1);
        let run = |script: &str| Run::new("sh").args(["-c", script]);
        let output = run("echo 1; exec 2>&1; echo 2 >&2").watched(every, &mut || true).expect("succeeds");
        assert_eq!(output.as_deref(), Some(&b"1\n2\n"[..]));
        let error = run("echo no >&2; exit 4").watched(every, &mut || true).expect_err("fails");
        assert_eq!(error.to_string(), "`sh` failed with exit status 4: no");

        let directory = tempfile::tempdir().expect("a directory");
        let started = directory.path().join("started");
        let script = format!("echo $$ >'{0}.new'; mv '{0}.new' '{0}'; exec sleep 1000", started.display());
        // Somebody else still has the pipes: that is not waited for.
        let script = format!("sleep 3 & {script}");
        let begin = std::time::Instant::now();
        let killed = run(&script).watched(every, &mut || !started.exists()).expect("killed");
        assert_eq!(killed, None);
        assert!(begin.elapsed() < Duration::from_secs(3), "what the child had started was waited for");
        let pid = std::fs::read_to_string(&started).expect("it was started");
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it runs on");

        let marker = directory.path().join("marker");
        let nothing = run(&format!("touch '{}'", marker.display())).watched(every, &mut || false);
        assert_eq!(nothing.expect("not started"), None);
        assert!(!marker.exists(), "it was started though nobody wanted it");
    }

    #[test]
    fn input_larger_than_a_pipe_does_not_block() {
        let text = vec![b'x'; 1 << 20];
        let output = Run::new("cat").input(text.clone()).output().expect("cat");
        assert_eq!(output.len(), text.len());
    }
}
