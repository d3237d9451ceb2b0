//! The one way to run a child process to its end.
//!
//! The child's standard output is captured, inherited or discarded as asked; the end of its standard error
//! is kept for the error message and, unless captured, also passed on. The child has no standard input
//! unless some is given, and dies with the thread that started it.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// How much of a failed child's standard error an error carries, in bytes: enough for the last screen of text.
const TAIL: usize = 4096;

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
        io::ErrorKind::NotFound => "an error: the program was not found".to_owned(),
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
    }

    #[test]
    fn input_larger_than_a_pipe_does_not_block() {
        let text = vec![b'x'; 1 << 20];
        let output = Run::new("cat").input(text.clone()).output().expect("cat");
        assert_eq!(output.len(), text.len());
    }
}
