//! The emulator's control connection (QMP): one JSON object per line, commands, replies and events.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde_json::{Value, json};

/// A control connection.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Opens the conversation: takes the greeting and leaves negotiation mode.
    pub(super) fn new(stream: UnixStream, deadline: Instant) -> io::Result<Self> {
        let mut qmp = Self { stream: BufReader::new(stream) };
        qmp.wait_for("QMP", deadline)?;
        qmp.execute("qmp_capabilities", deadline)?;
        Ok(qmp)
    }

    /// Runs a command without arguments.
    pub(super) fn execute(&mut self, command: &str, deadline: Instant) -> io::Result<()> {
        let text = format!("{}\n", json!({ "execute": command }));
        self.stream.get_mut().write_all(text.as_bytes())?;
        self.wait_for("return", deadline).map(|_| ())
    }

    /// Waits for the machine's end and returns its reason: `guest-shutdown`, `guest-reset`, `guest-panic`, ….
    pub(super) fn wait_for_shutdown(&mut self, deadline: Instant) -> io::Result<String> {
        loop {
            let message = self.wait_for("event", deadline)?;
            if message["event"] == "SHUTDOWN" {
                return Ok(message["data"]["reason"].as_str().unwrap_or("unknown").to_owned());
            }
        }
    }

    /// Waits for a message with a member, passing over others; an error reply is an error.
    fn wait_for(&mut self, member: &str, deadline: Instant) -> io::Result<Value> {
        loop {
            let message = self.message(deadline)?;
            if let Some(error) = message.get("error") {
                return Err(io::Error::other(
                    error["desc"].as_str().unwrap_or("an unknown error").to_owned(),
                ));
            }
            if message.get(member).is_some() {
                return Ok(message);
            }
        }
    }

    fn message(&mut self, deadline: Instant) -> io::Result<Value> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.get_ref().set_read_timeout(Some(left))?;
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(serde_json::from_str(&line)?),
            // The system call's word for a passed receive timeout.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }
}
