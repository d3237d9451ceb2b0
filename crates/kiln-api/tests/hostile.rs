//! The wire against senders that say anything at all: every packet is a message or an error, the connection stays in
//! step, and what is not a message leaves nothing behind.
//!
//! The test of the wire counts descriptors and memory of the process: no other one here opens or allocates much.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{IoSlice, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kiln_api::loops::LoopRequest;
use kiln_api::wire::{Message, Socket, WireError};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Map, Value, json};

const VIA_DESCRIPTOR: &[u8] = b"<args-via-fd>";

/// What comes with a packet.
#[derive(Clone, Copy, Debug)]
enum Descriptor {
    Text,
    Mutilated,
    Empty,
    /// A file that says that it is a terabyte long.
    Huge,
    Directory,
    PathOnly,
    WriteOnly,
    Pipe,
    Endless,
    Socket,
}

impl Descriptor {
    const ALL: &[Self] = &[
        Self::Text,
        Self::Mutilated,
        Self::Empty,
        Self::Huge,
        Self::Directory,
        Self::PathOnly,
        Self::WriteOnly,
        Self::Pipe,
        Self::Endless,
        Self::Socket,
    ];

    fn open(self, directory: &std::path::Path, text: &str) -> OwnedFd {
        let file = |content: &str| {
            let mut file = tempfile::tempfile_in(directory).expect("a file");
            file.write_all(content.as_bytes()).and_then(|()| file.rewind()).expect("written");
            file
        };
        let opened = |path: &std::path::Path, flags: OFlags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).expect("opened")
        };
        let named = directory.join("named");
        match self {
            Self::Text => file(text).into(),
            Self::Mutilated => file(half(text)).into(),
            Self::Empty => file("").into(),
            Self::Huge => {
                let file = file("{");
                file.set_len(1 << 40).expect("sparse");
                file.into()
            }
            Self::Directory => opened(directory, OFlags::DIRECTORY),
            Self::PathOnly => opened(&named, OFlags::PATH),
            Self::WriteOnly => opened(&named, OFlags::WRONLY),
            // With the other end gone it would end, with it open it would never answer.
            Self::Pipe => std::io::pipe().expect("a pipe").0.into(),
            Self::Endless => opened(std::path::Path::new("/dev/zero"), OFlags::RDONLY),
            Self::Socket => Socket::pair().expect("a pair").0.into(),
        }
    }
}

fn half(text: &str) -> &str {
    let end = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(index, _)| index);
    &text[..end]
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        let key = prop_oneof![Just("type"), Just("data"), Just("reply"), Just("name"), Just("é"), Just("")];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..8).prop_map(|members| {
                let members = members.into_iter().map(|(key, value)| (key.to_owned(), value));
                Value::from(members.collect::<Map<_, _>>())
            }),
        ]
    })
}

/// The bytes of a packet: a message with something done to it, the marker likewise, or anything.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let whole = prop_oneof![
        4 => json().prop_map(|value| value.to_string().into_bytes()),
        3 => Just(VIA_DESCRIPTOR.to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..300),
        // Deeper than anybody writes by hand.
        1 => (1..5000_usize).prop_map(|depth| vec![b'['; depth]),
        1 => (1..5000_usize).prop_map(|depth| b"{\"a\":".repeat(depth)),
    ];
    let changes = prop::collection::vec((0..5_u8, any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (whole, changes).prop_map(|(mut bytes, changes)| {
        for (change, place, byte) in changes {
            let at = place.index(bytes.len());
            match change {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                3 => bytes.truncate(at.max(1)),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    })
}

fn send(socket: &Socket, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).expect("sent");
}

/// As many cases as `PROPTEST_CASES` asks for, and not fewer than so many.
fn at_least(cases: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.max(cases), ..config }
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

/// The most address space that the process has ever had, in KiB: an allocation counts even if nobody writes to it.
fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn whatever_is_sent_is_a_message_or_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("named"), "1").expect("written");
    let mut runner = TestRunner::new(at_least(3000));
    let (ours, theirs) = Socket::pair().expect("a pair");
    let kinds = prop::collection::vec(prop::sample::select(Descriptor::ALL), 0..4);
    let strategy = (packet(), json(), kinds);
    let (descriptors_before, memory_before) = (open_descriptors(), most_memory());
    let endings = RefCell::new(BTreeSet::new());
    let result = runner.run(&strategy, |(bytes, value, kinds)| {
        let text = value.to_string();
        let descriptors: Vec<OwnedFd> = kinds.iter().map(|kind| kind.open(directory.path(), &text)).collect();
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        send(&theirs, &bytes, &borrowed);
        let received = ours.receive();
        let ending = match &received {
            Ok(Some(_)) => "message",
            Ok(None) => "end",
            Err(WireError::Json(_)) => "not JSON",
            Err(WireError::NoText) => "no text",
            Err(WireError::TooLarge(_)) => "too large",
            Err(WireError::Io { .. }) => "unreadable",
            Err(_) => "other",
        };
        prop_assert!(ending != "end" && ending != "other", "{:?}", received);
        let via = bytes == VIA_DESCRIPTOR;
        if let Ok(Some(Message { value, descriptors })) = received {
            let said = match kinds.first() {
                // Half a number is one, too.
                Some(Descriptor::Mutilated) if via => half(&text).as_bytes(),
                _ if via => text.as_bytes(),
                _ => &bytes,
            };
            prop_assert_eq!(&value, &serde_json::from_slice::<Value>(said).expect("JSON"));
            prop_assert_eq!(descriptors.len(), kinds.len() - usize::from(via));
        }
        // The next message is not touched by it.
        theirs.send(&json!({"n": 1}), &[]).expect("sent");
        let next = ours.receive().expect("received").expect("a message");
        prop_assert_eq!(next.value, json!({"n": 1}));
        prop_assert!(next.descriptors.is_empty());
        drop(descriptors);
        prop_assert_eq!(open_descriptors(), descriptors_before);
        endings.borrow_mut().insert(ending);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let expected = ["message", "no text", "not JSON", "too large", "unreadable"];
    assert_eq!(endings.into_inner().into_iter().collect::<Vec<_>>(), expected, "how the cases ended");
    let grown = most_memory() - memory_before;
    assert!(grown < 64 * 1024, "{grown} KiB were taken for packets of some KiB");
}

/// What a request may say, and what it may not.
const MEMBERS: &[&str] =
    &["offset", "sizelimit", "lock", "partscan", "read_only", "sector_size", "fd", "other"];

/// Members as a stage may send them: some as they should be, some not.
fn request() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        (0..1_u64 << 40).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(json!(u64::from(u32::MAX) + 1)),
    ];
    let value = prop_oneof![6 => number, 3 => any::<bool>().prop_map(Value::from), 1 => json()];
    prop::collection::vec((prop::sample::select(MEMBERS), value), 0..6).prop_map(|members| {
        let members = members.into_iter().map(|(name, value)| (name.to_owned(), value));
        Value::from(members.collect::<Map<_, _>>())
    })
}

proptest! {
    #![proptest_config(at_least(2000))]
    #[test]
    fn a_request_for_a_loop_device_is_what_was_said_or_refused(request in request()) {
        let Ok(understood) = serde_json::from_value::<LoopRequest>(request.clone()) else { return Ok(()) };
        // Nothing was rounded, cut off or made up.
        let number = |name: &str| request.get(name).and_then(Value::as_u64);
        let word = |name: &str| request.get(name).and_then(Value::as_bool);
        prop_assert_eq!(understood.offset, number("offset"));
        prop_assert_eq!(understood.sizelimit, number("sizelimit"));
        prop_assert_eq!(u64::from(understood.sector_size), number("sector_size").unwrap_or(512));
        prop_assert_eq!(understood.lock, word("lock").unwrap_or(false));
        prop_assert_eq!(understood.partscan, word("partscan").unwrap_or(false));
        prop_assert_eq!(understood.read_only, word("read_only").unwrap_or(false));
    }
}
