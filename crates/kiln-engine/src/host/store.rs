//! The endpoint over which a service asks for what is in the store: a socket at a path that it is told.
//!
//! It is served by whoever waits for the service's answer, one request after the other. A request that makes no sense
//! is answered with an error, so that the service does not wait for ever.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::endpoint::Endpoint;
use kiln_api::input::Store;
use kiln_api::wire::Socket;
use rustix::net::{SocketFlags, accept_with};
use serde_json::{Value, json};

/// The listening socket and those who have connected.
pub(super) struct StoreServer<'a> {
    endpoint: Endpoint,
    connections: Vec<Socket>,
    store: &'a dyn Store,
}

impl<'a> StoreServer<'a> {
    /// Listens in a directory, and says where.
    pub(super) fn listen(directory: &Path, store: &'a dyn Store) -> Result<(Self, PathBuf), ModuleError> {
        let path = directory.join("store");
        let endpoint =
            Endpoint::listen(&path, SocketFlags::NONBLOCK).map_err(ModuleError::io("listen on", &path))?;
        let address = endpoint.address.clone();
        Ok((Self { endpoint, connections: Vec::new(), store }, address))
    }

    /// What is to be waited for.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.endpoint.socket.as_fd()).chain(self.connections.iter().map(AsFd::as_fd))
    }

    /// Answers whoever has asked.
    pub(super) fn serve(&mut self) {
        while let Ok(connection) =
            accept_with(&self.endpoint.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            self.connections.push(Socket::from(connection));
        }
        let store = self.store;
        self.connections.retain(|connection| answer_all(connection, store));
    }
}

/// Answers what a connection has asked; says whether it is still open.
fn answer_all(connection: &Socket, store: &dyn Store) -> bool {
    loop {
        match connection.receive() {
            Ok(Some(message)) => {
                let answer = answer(&message.value, store)
                    .unwrap_or_else(|error| json!({"path": null, "error": error.to_string()}));
                if connection.send(&answer, &[]).is_err() {
                    return false;
                }
            }
            // Nothing more for now.
            Err(kiln_api::wire::WireError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::WouldBlock =>
            {
                return true;
            }
            Ok(None) | Err(_) => return false,
        }
    }
}

fn answer(request: &Value, store: &dyn Store) -> Result<Value, ModuleError> {
    let text = |member: &str| {
        request
            .get(member)
            .and_then(Value::as_str)
            .ok_or_else(|| ModuleError::invalid(format!("the request has no `{member}`")))
    };
    let path = |path: Option<&Path>| json!({"path": path.map(|path| path.display().to_string())});
    match text("method")? {
        "read-tree" => Ok(path(store.read_tree(text("object-id")?)?.as_deref())),
        "read-tree-at" => {
            let target = Path::new(text("target")?);
            let subtree = request.get("subtree").and_then(Value::as_str);
            let found = store.read_tree_at(text("object-id")?, target, subtree)?;
            Ok(path(found.then_some(target)))
        }
        "mkdtemp" => {
            let prefix = request.get("prefix").and_then(Value::as_str).unwrap_or("tmp");
            let suffix = request.get("suffix").and_then(Value::as_str).unwrap_or_default();
            let made = store.mkdtemp(prefix)?.join(format!("d{suffix}"));
            std::fs::create_dir(&made).map_err(ModuleError::io("create directory", &made))?;
            Ok(path(Some(&made)))
        }
        "source" => Ok(path(Some(&store.source(text("name")?)))),
        other => Err(ModuleError::invalid(format!("there is no method `{other}`"))),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket_with};

    use super::*;

    struct Shelf {
        directory: tempfile::TempDir,
        mounted: RefCell<Vec<String>>,
    }

    impl Store for Shelf {
        fn read_tree(&self, id: &str) -> Result<Option<PathBuf>, ModuleError> {
            Ok((id == "known").then(|| "/trees/known".into()))
        }

        fn read_tree_at(&self, id: &str, target: &Path, subtree: Option<&str>) -> Result<bool, ModuleError> {
            if id == "broken" {
                return Err(ModuleError::invalid("no such subtree"));
            }
            self.mounted.borrow_mut().push(format!("{id} at {} of {subtree:?}", target.display()));
            Ok(id == "known")
        }

        fn bind(&self, _source: &Path, _target: &Path) -> Result<(), ModuleError> {
            Err(ModuleError::invalid("programs mount for themselves"))
        }

        fn mkdtemp(&self, prefix: &str) -> Result<PathBuf, ModuleError> {
            let path = self.directory.path().join(format!("{prefix}1"));
            std::fs::create_dir(&path).map_err(ModuleError::io("create", &path))?;
            Ok(path)
        }

        fn source(&self, content_type: &str) -> PathBuf {
            Path::new("/sources").join(content_type)
        }
    }

    #[test]
    fn requests_are_answered() {
        let shelf =
            Shelf { directory: tempfile::tempdir().expect("a directory"), mounted: RefCell::default() };
        let (mut server, path) = StoreServer::listen(shelf.directory.path(), &shelf).expect("listens");
        let client = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a socket");
        connect(&client, &SocketAddrUnix::new(&path).expect("an address")).expect("connected");
        let client = Socket::from(client);
        let mut ask = |request: Value| {
            client.send(&request, &[]).expect("sent");
            server.serve();
            client.receive().expect("received").expect("an answer").value
        };
        let made = format!("{}/p-1/d-s", shelf.directory.path().display());
        for (request, expected) in [
            (json!({"method": "read-tree", "object-id": "known"}), json!({"path": "/trees/known"})),
            (json!({"method": "read-tree", "object-id": "other"}), json!({"path": null})),
            (
                json!({"method": "read-tree-at", "object-id": "known", "target": "/t", "subtree": "/etc"}),
                json!({"path": "/t"}),
            ),
            (json!({"method": "read-tree-at", "object-id": "other", "target": "/t"}), json!({"path": null})),
            (
                json!({"method": "read-tree-at", "object-id": "broken", "target": "/t"}),
                json!({"path": null, "error": "no such subtree"}),
            ),
            (json!({"method": "mkdtemp", "prefix": "p-", "suffix": "-s"}), json!({"path": made})),
            (
                json!({"method": "source", "name": "org.osbuild.files"}),
                json!({"path": "/sources/org.osbuild.files"}),
            ),
            (json!({"method": "burn"}), json!({"path": null, "error": "there is no method `burn`"})),
            (json!({"method": "source"}), json!({"path": null, "error": "the request has no `name`"})),
            (json!([]), json!({"path": null, "error": "the request has no `method`"})),
        ] {
            assert_eq!(ask(request.clone()), expected, "{request}");
        }
        assert_eq!(*shelf.mounted.borrow(), ["known at /t of Some(\"/etc\")", "other at /t of None"]);
        assert_eq!(server.descriptors().count(), 2);
        drop(client);
        server.serve();
        assert_eq!(server.descriptors().count(), 1, "who has gone is forgotten");
    }
}
