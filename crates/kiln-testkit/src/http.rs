//! A loopback HTTP server that answers as a test's script says, misbehaviour included.
//!
//! Each target (`/path`, or `http://host/path` as a proxy is asked) has a list of [`Reply`]s; each request
//! takes the next one, and the last one stays. Everything is recorded: requests, connections, how many
//! requests were being answered at the same time. Connections are kept open between requests.
//!
//! `CONNECT` is carried out for any port of the loopback interface, so the server can be a proxy.
//! Dropping the server closes its connections and waits for its threads.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a reply waits for what it is held for before it gives up: only failing tests see it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection as the server sees it; TLS servers wrap the socket.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

type Wrap = dyn Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync;

/// What the server does with a request.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    length: Length,
    ranges: Ranges,
    stop_at: Option<(u64, Stop)>,
    pace: Option<(usize, Duration)>,
    hold: usize,
}

/// Bytes, again and again, up to a length.
#[derive(Clone, Debug)]
struct Body {
    block: Arc<[u8]>,
    length: u64,
}

impl Body {
    /// Writes the bytes from a place on, up to another one; `pace` says how many at once, and how long after that
    /// nothing is sent.
    fn write(
        &self,
        stream: &mut dyn Write,
        from: u64,
        to: u64,
        pace: Option<(usize, Duration)>,
    ) -> io::Result<()> {
        let mut at = from;
        while at < to && !self.block.is_empty() {
            let start = usize::try_from(at % self.block.len() as u64).unwrap_or_default();
            let rest = self.block.get(start..).unwrap_or_default();
            let most =
                usize::try_from(to - at).unwrap_or(usize::MAX).min(pace.map_or(usize::MAX, |pace| pace.0));
            let piece = rest.get(..most).unwrap_or(rest);
            stream.write_all(piece)?;
            at += piece.len() as u64;
            if let Some((_, time)) = pace {
                stream.flush()?;
                std::thread::sleep(time);
            }
        }
        Ok(())
    }
}

/// What becomes of a request for a part.
#[derive(Clone, Debug)]
enum Ranges {
    Ignored,
    Honoured,
    /// The part that was asked for, said to be another one.
    Claimed(String),
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Right,
    Claimed(u64),
    None,
    Chunked,
}

#[derive(Clone, Copy, Debug)]
enum Stop {
    Close,
    Stall,
}

impl Reply {
    /// Answers 200 with a body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).body(body)
    }

    /// Answers with a status and no body.
    pub fn status(status: u16) -> Self {
        let body = Body { block: Arc::from(Vec::new()), length: 0 };
        let (headers, length, ranges) = (Vec::new(), Length::Right, Ranges::Ignored);
        Self { status, headers, body, length, ranges, stop_at: None, pace: None, hold: 0 }
    }

    /// Answers with a redirection.
    pub fn redirect(location: impl Into<String>) -> Self {
        Self::status(302).header("Location", location)
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        let block: Arc<[u8]> = Arc::from(body.into());
        self.body = Body { length: block.len() as u64, block };
        self
    }

    /// Sets a body of any length that takes no memory: a block of bytes, again and again.
    #[must_use]
    pub fn repeat(mut self, block: impl Into<Vec<u8>>, length: u64) -> Self {
        self.body = Body { block: Arc::from(block.into()), length };
        self
    }

    /// Answers requests for the rest of the body (`Range: bytes=N-`) with that rest.
    #[must_use]
    pub fn ranges(mut self) -> Self {
        self.ranges = Ranges::Honoured;
        self
    }

    /// Answers requests for the rest of the body with that rest and a `Content-Range` of one's own; none if it is empty.
    #[must_use]
    pub fn claim_range(mut self, range: impl Into<String>) -> Self {
        self.ranges = Ranges::Claimed(range.into());
        self
    }

    /// Sends so many bytes of the body at once, and then none for a while.
    #[must_use]
    pub fn paced(mut self, bytes: usize, pause: Duration) -> Self {
        self.pace = Some((bytes, pause));
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Claims another length than the body has, and closes the connection after the body.
    #[must_use]
    pub fn claim_length(mut self, length: u64) -> Self {
        self.length = Length::Claimed(length);
        self
    }

    /// Sends no length: the end of the connection is the end of the body.
    #[must_use]
    pub fn without_length(mut self) -> Self {
        self.length = Length::None;
        self
    }

    /// Sends the body in chunks.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.length = Length::Chunked;
        self
    }

    /// Closes the connection after so many bytes of the answer's body.
    #[must_use]
    pub fn cut_at(mut self, bytes: u64) -> Self {
        self.stop_at = Some((bytes, Stop::Close));
        self
    }

    /// Sends nothing more after so many bytes of the answer's body, until the client goes away.
    #[must_use]
    pub fn stall_at(mut self, bytes: u64) -> Self {
        self.stop_at = Some((bytes, Stop::Stall));
        self
    }

    /// Answers only once so many requests have been waiting at the same time.
    #[must_use]
    pub fn hold_for(mut self, requests: usize) -> Self {
        self.hold = requests;
        self
    }
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of the connection, from 0.
    pub connection: usize,
    /// `GET`
    pub method: String,
    /// The target as sent, normally a path.
    pub target: String,
    /// Names (in lower case) and values.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct State {
    scripts: HashMap<String, (usize, Vec<Reply>)>,
    requests: Vec<Request>,
    connections: usize,
    sockets: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
    active: usize,
    most_active: usize,
    stalled: usize,
    sent: u64,
    closing: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wrap: Box<Wrap>,
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server for plain HTTP.
    pub fn start() -> Self {
        Self::start_with("http", |socket| Ok(Box::new(socket)))
    }

    /// Starts a server whose connections are wrapped, in TLS for example, after they are accepted.
    ///
    /// # Panics
    ///
    /// If there is no free port on the loopback interface.
    pub fn start_with(
        scheme: &'static str,
        wrap: impl Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), wrap: Box::new(wrap) });
        let accepting = Arc::clone(&shared);
        let listener = std::thread::spawn(move || accept(&listener, &accepting));
        Self { address, scheme, shared, listener: Some(listener) }
    }

    /// The URL of a target.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Scripts the answers to a target: one after the other, the last one again and again.
    pub fn script(&self, target: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies = replies.into_iter().collect();
        self.state().scripts.insert(target.to_owned(), (0, replies));
    }

    /// Scripts the only answer to a target.
    pub fn serve(&self, target: &str, reply: Reply) {
        self.script(target, [reply]);
    }

    /// All requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// How many bytes of bodies were sent.
    pub fn sent(&self) -> u64 {
        self.state().sent
    }

    /// The highest number of requests that were being answered at the same time.
    pub fn most_active(&self) -> usize {
        self.state().most_active
    }

    /// Waits until so many answers stall.
    ///
    /// # Panics
    ///
    /// If that does not happen within ten seconds.
    pub fn wait_until_stalled(&self, count: usize) {
        let (_state, result) = self
            .shared
            .changed
            .wait_timeout_while(self.state(), PATIENCE, |state| state.stalled < count)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!result.timed_out(), "no {count} stalled answers");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let sockets = {
            let mut state = self.state();
            state.closing = true;
            std::mem::take(&mut state.sockets)
        };
        self.shared.changed.notify_all();
        for socket in sockets {
            // Already closed is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Wakes the listener, which then sees that the server is closing.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        let threads = std::mem::take(&mut self.state().threads);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for socket in listener.incoming() {
        let Ok(socket) = socket else { continue };
        let mut state = shared.lock();
        if state.closing {
            return;
        }
        // Answers in two writes would wait for the client's delayed acknowledgement.
        let _ = socket.set_nodelay(true);
        let number = state.connections;
        state.connections += 1;
        if let Ok(copy) = socket.try_clone() {
            state.sockets.push(copy);
        }
        let shared = Arc::clone(shared);
        state.threads.push(std::thread::spawn(move || {
            // A client that goes away in mid-answer is part of many tests.
            let _ = serve(&shared, number, socket);
        }));
    }
}

/// Answers the requests of one connection until either side closes it.
fn serve(shared: &Shared, connection: usize, socket: TcpStream) -> io::Result<()> {
    let raw = socket.try_clone()?;
    let result = (|| {
        let mut stream = BufReader::new((shared.wrap)(socket)?);
        while let Some(request) = read_request(&mut stream, connection)? {
            if request.method == "CONNECT" {
                shared.lock().requests.push(request.clone());
                return tunnel(stream.get_mut(), &raw, &request.target);
            }
            let reply = {
                let mut state = shared.lock();
                state.requests.push(request.clone());
                state.active += 1;
                state.most_active = state.most_active.max(state.active);
                next_reply(&mut state, &request.target)
            };
            shared.changed.notify_all();
            let open = answer(shared, stream.get_mut(), &raw, &reply, &request);
            shared.lock().active -= 1;
            if !open? {
                break;
            }
        }
        Ok(())
    })();
    let _ = raw.shutdown(Shutdown::Both);
    result
}

fn next_reply(state: &mut State, target: &str) -> Reply {
    let Some((next, replies)) = state.scripts.get_mut(target) else { return Reply::status(404) };
    let reply = replies.get(*next).or(replies.last()).cloned();
    *next += 1;
    reply.unwrap_or_else(|| Reply::status(404))
}

fn read_request(stream: &mut impl BufRead, connection: usize) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Some(Request { connection, method, target, headers }))
}

/// Sends a reply; `true` if the connection stays usable.
fn answer(
    shared: &Shared,
    stream: &mut dyn Write,
    socket: &TcpStream,
    reply: &Reply,
    request: &Request,
) -> io::Result<bool> {
    if reply.hold > 0 {
        let waiting = |state: &mut State| state.most_active < reply.hold && !state.closing;
        drop(shared.changed.wait_timeout_while(shared.lock(), PATIENCE, waiting));
    }
    let whole = reply.body.length;
    let asked = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let asked = asked.and_then(|from| from.parse::<u64>().ok());
    let (status, from, range) = match (&reply.ranges, asked) {
        (Ranges::Ignored, _) | (_, None) => (reply.status, 0, None),
        (_, Some(from)) if from >= whole => (416, whole, Some(format!("bytes */{whole}"))),
        (Ranges::Honoured, Some(from)) => (206, from, Some(format!("bytes {from}-{}/{whole}", whole - 1))),
        (Ranges::Claimed(range), Some(from)) => (206, from, Some(range.clone())),
    };
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(range) = range.filter(|range| !range.is_empty()) {
        head.push_str(&format!("Content-Range: {range}\r\n"));
    }
    match reply.length {
        Length::Right => head.push_str(&format!("Content-Length: {}\r\n", whole - from)),
        Length::Claimed(length) => {
            head.push_str(&format!("Content-Length: {}\r\n", length.saturating_sub(from)));
        }
        Length::None => head.push_str("Connection: close\r\n"),
        Length::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let end = reply.stop_at.map_or(whole, |(bytes, _)| whole.min(from + bytes));
    if matches!(reply.length, Length::Chunked) {
        let mut at = from;
        while at < end {
            let size = (end - at).min(1000);
            write!(stream, "{size:x}\r\n")?;
            reply.body.write(stream, at, at + size, reply.pace)?;
            stream.write_all(b"\r\n")?;
            at += size;
        }
        if reply.stop_at.is_none() {
            stream.write_all(b"0\r\n\r\n")?;
        }
    } else {
        reply.body.write(stream, from, end, reply.pace)?;
    }
    stream.flush()?;
    shared.lock().sent += end - from;
    match reply.stop_at {
        Some((_, Stop::Close)) => Ok(false),
        Some((_, Stop::Stall)) => {
            shared.lock().stalled += 1;
            shared.changed.notify_all();
            // Ends when the client closes, or when the server shuts the socket down.
            let _ = (&mut &*socket).read(&mut [0]);
            Ok(false)
        }
        None => Ok(matches!(reply.length, Length::Right | Length::Chunked)),
    }
}

/// Connects a client of the proxy with where it wants to go, until either side closes.
fn tunnel(stream: &mut dyn Write, client: &TcpStream, target: &str) -> io::Result<()> {
    let port = target.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    let server = TcpStream::connect(("127.0.0.1", port.ok_or(io::ErrorKind::InvalidInput)?))?;
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*client, &mut &server);
            let _ = server.shutdown(Shutdown::Both);
        });
        let _ = io::copy(&mut &server, &mut &*client);
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}
