//! Sockets for the HTTP client that stop at once when the run is interrupted.
//!
//! The client's own sockets and lookups block until they time out. Here a name is looked up on a thread of
//! its own, a connection is opened without blocking, and both waits look at the [`Stop`] every 50 ms. What is
//! connected is registered with the client's pool, whose shutdown ends reads and writes.
//!
//! A plain `http` URL behind an `http` proxy is asked for in absolute form (RFC 9112, 3.2.2), as curl does and as
//! proxies expect that allow `CONNECT` to port 443 only. The client can only `CONNECT`, so the connector leads
//! the connection to the proxy and completes the request line and header of each request.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};
use ureq::{Error, Timeout};

/// How often a wait looks whether the run was interrupted.
pub(super) const SLICE: Duration = Duration::from_millis(50);
/// How long an address of a host is used before the name is looked up again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Set once when the run is interrupted.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_set() { Err(Error::Io(io::Error::other("interrupted"))) } else { Ok(()) }
    }
}

/// An `http` proxy for plain requests.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    /// Where the proxy is.
    pub(super) proxy: Uri,
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<String>,
}

/// Looks names up, once a minute, and gives up when the run is interrupted.
#[derive(Debug)]
pub(super) struct Lookup {
    stop: Stop,
    forward: Option<Forward>,
    known: Mutex<HashMap<String, (Instant, Vec<SocketAddr>)>>,
}

impl Lookup {
    pub(super) fn new(stop: Stop, forward: Option<Forward>) -> Self {
        Self { stop, forward, known: Mutex::default() }
    }

    fn addresses(&self, name: String, timeout: NextTimeout) -> Result<Vec<SocketAddr>, Error> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((time, addresses)) = known().get(&name)
            && time.elapsed() < REMEMBERED
        {
            return Ok(addresses.clone());
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let wanted = name.clone();
        // Not joined: the system's lookup cannot be stopped, and nobody waits for it after an interruption.
        std::thread::spawn(move || {
            // Nobody listens any more: as good.
            let _ = sender.send(wanted.to_socket_addrs().map(|addresses| addresses.collect::<Vec<_>>()));
        });
        let start = Instant::now();
        loop {
            self.stop.check()?;
            match receiver.recv_timeout(SLICE) {
                Ok(result) => {
                    let addresses = result?;
                    known().insert(name, (Instant::now(), addresses.clone()));
                    return Ok(addresses);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Error::HostNotFound),
                Err(mpsc::RecvTimeoutError::Timeout) if start.elapsed() >= *timeout.after => {
                    return Err(Error::Timeout(timeout.reason));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Resolver for Lookup {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let uri = self.forward.as_ref().map_or(uri, |forward| &forward.proxy);
        let name = match (uri.scheme(), uri.authority()) {
            (Some(scheme), Some(authority)) => DefaultResolver::host_and_port(scheme, authority),
            _ => None,
        };
        let name = name.ok_or_else(|| Error::BadUri(uri.to_string()))?;
        let mut result = self.empty();
        let addresses = self.addresses(name, timeout)?;
        for address in config.ip_family().keep_wanted(addresses.into_iter()).take(8) {
            result.push(address);
        }
        if result.is_empty() { Err(Error::HostNotFound) } else { Ok(result) }
    }
}

/// Opens connections.
#[derive(Debug)]
pub(super) struct Tcp {
    stop: Stop,
    forward: Option<Forward>,
}

impl Tcp {
    pub(super) fn new(stop: Stop, forward: Option<Forward>) -> Self {
        Self { stop, forward }
    }

    /// Tries one address after the other; each gets half of the time that is left, the last one all of it.
    fn connect_any(&self, details: &ConnectionDetails<'_>) -> Result<TcpStream, Error> {
        let addresses: &[SocketAddr] = &details.addrs;
        let start = Instant::now();
        let mut last = Error::HostNotFound;
        for (index, address) in addresses.iter().enumerate() {
            let left = details.timeout.after.saturating_sub(start.elapsed());
            let time = if index + 1 == addresses.len() { left } else { left / 2 };
            match self.connect_one(*address, time) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
            self.stop.check()?;
        }
        Err(last)
    }

    fn connect_one(&self, address: SocketAddr, time: Duration) -> Result<TcpStream, Error> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(io_error)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {}
            Err(rustix::io::Errno::INPROGRESS) => {
                let start = Instant::now();
                let slice = Timespec { tv_sec: 0, tv_nsec: SLICE.subsec_nanos().into() };
                loop {
                    self.stop.check()?;
                    match poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&slice)) {
                        Ok(0) if start.elapsed() >= time => return Err(Error::Timeout(Timeout::Connect)),
                        Ok(0) | Err(rustix::io::Errno::INTR) => {}
                        Ok(_) => break,
                        Err(error) => return Err(io_error(error)),
                    }
                }
                rustix::net::sockopt::socket_error(&socket).map_err(io_error)?.map_err(io_error)?;
            }
            Err(error) => return Err(io_error(error)),
        }
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl<In: Transport> Connector<In> for Tcp {
    type Out = Either<In, Connection>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(chained) = chained {
            return Ok(Some(Either::A(chained)));
        }
        let socket = Arc::new(Socket(self.connect_any(details)?));
        let handle: Weak<Socket> = Arc::downgrade(&socket);
        (details.register_shutdown)(handle)?;
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        let absolute = self.forward.as_ref().map(|forward| {
            let authority = details.uri.authority().map_or("", |authority| authority.as_str());
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            Absolute { origin: format!("http://{host}"), authorization: forward.authorization.clone() }
        });
        Ok(Some(Either::B(Connection {
            socket,
            buffers: LazyBuffers::new(input, output),
            absolute,
            read_timeout: None,
            write_timeout: None,
        })))
    }
}

/// A socket that the client's pool can shut down from another thread.
#[derive(Debug)]
struct Socket(TcpStream);

impl ShutdownHandle for Socket {
    fn shutdown(&self) {
        // Closed already is as good.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

struct Absolute {
    origin: String,
    authorization: Option<String>,
}

/// An open connection.
pub(super) struct Connection {
    socket: Arc<Socket>,
    buffers: LazyBuffers,
    absolute: Option<Absolute>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        let time = timeout.not_zero().map(|time| *time);
        if time != self.write_timeout {
            self.socket.0.set_write_timeout(time)?;
            self.write_timeout = time;
        }
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        let mut socket = &self.socket.0;
        let result = match &self.absolute {
            Some(absolute) => socket.write_all(&absolute.complete(output)),
            None => socket.write_all(output),
        };
        result.map_err(|error| timed_out(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        let time = timeout.not_zero().map(|time| *time);
        if time != self.read_timeout {
            self.socket.0.set_read_timeout(time)?;
            self.read_timeout = time;
        }
        let amount = loop {
            match (&self.socket.0).read(self.buffers.input_append_buf()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.map_err(|error| timed_out(error, timeout))?,
            }
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        // An idle connection has nothing to say: bytes, an end and an error all make it useless.
        let quiet = self.socket.0.set_nonblocking(true).is_ok()
            && (&self.socket.0).read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        quiet && self.socket.0.set_nonblocking(false).is_ok()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Connection").field(&self.socket.0.peer_addr().ok()).finish()
    }
}

impl Absolute {
    /// Turns the head of a request (`GET /path …`) into one for a proxy (`GET http://host/path …`).
    fn complete(&self, head: &[u8]) -> Vec<u8> {
        let line = head.windows(2).position(|pair| pair == b"\r\n").map(|at| at + 2);
        let (Some(path), Some(line)) = (head.strip_prefix(b"GET "), line) else { return head.to_vec() };
        let (line, headers) = path.split_at(line - 4);
        let mut result = [b"GET ", self.origin.as_bytes(), line].concat();
        if let Some(authorization) = &self.authorization {
            result.extend_from_slice(format!("Proxy-Authorization: {authorization}\r\n").as_bytes());
        }
        result.extend_from_slice(headers);
        result
    }
}

fn timed_out(error: io::Error, timeout: NextTimeout) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => Error::Io(error),
    }
}

fn io_error(error: rustix::io::Errno) -> Error {
    Error::Io(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_completed_for_a_proxy() {
        let absolute = Absolute {
            origin: "http://h.invalid:81".to_owned(),
            authorization: Some("Basic eA==".to_owned()),
        };
        let head = absolute.complete(b"GET /a HTTP/1.1\r\nhost: h.invalid:81\r\n\r\n");
        assert_eq!(
            String::from_utf8_lossy(&head),
            "GET http://h.invalid:81/a HTTP/1.1\r\nProxy-Authorization: Basic eA==\r\nhost: h.invalid:81\r\n\r\n"
        );
    }
}
