//! The endpoints of a stage against stages that say anything at all.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::device::{DeviceReply, OpenDevice};
use kiln_api::loops::{LoopRequest, Loops};
use kiln_api::wire::Socket;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};
use serde_json::{Map, Value, json};

use super::exception::Exceptions;
use super::remote_loop::LoopServer;
use crate::host::fuzz::json;

const LOOP: &[&str] =
    &["fd", "dir_fd", "offset", "sizelimit", "lock", "partscan", "read_only", "sector_size", "devname"];
const EXCEPTION: &[&str] = &["method", "exception", "type", "value", "traceback"];

/// Makes no devices, only their names.
struct Names;
struct Name(DeviceReply);

impl Loops for Names {
    fn attach(
        &self,
        _: OwnedFd,
        _: OwnedFd,
        request: &LoopRequest,
    ) -> Result<Box<dyn OpenDevice>, ModuleError> {
        let path = format!("loop{}", request.offset.unwrap_or_default());
        Ok(Box::new(Name(DeviceReply { path, data: Map::new() })))
    }
}

impl OpenDevice for Name {
    fn reply(&self) -> &DeviceReply {
        &self.0
    }

    fn close(self: Box<Self>) -> Result<(), ModuleError> {
        Ok(())
    }
}

fn client(path: &Path) -> OwnedFd {
    let client = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("a socket");
    connect(&client, &SocketAddrUnix::new(path).expect("an address")).expect("connected");
    client
}

/// The same value with something done to its text.
fn changed(value: &Value, change: Option<(prop::sample::Index, u8)>) -> Vec<u8> {
    let mut text = value.to_string().into_bytes();
    if let Some((place, byte)) = change {
        let at = place.index(text.len());
        text[at] = byte;
    }
    text
}

#[test]
fn every_request_for_a_loop_device_is_answered() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("remoteloop");
    let server = LoopServer::start(&path, &Names).expect("listens");
    // One connection for all: nothing that is said ends it.
    let connection = Socket::from(client(&path));
    let file = File::open("/dev/null").expect("opened");
    let sensible = (0..3_u64, 0..3_u64, any::<Option<u32>>())
        .prop_map(|(fd, dir_fd, offset)| json!({"fd": fd, "dir_fd": dir_fd, "offset": offset}));
    let request = prop_oneof![3 => json(LOOP), 1 => sensible];
    let strategy = (request, any::<Option<(prop::sample::Index, u8)>>(), 0..4_usize);
    let cases = ProptestConfig::default().cases;
    let mut runner = TestRunner::new(ProptestConfig { cases: cases.max(1500), ..ProptestConfig::default() });
    let devices = std::cell::Cell::new(0);
    let result = runner.run(&strategy, |(request, change, count)| {
        let text = changed(&request, change);
        let descriptors: Vec<BorrowedFd<'_>> = vec![file.as_fd(); count];
        match serde_json::from_slice::<Value>(&text) {
            Ok(value) => connection.send(&value, &descriptors).expect("sent"),
            Err(_) => drop(send(&connection, &text, SendFlags::NOSIGNAL).expect("sent")),
        }
        let answer = connection.receive().expect("received").expect("an answer").value;
        if answer.get("devname").is_some() {
            devices.set(devices.get() + 1);
            let place = |name: &str| request_place(&text, name);
            prop_assert!(place("fd") != place("dir_fd"), "one descriptor is not both");
            prop_assert!(place("fd").max(place("dir_fd")) < Some(count as u64));
        } else {
            prop_assert!(answer["exception"]["value"].is_string(), "{}", answer);
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(devices.get() > 20, "{} requests were good", devices.get());
    drop(connection);
    server.close().expect("closed");
}

fn request_place(text: &[u8], name: &str) -> Option<u64> {
    serde_json::from_slice::<Value>(text).ok()?.get(name)?.as_u64()
}

proptest! {
    #[test]
    fn what_is_no_exception_is_none(
        messages in prop::collection::vec((json(EXCEPTION), any::<Option<(prop::sample::Index, u8)>>()), 0..8),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("osbuild");
        let exceptions = Exceptions::listen(&path).expect("listens");
        let mut expected = None;
        for (message, change) in messages {
            let text = changed(&message, change);
            send(client(&path), &text, SendFlags::NOSIGNAL).expect("sent");
            if let Ok(value) = serde_json::from_slice::<Value>(&text)
                && value["method"] == "exception"
                && let Some(exception) = value.get("exception")
            {
                expected = Some(json!({"type": "exception", "data": exception}));
            }
        }
        prop_assert_eq!(exceptions.take(), expected);
        prop_assert!(fs::symlink_metadata(&path).is_ok());
    }
}
