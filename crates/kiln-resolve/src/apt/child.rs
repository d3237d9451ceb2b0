//! Running one of apt's programs to its end, line by line, and stopping it when asked to.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use kiln_sys::command::die_with_parent;

use crate::ResolveError;

/// How long an interrupt may go unnoticed while the program is silent.
const PATIENCE: Duration = Duration::from_millis(50);

/// A program that has ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<String>,
    pub(super) stderr: Vec<String>,
}

enum Line {
    Stdout(String),
    Stderr(String),
}

/// Runs a program; each line of its standard output is handed on as it comes.
pub(super) fn run(
    program: &Path,
    arguments: &[&OsStr],
    environment: &BTreeMap<OsString, OsString>,
    interrupted: &AtomicBool,
    mut progress: impl FnMut(&str),
) -> Result<Ended, ResolveError> {
    let failed = |source| ResolveError::Io { path: program.to_owned(), source };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    die_with_parent(&mut command);
    let mut child = command.spawn().map_err(failed)?;
    let (sender, receiver) = channel();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut ended = Vec::new();
    let mut errors = Vec::new();
    std::thread::scope(|scope| {
        let other = sender.clone();
        scope.spawn(move || forward(stdout, &other, Line::Stdout));
        scope.spawn(move || forward(stderr, &sender, Line::Stderr));
        loop {
            match receiver.recv_timeout(PATIENCE) {
                Ok(Line::Stdout(line)) => {
                    progress(&line);
                    ended.push(line);
                }
                Ok(Line::Stderr(line)) => errors.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if interrupted.load(Ordering::Relaxed) {
                // It may just have ended by itself; its download methods end when it is gone.
                let _ = child.kill();
            }
        }
    });
    let status = child.wait().map_err(failed)?;
    if interrupted.load(Ordering::Relaxed) {
        return Err(ResolveError::Interrupted);
    }
    Ok(Ended { status, stdout: ended, stderr: errors })
}

fn forward(stream: Option<impl Read>, lines: &Sender<Line>, kind: fn(String) -> Line) {
    let Some(stream) = stream else { return };
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if lines.send(kind(text)).is_err() {
            return;
        }
        line.clear();
    }
}
