//! A service: a program of the library that runs on the host for as long as what it made is needed.
//!
//! It has a process group of its own, so that a Ctrl-C at the terminal is the run's alone, and inherits one end of the
//! socket. Closing the other end tells it to undo what it did and to end. If Kiln is killed the kernel closes it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kiln_api::ModuleError;
use kiln_api::wire::Socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::Value;

use super::message::{Answer, call};
use super::store::StoreServer;
use super::{External, Log};

/// How long a service may take to undo what it did: flushing a large file system takes minutes.
const GRACE: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(300) };
/// After how long it is first said that a service is waited for; then after twice as long, and so on.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(30) };
/// How often is looked whether the user interrupts, or whether a service has ended.
const LOOK: Duration = Duration::from_millis(50);
/// How many of the last lines an error shows.
const LAST_LINES: usize = 20;
/// How long is waited for the last lines of a service that has ended: what it left behind may still hold its output.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A running service. Dropping it stops it as well as it can; [`stop`](Self::stop) reports failures.
pub(super) struct Service {
    /// As messages name it: `input/tree (org.osbuild.tree)`.
    name: String,
    child: Child,
    /// Open for as long as the service is to run.
    socket: Option<Socket>,
    output: Output,
    log: Log,
    stopped: bool,
}

/// How long something has been waited for, and when that is said again.
struct Waiting {
    since: Instant,
    next: Duration,
}

impl Waiting {
    fn start() -> Self {
        Self { since: Instant::now(), next: PATIENCE }
    }

    /// Says what is waited for, if it is time to.
    fn say(&mut self, log: &Log, name: &str, what: &str) {
        let time = self.since.elapsed();
        if time >= self.next {
            self.next = time * 2;
            log.line(name, &format!("{what} for {} s", time.as_secs()));
        }
    }
}

/// What a service has said last, and the thread that reads it.
struct Output {
    last: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts a service.
    pub(super) fn start(external: &External<'_>) -> Result<Self, ModuleError> {
        let module = external.program.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{} ({module})", external.id);
        let failed =
            |reason: String| ModuleError::invalid(format!("cannot start the service `{name}`: {reason}"));
        let (ours, theirs) = Socket::pair().map_err(|error| failed(crate::chain(&error)))?;
        let (output, their_output) = std::io::pipe().map_err(|error| failed(error.to_string()))?;
        let errors = their_output.try_clone().map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(&external.program);
        let number = theirs.pass(&mut command);
        command.args(["--service-id", &external.id, "--service-fd", &number.to_string()]);
        if let Some(path) = external.library.python_path() {
            command.env("PYTHONPATH", path);
        }
        command.env("PYTHONUNBUFFERED", "1").process_group(0);
        command.stdin(Stdio::null()).stdout(their_output).stderr(errors);
        let child = command
            .spawn()
            .map_err(|error| failed(format!("cannot execute `{}`: {error}", external.program.display())))?;
        // With it goes this process's copy of the child's end.
        drop(command);
        let output = Output::read(BufReader::new(output), name.clone(), external);
        Ok(Self { name, child, socket: Some(ours), output, log: external.log.clone(), stopped: false })
    }

    /// Calls a method and waits for its reply; meanwhile the store is served.
    pub(super) fn call(
        &mut self,
        method: &str,
        arguments: &Value,
        external: &External<'_>,
        mut store: Option<&mut StoreServer<'_>>,
    ) -> Result<Value, ModuleError> {
        let Some(socket) = &self.socket else { return Err(self.error("is stopped")) };
        if let Err(error) = socket.send(&call(method, arguments), &[]) {
            return Err(self.gone(method, &crate::chain(&error)));
        }
        let mut waiting = Waiting::start();
        loop {
            waiting.say(&self.log, &self.name, &format!("has not answered `{method}`"));
            let Some(socket) = &self.socket else { return Err(self.error("is stopped")) };
            let mut descriptors = vec![socket.as_fd()];
            descriptors.extend(store.iter().flat_map(|store| store.descriptors()));
            let ready = wait(&descriptors, LOOK)
                .map_err(|error| self.error(&format!("cannot be waited for: {error}")))?;
            if external.interrupted.load(Ordering::Relaxed) {
                return Err(ModuleError::Interrupted);
            }
            if let Some(store) = &mut store {
                store.serve();
            }
            if !ready.first().copied().unwrap_or_default() {
                continue;
            }
            let message = match socket.receive() {
                Ok(Some(message)) => message,
                Ok(None) => return Err(self.gone(method, "it ended before it answered")),
                Err(error) => return Err(self.gone(method, &crate::chain(&error))),
            };
            match Answer::read(&message.value) {
                Ok(Answer::Reply(reply)) => return Ok(reply),
                Ok(Answer::Signal) => {}
                Ok(Answer::Exception { name, value, backtrace }) => {
                    for line in backtrace.lines() {
                        external.log.line(&self.name, line);
                    }
                    return Err(ModuleError::invalid(format!("{name}: {}", value.trim_end())));
                }
                Err(reason) => {
                    return Err(self.error(&format!("gave no answer that can be understood: {reason}")));
                }
            }
        }
    }

    fn error(&self, what: &str) -> ModuleError {
        ModuleError::invalid(format!("the service `{}` {what}", self.name))
    }

    /// The error for a service that does not answer any more: with how it ended and what it said last.
    fn gone(&mut self, method: &str, reason: &str) -> ModuleError {
        self.socket = None;
        let status = self.ended_within(LAST_WORDS).map(|status| format!(" ({status})")).unwrap_or_default();
        let said = self.output.finish();
        self.error(&format!("did not answer `{method}`: {reason}{status}{said}"))
    }

    /// How the service ended; none if it has not after a while.
    fn ended_within(&mut self, time: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + time;
        let mut pause = Duration::from_millis(1);
        let mut waiting = Waiting::start();
        loop {
            waiting.say(&self.log, &self.name, "has been told to end, and has not");
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK);
        }
    }

    /// Lets the service undo what it did, and waits for its end. One that does not end is killed.
    pub(super) fn stop(mut self) -> Result<(), ModuleError> {
        self.stop_now()
    }

    fn stop_now(&mut self) -> Result<(), ModuleError> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        self.socket = None;
        let Some(status) = self.ended_within(GRACE) else {
            self.kill();
            let seconds = GRACE.as_secs();
            return Err(
                self.error(&format!("was killed: it did not end within {seconds} s after it was told to"))
            );
        };
        let said = self.output.finish();
        if status.success() {
            return Ok(());
        }
        Err(self.error(&format!("could not undo what it did ({status}){said}")))
    }

    /// Kills the service and what it has started, unless that has left its process group.
    fn kill(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // Fails only if nothing of it is left.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.stop_now();
    }
}

impl Output {
    fn read(mut lines: impl BufRead + Send + 'static, name: String, external: &External<'_>) -> Self {
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let (kept, log) = (Arc::clone(&last), external.log.clone());
        let read = move || {
            let mut line = Vec::new();
            while matches!(lines.read_until(b'\n', &mut line), Ok(length) if length > 0) {
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end_matches('\n');
                log.line(&name, text);
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == LAST_LINES {
                    kept.pop_front();
                }
                kept.push_back(text.to_owned());
                drop(kept);
                line.clear();
            }
        };
        Self { last, reader: Some(std::thread::spawn(read)) }
    }

    /// The last lines of a service that has ended, for an error; empty if it said nothing.
    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let deadline = Instant::now() + LAST_WORDS;
            while !reader.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Otherwise somebody it has left behind holds its output, and the thread ends with them.
            if reader.is_finished() {
                let _ = reader.join();
            }
        }
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = last.iter().map(String::as_str).collect();
        if lines.is_empty() { String::new() } else { format!("; it said last:\n{}", lines.join("\n")) }
    }
}

/// Waits until one of some descriptors can be read, or its other end is closed, and says which can.
fn wait(descriptors: &[BorrowedFd<'_>], time: Duration) -> Result<Vec<bool>, Errno> {
    let mut polled: Vec<PollFd<'_>> =
        descriptors.iter().map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN)).collect();
    let timeout = Timespec::try_from(time).ok();
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    Ok(polled.iter().map(|polled| !polled.revents().is_empty()).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::AtomicBool;

    use serde_json::json;

    use super::*;
    use crate::event::Event;
    use crate::host::Pump;
    use crate::index::Library;

    static NEVER: AtomicBool = AtomicBool::new(false);

    /// A service written in Python, without the reference's library, and what is done with it.
    pub(crate) fn with_service<T>(body: &str, what: impl FnOnce(&External<'_>) -> T) -> (T, Vec<String>) {
        let directory = tempfile::tempdir().expect("a directory");
        let program = write(directory.path(), body);
        let said = Mutex::new(Vec::new());
        let result = Pump::new().during(
            &|event| {
                if let Event::Service { service, text } = event {
                    said.lock().expect("not poisoned").push(format!("{service}: {text}"));
                }
            },
            |log| {
                what(&External {
                    id: "input/a".to_owned(),
                    program,
                    library: &Library::new(directory.path().to_owned()),
                    log: log.clone(),
                    interrupted: &NEVER,
                })
            },
        );
        (result, said.into_inner().expect("not poisoned"))
    }

    fn write(directory: &Path, body: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        const HEAD: &str = "#!/usr/bin/python3\n\
            import json, os, socket, sys\n\
            fd = int(sys.argv[sys.argv.index('--service-fd') + 1])\n\
            peer = socket.socket(fileno=fd)\n\
            def receive():\n    data = peer.recv(65536)\n    return json.loads(data) if data else None\n\
            def send(kind, **data):\n    peer.send(json.dumps({'type': kind, 'data': data}).encode())\n";
        let path = directory.join("org.example.service");
        fs::write(&path, format!("{HEAD}{body}")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }

    fn called(body: &str) -> (Result<Value, String>, Result<(), String>, Vec<String>) {
        let ((reply, stopped), said) = with_service(body, |external| {
            let mut service = Service::start(external).expect("started");
            let reply = service.call("map", &json!({"a": 1}), external, None);
            (reply.map_err(|error| error.to_string()), service.stop().map_err(|error| error.to_string()))
        });
        (reply, stopped, said)
    }

    #[test]
    fn a_method_is_called_and_what_is_said_arrives() {
        let body = "m = receive()\nprint('got', m['data']['name'], sys.argv[1:3])\n\
                    send('signal', reply=1)\nsend('reply', reply=m['data']['args'])\n\
                    assert receive() is None\nprint('undone')\n";
        let (reply, stopped, said) = called(body);
        assert_eq!((reply, stopped), (Ok(json!({"a": 1})), Ok(())));
        assert_eq!(
            said,
            [
                "input/a (org.example.service): got map ['--service-id', 'input/a']",
                "input/a (org.example.service): undone"
            ]
        );
    }

    #[test]
    fn an_exception_is_an_error_with_its_backtrace_in_the_log() {
        let (reply, stopped, said) = called(
            "receive()\nsend('exception', name='ValueError', value='no', backtrace='at 1\\nat 2\\n')\nreceive()\n",
        );
        assert_eq!((reply, stopped), (Err("ValueError: no".to_owned()), Ok(())));
        assert_eq!(said.len(), 2);
    }

    #[test]
    fn what_goes_wrong_names_the_service_and_its_last_words() {
        let named = "the service `input/a (org.example.service)`";
        let cases = [
            (
                "print('so long')\nsys.exit(3)\n",
                "did not answer `map`: ",
                "(exit status: 3); it said last:\nso long",
            ),
            ("receive()\npeer.send(b'{')\nreceive()\n", "did not answer `map`: the message is not JSON", ""),
            (
                "receive()\npeer.send(b'[]')\nreceive()\n",
                "gave no answer that can be understood: it has no `type`",
                "",
            ),
            (
                "receive()\ntext = os.memfd_create('')\nos.ftruncate(text, 1 << 40)\n\
                 socket.send_fds(peer, [b'<args-via-fd>'], [text])\nreceive()\n",
                "did not answer `map`: the message is too large: 1099511627776 bytes",
                "",
            ),
            (
                "receive()\npeer.send(b'<args-via-fd>')\nreceive()\n",
                "did not answer `map`: the message has no desc",
                "",
            ),
        ];
        for (body, start, end) in cases {
            let (reply, ..) = called(body);
            let error = reply.expect_err(body);
            assert!(error.starts_with(&format!("{named} {start}")) && error.ends_with(end), "{error}");
        }
        let (reply, stopped, _) =
            called("receive()\nsend('reply', reply=1)\nreceive()\nprint('busy')\nsys.exit(1)\n");
        assert_eq!(reply, Ok(json!(1)));
        let stopped = stopped.expect_err("not undone");
        assert_eq!(
            stopped,
            format!("{named} could not undo what it did (exit status: 1); it said last:\nbusy")
        );
    }

    #[test]
    fn a_service_that_does_not_end_is_killed_with_what_it_started() {
        let body = "import subprocess, time\nchild = subprocess.Popen(['sleep', '600'])\nreceive()\n\
                    time.sleep(0.5)\nsend('reply', reply=child.pid)\ntime.sleep(600)\n";
        let (reply, stopped, said) = called(body);
        let expected = "the service `input/a (org.example.service)` was killed: it did not end within 1 s after it was told to";
        assert_eq!(stopped, Err(expected.to_owned()));
        let child = reply.expect("a process");
        // It may be a zombie still, if nobody has waited for it.
        let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
        let waited = |line: &&String| line.ends_with("for 0 s") || line.ends_with("for 1 s");
        let waits: Vec<_> = said.iter().filter(waited).collect();
        assert!(waits.iter().any(|line| line.contains("has not answered `map`")), "{said:?}");
        assert!(waits.iter().any(|line| line.contains("has been told to end, and has not")), "{said:?}");
    }

    #[test]
    fn a_program_that_is_none_is_named() {
        let (error, _) = with_service("", |external| {
            let external = External { program: "/nowhere/org.example.gone".into(), ..external.clone() };
            Service::start(&external).err().expect("no such program").to_string()
        });
        let expected = "cannot start the service `input/a (org.example.gone)`: cannot execute `/nowhere/org.example.gone`: ";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn an_interruption_does_not_wait_for_the_answer() {
        let interrupted = AtomicBool::new(true);
        let (result, _) = with_service("receive()\nreceive()\n", |external| {
            let external = External { interrupted: &interrupted, ..external.clone() };
            let mut service = Service::start(&external).expect("started");
            service.call("map", &json!({}), &external, None)
        });
        assert!(matches!(result, Err(ModuleError::Interrupted)), "{result:?}");
    }
}
