//! The socket `/run/osbuild/api/osbuild`, over which a module reports why it failed.
//!
//! A module connects, sends one packet `{"method": "exception", "exception": {type, value, traceback}}`, and
//! expects no answer. The kernel keeps both connection and packet, so nobody needs to listen while the stage
//! runs: they are read after it.

use std::io;
use std::path::{Path, PathBuf};

use kiln_api::endpoint::Endpoint;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};
use serde_json::{Value, json};

/// Larger packets than the kernel passes by default are not sent to this socket.
const LARGEST_PACKET: usize = 256 * 1024;

/// The listening socket.
#[derive(Debug)]
pub(super) struct Exceptions {
    endpoint: Endpoint,
    /// Where it is, on the host.
    pub(super) path: PathBuf,
}

impl Exceptions {
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        let endpoint = Endpoint::listen(path, SocketFlags::NONBLOCK)?;
        Ok(Self { endpoint, path: path.to_owned() })
    }

    /// The last exception that was reported, as the result shows it.
    pub(super) fn take(&self) -> Option<Value> {
        let mut last = None;
        while let Ok(connection) =
            accept_with(&self.endpoint.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            let mut buffer = vec![0; LARGEST_PACKET];
            let Ok((length, _)) = recv(&connection, &mut buffer[..], RecvFlags::empty()) else { continue };
            let message =
                buffer.get(..length).and_then(|packet| serde_json::from_slice::<Value>(packet).ok());
            // Whatever else is sent here is not ours to understand.
            if let Some(message) = message
                && message.get("method").and_then(Value::as_str) == Some("exception")
                && let Some(exception) = message.get("exception")
            {
                last = Some(json!({"type": "exception", "data": exception}));
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType, connect, send, socket_with};

    use super::*;

    #[test]
    fn what_was_sent_before_the_end_is_read_after_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let exceptions = Exceptions::listen(&directory.path().join("osbuild")).expect("a socket");
        assert_eq!(exceptions.take(), None);
        for text in [r#"{"method": "exception", "exception": {"type": "E", "value": "no"}}"#, "not JSON"] {
            let client = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a socket");
            connect(&client, &SocketAddrUnix::new(&exceptions.path).expect("an address"))
                .expect("a listener");
            send(&client, text.as_bytes(), SendFlags::empty()).expect("sent");
        }
        let expected = json!({"type": "exception", "data": {"type": "E", "value": "no"}});
        assert_eq!(exceptions.take(), Some(expected));
    }
}
