//! The decoders of the host's side against programs that say anything at all.

use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::input::Store;
use kiln_api::wire::Socket;
use proptest::prelude::*;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};
use serde_json::{Map, Value, json};

use super::message::Answer;
use super::source::failures;
use super::store::StoreServer;

/// Any value, with the members that decoders look for more often than chance would have it.
pub(crate) fn json(members: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(members).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            3 => prop::collection::vec((prop::sample::select(members), inner), 0..6).prop_map(|members| {
                let members = members.into_iter().map(|(name, value)| (name.to_owned(), value));
                Value::from(members.collect::<Map<_, _>>())
            }),
        ]
    })
}

const ANSWER: &[&str] =
    &["type", "data", "reply", "signal", "exception", "name", "value", "backtrace", "method"];
const RESULTS: &[&str] =
    &["success", "results", "error", "metadata", "checksum", "output", "sha256:a", "true"];
const REQUEST: &[&str] = &[
    "method",
    "object-id",
    "target",
    "subtree",
    "prefix",
    "suffix",
    "name",
    "read-tree",
    "read-tree-at",
    "source",
];

/// A store that has nothing, and knows when it is asked for what it may not be asked for.
struct Nothing;

impl Store for Nothing {
    fn read_tree(&self, _: &str) -> Result<Option<PathBuf>, ModuleError> {
        Ok(None)
    }

    fn read_tree_at(&self, _: &str, _: &Path, _: Option<&str>) -> Result<bool, ModuleError> {
        Ok(false)
    }

    fn bind(&self, _: &Path, _: &Path) -> Result<(), ModuleError> {
        Err(ModuleError::invalid("programs mount for themselves"))
    }

    fn mkdtemp(&self, _: &str) -> Result<PathBuf, ModuleError> {
        Err(ModuleError::invalid("no room"))
    }

    fn source(&self, name: &str) -> PathBuf {
        Path::new("/sources").join(name)
    }
}

proptest! {
    #[test]
    fn an_answer_is_understood_or_told_to_be_wrong(message in json(ANSWER)) {
        let kind = message.get("type").and_then(Value::as_str);
        match Answer::read(&message) {
            Ok(Answer::Reply(reply)) => {
                prop_assert_eq!(kind, Some("reply"));
                prop_assert_eq!(&reply, &message["data"]["reply"]);
            }
            Ok(Answer::Signal) => prop_assert_eq!(kind, Some("signal")),
            Ok(Answer::Exception { .. }) => prop_assert_eq!(kind, Some("exception")),
            Err(reason) => prop_assert!(!reason.is_empty()),
        }
    }

    #[test]
    fn a_source_that_does_not_say_that_it_succeeded_has_failed(reply in json(RESULTS)) {
        if let Ok(failed) = failures(&reply) {
            prop_assert_eq!(failed.is_empty(), {
                let results = reply["results"].as_array();
                let all = results.is_none_or(|results| results.iter().all(|result| result["success"] == true));
                reply["success"] == true && all
            });
        }
    }

    #[test]
    fn every_request_to_the_store_is_answered_while_it_can_be_read(
        requests in prop::collection::vec((json(REQUEST), any::<Option<(prop::sample::Index, u8)>>()), 1..6),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut server, path) = StoreServer::listen(directory.path(), &Nothing).expect("listens");
        let client = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let client = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket");
            connect(&client, &SocketAddrUnix::new(&path).expect("an address")).expect("connected");
            client
        };
        for (request, change) in requests {
            let connection = client();
            let mut text = request.to_string().into_bytes();
            if let Some((place, byte)) = change {
                let at = place.index(text.len());
                text[at] = byte;
            }
            send(&connection, &text, SendFlags::NOSIGNAL).expect("sent");
            server.serve();
            let answer = Socket::from(connection).receive().expect("an answer, or the end");
            let readable = serde_json::from_slice::<Value>(&text).is_ok();
            prop_assert_eq!(answer.is_some(), readable, "{}", String::from_utf8_lossy(&text));
            if let Some(answer) = answer {
                prop_assert!(answer.value.get("path").is_some(), "{}", answer.value);
            }
        }
        // Whoever asks sensibly is still served.
        let connection = Socket::from(client());
        connection.send(&json!({"method": "source", "name": "a"}), &[]).expect("sent");
        server.serve();
        let answer = connection.receive().expect("received").expect("an answer");
        prop_assert_eq!(answer.value, json!({"path": "/sources/a"}));
    }
}
