//! Workers as processes: started, let go, killed, and listened to.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kiln_sys::command::die_with_parent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Place, worker};
use crate::error::Error;

/// The reference's worker.
const SCRIPT: &str = include_str!("reference.py");

/// So many of the reference's workers wait to be let go.
const WAITING: usize = 6;

/// How long a worker may take to start before that is a finding.
const PATIENCE: Duration = Duration::from_secs(60);

/// A worker.
pub(super) struct Process {
    child: Child,
    /// What it has said.
    pub(super) said: Vec<u8>,
    /// Whether it is the reference's.
    pub(super) foreign: bool,
}

/// How a worker ended.
pub(super) struct End {
    /// What it has said.
    pub(super) said: Vec<u8>,
    /// Whether it is the reference's.
    pub(super) foreign: bool,
    /// None if it was killed, else what it had to say.
    pub(super) found: Option<String>,
}

impl Process {
    /// Starts a worker of Kiln, which is this program.
    pub(super) fn kiln(place: &Place, seed: u64) -> Result<Self, Error> {
        let program = PathBuf::from("/proc/self/exe");
        let mut command = Command::new(&program);
        command.arg("torture-worker").arg(&place.cache).arg(&place.proof).arg(seed.to_string());
        Self::start(command, false)
    }

    fn start(mut command: Command, foreign: bool) -> Result<Self, Error> {
        die_with_parent(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = PathBuf::from(command.get_program());
        let child = command.spawn().map_err(Error::file("start", &program))?;
        Ok(Self { child, said: Vec::new(), foreign })
    }

    /// Lets a waiting worker of the reference go, and waits until it has said a byte.
    pub(super) fn go(&mut self, byte: u8) {
        if let Some(stdin) = &mut self.child.stdin {
            // One that has died meanwhile says so at its end.
            let _ = stdin.write_all(b"g");
        }
        self.listen(PATIENCE, |said| said.contains(&byte));
    }

    /// Listens to the worker for a time, or until it has said enough or is dead.
    pub(super) fn listen(&mut self, time: Duration, enough: impl Fn(&[u8]) -> bool) {
        let until = Instant::now() + time;
        let Some(stdout) = &mut self.child.stdout else { return };
        let mut buffer = [0; 4096];
        while !enough(&self.said) {
            let left = until.saturating_duration_since(Instant::now());
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let ready = poll(&mut [PollFd::new(&*stdout, PollFlags::IN)], Some(&timeout));
            if !matches!(ready, Ok(1..)) {
                return;
            }
            match stdout.read(&mut buffer) {
                Ok(count @ 1..) => self.said.extend(buffer.iter().take(count)),
                _ => return,
            }
        }
    }

    /// Kills the worker, and says how it ended.
    pub(super) fn kill(mut self) -> Result<End, Error> {
        let failed = |error| Error::file("kill", &PathBuf::from("a worker"))(error);
        self.child.kill().map_err(failed)?;
        let status = self.child.wait().map_err(failed)?;
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_end(&mut self.said).map_err(failed)?;
        }
        let mut errors = Vec::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_end(&mut errors).map_err(failed)?;
        }
        let errors = String::from_utf8_lossy(&errors).trim().to_owned();
        let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
        let found = (!killed || !errors.is_empty())
            .then(|| format!("a worker {}: {errors}", kiln_sys::command::describe(status)));
        Ok(End { said: self.said, foreign: self.foreign, found })
    }
}

/// A checkout of the reference.
pub(super) struct Reference {
    checkout: PathBuf,
}

impl Reference {
    /// Takes a checkout that has the cache's module.
    pub(super) fn new(checkout: PathBuf) -> Result<Self, Error> {
        if checkout.join("osbuild/util/fscache.py").exists() {
            return Ok(Self { checkout });
        }
        let what = "is no checkout of the reference: it has no `osbuild/util/fscache.py`".to_owned();
        Err(Error::Content { path: checkout, what })
    }

    /// Starts a worker, which waits.
    fn start(&self, place: &Place, seed: u64) -> Result<Process, Error> {
        let mut command = Command::new("python3");
        command
            .args(["-c", SCRIPT])
            .arg(&place.cache)
            .args([seed, worker::NAMES].map(|number| number.to_string()));
        command.args(worker::LIMITS.map(|limit| limit.to_string()));
        command.env("PYTHONPATH", &self.checkout).env("PYTHONDONTWRITEBYTECODE", "1");
        Process::start(command, true)
    }
}

/// Where workers of the reference wait, because starting one takes longer than most workers live.
#[derive(Default)]
pub(super) struct Nursery {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Held while a process is being started.
    starting: Mutex<()>,
}

#[derive(Default)]
struct Waiting {
    processes: VecDeque<Process>,
    closed: bool,
}

impl Nursery {
    /// Starts workers as they are taken, until the nursery is closed.
    pub(super) fn raise(&self, reference: &Reference, place: &Place) {
        let mut seed = 0;
        loop {
            let waiting = self.lock();
            let enough = |waiting: &mut Waiting| !waiting.closed && waiting.processes.len() >= WAITING;
            let waiting = self.changed.wait_while(waiting, enough).unwrap_or_else(PoisonError::into_inner);
            if waiting.closed {
                return;
            }
            drop(waiting);
            let started = {
                let _starting = self.quiet();
                reference.start(place, seed)
            };
            seed += 1;
            let mut waiting = self.lock();
            match started {
                Ok(process) => waiting.processes.push_back(process),
                // Whoever asks for one then waits in vain, and says so.
                Err(_) => waiting.closed = true,
            }
            drop(waiting);
            self.changed.notify_all();
        }
    }

    /// Takes a worker that waits to be let go.
    pub(super) fn take(&self) -> Option<Process> {
        let empty = |waiting: &mut Waiting| !waiting.closed && waiting.processes.is_empty();
        let mut waiting = self.changed.wait_while(self.lock(), empty).unwrap_or_else(PoisonError::into_inner);
        let process = waiting.processes.pop_front();
        drop(waiting);
        self.changed.notify_all();
        process
    }

    /// Lets nobody start a process while the guard lives.
    pub(super) fn quiet(&self) -> MutexGuard<'_, ()> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends who still waits.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        for process in waiting.processes.drain(..) {
            // Best effort: it only waits, and would die with this process.
            let _ = process.kill();
        }
        drop(waiting);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
