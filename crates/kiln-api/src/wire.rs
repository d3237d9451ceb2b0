//! Messages between processes: one JSON text for each packet of a `SOCK_SEQPACKET` socket, descriptors beside it.
//!
//! A text that is too large for a packet is written into a memory file, whose descriptor then comes first; the
//! packet says so by a marker. The receiver never trusts the sender: texts and descriptors are limited, and what is
//! not JSON is an error that says so.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair, sockopt,
};
use serde_json::Value;

/// What a packet says whose text is in a memory file.
const VIA_DESCRIPTOR: &[u8] = b"<args-via-fd>";

/// The largest text that is sent as a packet: what every kernel takes unless it was configured to take less.
const LARGEST_PACKET: usize = 64 * 1024;

/// The largest text that is taken from anybody: answers for ten thousands of files are some megabytes, and what a text
/// says may take forty times its size (an array of digits does).
const LARGEST_TEXT: u64 = 16 * 1024 * 1024;

/// The most descriptors that the kernel passes with one packet.
const MOST_DESCRIPTORS: usize = 253;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The socket failed.
    #[error("cannot {action}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The text is no JSON.
    #[error("the message is not JSON")]
    Json(#[from] serde_json::Error),
    /// The text is larger than is taken.
    #[error("the message is too large: {0} bytes")]
    TooLarge(u64),
    /// Descriptors were lost on the way, as when there are too many open ones.
    #[error("descriptors of the message were lost")]
    Truncated,
    /// The marker came without the memory file.
    #[error("the message has no descriptor with its text")]
    NoText,
}

impl WireError {
    fn io(action: &'static str) -> impl Fn(Errno) -> Self {
        move |error| Self::Io { action, source: error.into() }
    }
}

/// A message.
#[derive(Debug)]
pub struct Message {
    /// What it says.
    pub value: Value,
    /// The descriptors that came with it, in order.
    pub descriptors: Vec<OwnedFd>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl From<OwnedFd> for Socket {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.0
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// Both ends of a new connection.
    pub fn pair() -> Result<(Self, Self), WireError> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(WireError::io("make a pair of sockets"))?;
        Ok((Self(one), Self(other)))
    }

    /// Gives this end to a child, and says under which number it has it.
    pub fn pass(self, command: &mut Command) -> i32 {
        kiln_sys::inherited::pass(command, self.0)
    }

    /// Sends a message.
    pub fn send(&self, value: &Value, descriptors: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let text = value.to_string();
        if text.len() <= LARGEST_PACKET {
            return self.packet(text.as_bytes(), descriptors);
        }
        let file = rustix::fs::memfd_create("kiln-message", MemfdFlags::CLOEXEC)
            .map_err(WireError::io("make a memory file"))?;
        let mut file = File::from(file);
        let written = file.write_all(text.as_bytes()).and_then(|()| file.rewind());
        written.map_err(|source| WireError::Io { action: "write a memory file", source })?;
        let all: Vec<BorrowedFd<'_>> =
            std::iter::once(file.as_fd()).chain(descriptors.iter().copied()).collect();
        self.packet(VIA_DESCRIPTOR, &all)
    }

    fn packet(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        // Only ever makes the buffer large enough; where that is refused, sending says so.
        let _ = sockopt::set_socket_send_buffer_size(&self.0, bytes.len().max(LARGEST_PACKET));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(WireError::Truncated);
        }
        retry(|| sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))
            .map_err(WireError::io("send a message"))?;
        Ok(())
    }

    /// Waits for a message; none if the other end is closed.
    pub fn receive(&self) -> Result<Option<Message>, WireError> {
        // How long the packet is, without taking it.
        let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
        let mut nothing = [0_u8; 1];
        let length = match retry(|| recv(&self.0, &mut nothing, peek)) {
            Ok((_, length)) => length,
            Err(Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(WireError::io("receive a message")(error)),
        };
        if length as u64 > LARGEST_TEXT {
            return Err(WireError::TooLarge(length as u64));
        }
        let mut bytes = vec![0; length];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        })
        .map_err(WireError::io("receive a message"))?;
        // First of all, so that none stays open whatever is wrong with the message.
        let mut descriptors: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 && descriptors.is_empty() {
            return Ok(None);
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(WireError::Truncated);
        }
        if bytes != VIA_DESCRIPTOR {
            return Ok(Some(Message { value: serde_json::from_slice(&bytes)?, descriptors }));
        }
        if descriptors.is_empty() {
            return Err(WireError::NoText);
        }
        let value = serde_json::from_slice(&text(descriptors.remove(0))?)?;
        Ok(Some(Message { value, descriptors }))
    }
}

/// The text in a memory file.
fn text(file: OwnedFd) -> Result<Vec<u8>, WireError> {
    let file = File::from(file);
    let failed = |source| WireError::Io { action: "read a memory file", source };
    let metadata = file.metadata().map_err(failed)?;
    // Anything else could be without end, or never answer.
    if !metadata.is_file() {
        return Err(WireError::NoText);
    }
    if metadata.len() > LARGEST_TEXT {
        return Err(WireError::TooLarge(metadata.len()));
    }
    let mut text = Vec::new();
    file.take(LARGEST_TEXT + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > LARGEST_TEXT {
        return Err(WireError::TooLarge(text.len() as u64));
    }
    Ok(text)
}

/// A system call that a signal has interrupted is made again.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sent(value: &Value, descriptors: &[BorrowedFd<'_>]) -> Message {
        let (one, other) = Socket::pair().expect("a pair");
        one.send(value, descriptors).expect("sent");
        other.receive().expect("received").expect("a message")
    }

    /// Sends bytes as they are.
    fn raw(bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<Option<Message>, WireError> {
        let (one, other) = Socket::pair().expect("a pair");
        one.packet(bytes, descriptors).expect("sent");
        drop(one);
        other.receive()
    }

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).and_then(|()| file.rewind()).expect("written");
        file
    }

    #[test]
    fn messages_of_any_size_arrive_with_their_descriptors() {
        let (first, second) = (file("first"), file("second"));
        for size in [0, 100, LARGEST_PACKET - 2, LARGEST_PACKET - 1, 3_000_000] {
            let value = json!("x".repeat(size));
            let message = sent(&value, &[first.as_fd(), second.as_fd()]);
            assert!(message.value == value, "{size}");
            let texts: Vec<String> = message
                .descriptors
                .into_iter()
                .map(|descriptor| {
                    let mut text = String::new();
                    let mut file = File::from(descriptor);
                    file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("read");
                    text
                })
                .collect();
            assert_eq!(texts, ["first", "second"], "{size}");
        }
    }

    #[test]
    fn the_end_of_the_connection_is_no_message() {
        let (one, other) = Socket::pair().expect("a pair");
        one.send(&json!(1), &[]).expect("sent");
        drop(one);
        assert_eq!(other.receive().expect("received").expect("a message").value, 1);
        assert!(other.receive().expect("closed").is_none());
        assert!(other.send(&json!(2), &[]).is_err(), "nobody is there any more");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let text = file("{\"a\": 1}");
        let cases: [(&[u8], &[BorrowedFd<'_>], &str); 4] = [
            (b"{", &[], "the message is not JSON"),
            (b"\xff\xfe", &[], "the message is not JSON"),
            (VIA_DESCRIPTOR, &[], "the message has no descriptor with its text"),
            (b"", &[text.as_fd()], "the message is not JSON"),
        ];
        for (bytes, descriptors, reason) in cases {
            assert_eq!(raw(bytes, descriptors).expect_err("refused").to_string(), reason);
        }
        let value = raw(VIA_DESCRIPTOR, &[text.as_fd()]).expect("received").expect("a message").value;
        assert_eq!(value, json!({"a": 1}));
        let (pipe, _writer) = io::pipe().expect("a pipe");
        let refused = raw(VIA_DESCRIPTOR, &[pipe.as_fd()]).expect_err("a pipe may never end");
        assert!(matches!(refused, WireError::NoText), "{refused}");
    }

    #[test]
    fn a_large_message_is_told_by_its_size() {
        let large = tempfile::tempfile().expect("a file");
        large.set_len(LARGEST_TEXT + 1).expect("sparse");
        let refused = raw(VIA_DESCRIPTOR, &[large.as_fd()]).expect_err("refused").to_string();
        assert_eq!(refused, format!("the message is too large: {} bytes", LARGEST_TEXT + 1));
    }

    #[test]
    fn any_bytes_are_an_answer_or_an_error() {
        let mut state = 1_u64;
        for length in 1..400_usize {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) as u8
                })
                .collect();
            // Neither a panic nor a message that stays.
            let _ = raw(&bytes, &[]);
        }
    }
}
