//! The serial console as lines.
//!
//! A thread reads the port, so that the guest is never held up; the owner takes the bytes with a deadline.
//! Terminal escapes and carriage returns are removed. A line that has not ended yet (a prompt) counts as the
//! last line of the tail, and is searched again when it grows.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

/// How many lines an error shows: the last screens of a failing boot.
const TAIL: usize = 60;

/// Why there is no next line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The deadline passed.
    Deadline,
    /// The port was closed: the machine has ended.
    Closed,
}

/// What has been seen of a serial console.
#[derive(Debug)]
pub(super) struct Console {
    port: Receiver<Vec<u8>>,
    text: Text,
}

impl Console {
    /// Starts to read a port.
    pub(super) fn new(mut port: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        // The thread ends when the port is closed or nobody listens any more.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = port.read(&mut buffer) {
                let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { break };
                if sender.send(chunk.to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { port: receiver, text: Text::default() }
    }

    /// Waits for the next whole line.
    pub(super) fn line(&mut self, deadline: Instant) -> Result<String, Silence> {
        loop {
            if let Some(line) = self.text.next() {
                return Ok(line);
            }
            match self.port.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.text.feed(&bytes),
                Err(RecvTimeoutError::Timeout) => return Err(Silence::Deadline),
                Err(RecvTimeoutError::Disconnected) => return Err(Silence::Closed),
            }
        }
    }

    /// The last lines, the unfinished one included.
    pub(super) fn last_lines(&mut self) -> String {
        while let Ok(bytes) = self.port.try_recv() {
            self.text.feed(&bytes);
        }
        self.text.last_lines()
    }
}

/// Where in a terminal escape the text is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Started,
    Control,
    /// An operating-system command (a window title, systemd's context marks): text up to a bell or `ESC \`.
    Command,
}

#[derive(Debug, Default)]
struct Text {
    escape: Escape,
    partial: Vec<u8>,
    fresh: VecDeque<String>,
    tail: VecDeque<String>,
}

impl Text {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.escape = match (self.escape, byte) {
                (_, 0x1b) => Escape::Started,
                (Escape::Started, b'[') => Escape::Control,
                (Escape::Started, b']') => Escape::Command,
                (Escape::Control, b'@'..=b'~') | (Escape::Started, _) | (Escape::Command, 0x07) => {
                    Escape::None
                }
                (Escape::None, b'\n') => {
                    self.end_line();
                    Escape::None
                }
                (Escape::None, b'\r' | 0) => Escape::None,
                (Escape::None, byte) => {
                    self.partial.push(byte);
                    Escape::None
                }
                (inside, _) => inside,
            };
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
        self.partial.clear();
        self.fresh.push_back(line.clone());
        self.tail.push_back(line);
        if self.tail.len() > TAIL {
            self.tail.pop_front();
        }
    }

    fn next(&mut self) -> Option<String> {
        self.fresh.pop_front()
    }

    fn last_lines(&self) -> String {
        let partial = String::from_utf8_lossy(&self.partial);
        let lines: Vec<&str> = self.tail.iter().map(String::as_str).chain([partial.trim_end()]).collect();
        lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n").trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lines_lose_escapes_and_carriage_returns_wherever_they_are_cut() {
        let bytes = b"\x1b[0;32m  OK  \x1b[0m Started\r\n\x1b]3008;start=1\x1b\\next\r\nlogin: ";
        for cut in 0..bytes.len() {
            let mut text = Text::default();
            text.feed(&bytes[..cut]);
            text.feed(&bytes[cut..]);
            assert_eq!(text.next().as_deref(), Some("  OK   Started"), "cut at {cut}");
            assert_eq!(text.next().as_deref(), Some("next"), "cut at {cut}");
            assert_eq!(text.next(), None, "cut at {cut}");
            assert_eq!(text.last_lines(), "OK   Started\nnext\nlogin:", "cut at {cut}");
        }
    }

    #[test]
    fn only_the_last_sixty_lines_are_kept() {
        let mut text = Text::default();
        for number in 0..100 {
            text.feed(format!("line {number}\n").as_bytes());
        }
        text.feed(b"prompt");
        let last = text.last_lines();
        assert!(last.starts_with("line 41\n") && last.ends_with("line 99\nprompt"), "{last}");
        assert_eq!(last.lines().count(), TAIL);
    }

    #[test]
    fn a_closed_port_and_a_passed_deadline_are_told_apart() {
        let mut closed = Console::new(&b"one\ntwo"[..]);
        let deadline = Instant::now() + Duration::from_secs(5);
        assert_eq!(closed.line(deadline), Ok("one".to_owned()));
        assert_eq!(closed.line(deadline), Err(Silence::Closed));
        let (_writer, reader) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        assert_eq!(Console::new(reader).line(Instant::now()), Err(Silence::Deadline));
    }
}
