//! The connection between host and guest: JSON in both directions, one message per line.
//!
//! An empty line says that the guest is alive; the guest sends one every so often.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A message.
pub type Message = Value;

/// What the guest sends first.
pub(super) const READY: &str = "ready";
/// The member of a message that says why the guest could not be set up.
pub(super) const FAILED: &str = "failed";

/// How often the guest says that it is alive.
pub(super) const ALIVE: Duration = Duration::from_secs(5);

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// Writes a message.
pub(super) fn write(mut out: impl Write, message: &Message) -> io::Result<()> {
    out.write_all(format!("{message}\n").as_bytes())
}

/// What came.
#[derive(Debug, PartialEq)]
pub(super) enum Received {
    /// A message.
    Message(Message),
    /// Nothing until now.
    Nothing,
    /// The other end was closed.
    End,
}

/// The receiving end.
#[derive(Debug)]
pub(super) struct Receiver<R> {
    from: R,
    pending: Vec<u8>,
    /// What of it holds no end of a line.
    searched: usize,
    heard: Instant,
}

impl<R: Read> Receiver<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, pending: Vec::new(), searched: 0, heard: Instant::now() }
    }

    /// How long nothing has come.
    pub(super) fn silence(&self) -> Duration {
        self.heard.elapsed()
    }

    /// Waits for a message, for as long as the other side's reading takes.
    pub(super) fn receive(&mut self) -> io::Result<Received> {
        loop {
            let unsearched = self.pending.get(self.searched..).unwrap_or_default();
            if let Some(end) = unsearched.iter().position(|&byte| byte == b'\n') {
                let rest = self.pending.split_off(self.searched + end + 1);
                let line = std::mem::replace(&mut self.pending, rest);
                self.searched = 0;
                if line != b"\n" {
                    return Ok(Received::Message(serde_json::from_slice(&line)?));
                }
                continue;
            }
            self.searched = self.pending.len();
            let mut buffer = [0; CHUNK];
            match self.from.read(&mut buffer) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => {
                    self.heard = Instant::now();
                    self.pending.extend_from_slice(buffer.get(..count).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(Received::Nothing);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Gives what it holds piece by piece, with pauses.
    struct Pieces(Vec<&'static str>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            match self.0.remove(0) {
                "" => Err(io::ErrorKind::WouldBlock.into()),
                piece => {
                    buffer[..piece.len()].copy_from_slice(piece.as_bytes());
                    Ok(piece.len())
                }
            }
        }
    }

    #[test]
    fn messages_are_lines_in_any_pieces() {
        let mut receiver = Receiver::new(Pieces(vec!["\n{\"a\":", "", "\"\\n\"}\n\n[1]\n2", "\n\n", "3"]));
        let mut received = || receiver.receive().expect("received");
        assert_eq!(received(), Received::Nothing);
        assert_eq!(received(), Received::Message(json!({"a": "\n"})));
        assert_eq!(received(), Received::Message(json!([1])));
        assert_eq!(received(), Received::Message(json!(2)));
        assert_eq!(received(), Received::End);
        assert!(Receiver::new(Pieces(vec!["no\n"])).receive().is_err());
    }
}
