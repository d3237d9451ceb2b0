//! The socket `/run/osbuild/api/remoteloop`, over which a stage asks for loop devices.
//!
//! A request is `{fd, dir_fd, offset, sizelimit, lock, partscan, read_only, sector_size}`, where the first two are
//! the places of descriptors that come with it: an open file, and the directory for the device's node. The answer is
//! `{devname}`, or an exception. The devices live as long as the stage.

use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::JoinHandle;

use kiln_api::ModuleError;
use kiln_api::device::OpenDevice;
use kiln_api::endpoint::Endpoint;
use kiln_api::loops::{LoopRequest, Loops};
use kiln_api::wire::{Message, Socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketFlags, accept_with};
use serde_json::{Value, json};

/// The endpoint of one stage. Dropping it closes the devices as well as it can.
pub(super) struct LoopServer {
    stop: Option<PipeWriter>,
    serving: Option<JoinHandle<Vec<Box<dyn OpenDevice>>>>,
}

impl LoopServer {
    /// Listens at a path and serves until it is closed.
    pub(super) fn start(path: &Path, loops: &'static dyn Loops) -> io::Result<Self> {
        let endpoint = Endpoint::listen(path, SocketFlags::empty())?;
        let (stopped, stop) = io::pipe()?;
        let serving = std::thread::spawn(move || serve(&endpoint.socket, &stopped.into(), loops));
        Ok(Self { stop: Some(stop), serving: Some(serving) })
    }

    /// Closes all devices. All of it is tried; the first failure is returned.
    pub(super) fn close(mut self) -> Result<(), ModuleError> {
        self.close_now()
    }

    fn close_now(&mut self) -> Result<(), ModuleError> {
        self.stop = None;
        let Some(serving) = self.serving.take() else { return Ok(()) };
        let mut devices = serving.join().unwrap_or_default();
        let mut result = Ok(());
        while let Some(device) = devices.pop() {
            result = result.and(device.close());
        }
        result
    }
}

impl Drop for LoopServer {
    fn drop(&mut self) {
        let _ = self.close_now();
    }
}

/// Serves until the other end of a pipe is closed, and returns the devices that were made.
fn serve(listener: &OwnedFd, stopped: &OwnedFd, loops: &dyn Loops) -> Vec<Box<dyn OpenDevice>> {
    let mut devices = Vec::new();
    let mut connections: Vec<Socket> = Vec::new();
    loop {
        let first = [stopped.as_fd(), listener.as_fd()];
        let mut polled: Vec<PollFd<'_>> = first
            .into_iter()
            .chain(connections.iter().map(AsFd::as_fd))
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
            .collect();
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return devices,
        }
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        drop(polled);
        let [stop, knock, talk @ ..] = ready.as_slice() else { return devices };
        if *stop {
            return devices;
        }
        let mut talks = talk.iter();
        connections.retain(|connection| {
            !talks.next().copied().unwrap_or_default() || answer(connection, loops, &mut devices)
        });
        if *knock && let Ok(connection) = accept_with(listener, SocketFlags::CLOEXEC) {
            connections.push(Socket::from(connection));
        }
    }
}

/// Answers one request; says whether the connection is still of use.
fn answer(connection: &Socket, loops: &dyn Loops, devices: &mut Vec<Box<dyn OpenDevice>>) -> bool {
    let answer = match connection.receive() {
        Ok(None) => return false,
        Ok(Some(message)) => attach(message, loops),
        Err(error) => Err(ModuleError::invalid(crate::chain(&error))),
    };
    let text = match answer {
        Ok(device) => {
            let name = device.reply().path.clone();
            devices.push(device);
            json!({"devname": name})
        }
        Err(error) => json!({
            "method": "exception",
            "exception": {"type": "RuntimeError", "value": error.to_string(), "traceback": ""},
        }),
    };
    connection.send(&text, &[]).is_ok()
}

fn attach(message: Message, loops: &dyn Loops) -> Result<Box<dyn OpenDevice>, ModuleError> {
    let Message { value, descriptors } = message;
    let mut descriptors: Vec<Option<OwnedFd>> = descriptors.into_iter().map(Some).collect();
    let mut take = |member: &str| {
        let place = value.get(member).and_then(Value::as_u64).and_then(|place| usize::try_from(place).ok());
        let place = place.ok_or_else(|| ModuleError::invalid(format!("the request has no `{member}`")))?;
        let found = descriptors.get_mut(place).and_then(Option::take);
        found.ok_or_else(|| {
            ModuleError::invalid(format!("`{member}` is {place}: no such descriptor came with it"))
        })
    };
    let (file, dev) = (take("fd")?, take("dir_fd")?);
    let request: LoopRequest = serde_json::from_value(value.clone())
        .map_err(|error| ModuleError::invalid(format!("the request is not as it must be: {error}")))?;
    loops.attach(file, dev, &request)
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::sync::Mutex;

    use kiln_api::device::DeviceReply;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket_with};
    use serde_json::Map;

    use super::*;

    static ATTACHED: Mutex<Vec<String>> = Mutex::new(Vec::new());

    struct Recorder;
    struct Recorded(DeviceReply);

    impl Loops for Recorder {
        fn attach(
            &self,
            _file: OwnedFd,
            _dev: OwnedFd,
            request: &LoopRequest,
        ) -> Result<Box<dyn OpenDevice>, ModuleError> {
            if request.sector_size == 3 {
                return Err(ModuleError::invalid("no such sectors"));
            }
            let mut attached = ATTACHED.lock().expect("not poisoned");
            attached.push(format!("{request:?}"));
            let path = format!("loop{}", attached.len());
            Ok(Box::new(Recorded(DeviceReply { path, data: Map::new() })))
        }
    }

    impl OpenDevice for Recorded {
        fn reply(&self) -> &DeviceReply {
            &self.0
        }

        fn close(self: Box<Self>) -> Result<(), ModuleError> {
            ATTACHED.lock().expect("not poisoned").push(format!("closed {}", self.0.path));
            Ok(())
        }
    }

    #[test]
    fn devices_are_made_as_asked_for_and_closed_in_reverse_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("remoteloop");
        let server = LoopServer::start(&path, &Recorder).expect("listens");
        let client = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a socket");
        connect(&client, &SocketAddrUnix::new(&path).expect("an address")).expect("connected");
        let client = Socket::from(client);
        let file = tempfile::tempfile().expect("a file");
        let ask = |request: Value, descriptors: &[BorrowedFd<'_>]| {
            client.send(&request, descriptors).expect("sent");
            client.receive().expect("received").expect("an answer").value
        };
        let both = [file.as_fd(), file.as_fd()];
        assert_eq!(ask(json!({"fd": 0, "dir_fd": 1}), &both), json!({"devname": "loop1"}));
        let whole = json!({
            "fd": 1, "dir_fd": 0, "offset": 512, "sizelimit": 1024, "lock": true, "partscan": true, "read_only": true,
            "sector_size": 4096,
        });
        assert_eq!(ask(whole, &both), json!({"devname": "loop2"}));
        let refused = |request: Value, descriptors: &[BorrowedFd<'_>]| {
            ask(request, descriptors)["exception"]["value"].as_str().expect("an exception").to_owned()
        };
        assert_eq!(refused(json!({"dir_fd": 1}), &both), "the request has no `fd`");
        assert_eq!(
            refused(json!({"fd": 0, "dir_fd": 0}), &both),
            "`dir_fd` is 0: no such descriptor came with it"
        );
        assert_eq!(refused(json!({"fd": 0, "dir_fd": 1}), &[]), "`fd` is 0: no such descriptor came with it");
        assert_eq!(refused(json!({"fd": 0, "dir_fd": 1, "sector_size": 3}), &both), "no such sectors");
        assert!(
            refused(json!({"fd": 0, "dir_fd": 1, "offset": -1}), &both).starts_with("the request is not")
        );
        drop(client);
        server.close().expect("closed");
        let first = "LoopRequest { offset: None, sizelimit: None, lock: false, partscan: false, read_only: false, \
                     sector_size: 512 }";
        let second = "LoopRequest { offset: Some(512), sizelimit: Some(1024), lock: true, partscan: true, \
                      read_only: true, sector_size: 4096 }";
        assert_eq!(*ATTACHED.lock().expect("not poisoned"), [first, second, "closed loop2", "closed loop1"]);
    }
}
