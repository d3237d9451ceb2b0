//! One try to fetch one file from one place: request, redirections, body, checksum.
//!
//! What has arrived by earlier tries, or in an earlier run, is not asked for again (`Range`). A server that sends the
//! whole nevertheless is taken at its word; one that sends another part than was asked for is asked for the whole the
//! next time. Content that came in parts and is wrong as a whole is dropped, and begun again without counting as tried.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_api::source::DownloadEvent;
use ureq::http::Uri;

use super::client::{BUFFER, Clients};
use super::failure::Failure;
use super::meter::Meter;
use super::range::ContentRange;
use super::request::{follow, refusal};
use super::speeds::Speeds;
use super::tcp::Stop;
use super::url::Location;
use super::wanted::{Place, Wanted};
use crate::sources::arriving::Arriving;
use crate::sources::content::Workspace;

/// A transfer that brings fewer bytes per second than this for as long as a server may be silent is given up.
const SLOWEST: u64 = 1000;

/// What every transfer of a download needs.
pub(super) struct Transfers<'a> {
    pub(super) clients: &'a Clients<'a>,
    pub(super) speeds: &'a Speeds,
    pub(super) workspace: Workspace,
    pub(super) events: &'a (dyn Fn(DownloadEvent<'_>) + Sync),
    pub(super) stop: Stop,
    pub(super) stall: Duration,
    /// How long a transfer may be slow where there is another place.
    pub(super) slow: Duration,
    pub(super) room: &'a (dyn Fn(u64) -> Result<(), String> + Sync),
}

/// What is there of one file.
pub(super) struct Held<'a> {
    pub(super) meter: Meter<'a>,
    pub(super) content: Option<Arriving>,
    /// Whether it came by several requests.
    pub(super) in_parts: bool,
}

/// One try.
pub(super) struct Try<'a> {
    pub(super) wanted: &'a Wanted,
    pub(super) place: &'a Place,
    /// Whether the server must be asked for the whole.
    pub(super) whole: bool,
    /// The bytes per second below which the transfer is given up; none if there is no other place.
    pub(super) floor: Option<&'a dyn Fn() -> f64>,
}

impl Held<'_> {
    fn bytes(&self) -> u64 {
        self.content.as_ref().map_or(0, Arriving::bytes)
    }

    fn forget(&mut self) -> Result<(), Failure> {
        self.in_parts = false;
        self.meter.set(0);
        match &mut self.content {
            Some(content) => content.restart().map_err(internal),
            None => Ok(()),
        }
    }
}

impl Transfers<'_> {
    /// Fetches a file into the cache.
    pub(super) fn attempt(&self, this: &Try<'_>, held: &mut Held<'_>) -> Result<(), Failure> {
        // It may all be there: a run can end between the last byte and the new name.
        let bytes = held.bytes();
        if bytes > 0 && this.wanted.size.is_none_or(|size| size == bytes) && self.is_right(this, held) {
            return self.commit(held);
        }
        if this.wanted.size.is_some_and(|size| size <= bytes) {
            held.forget()?;
        }
        match &this.place.location {
            Location::File(path) => self.copy(this, held, path),
            Location::Web(uri) => self.fetch(this, held, uri),
        }
    }

    fn copy(&self, this: &Try<'_>, held: &mut Held<'_>, path: &Path) -> Result<(), Failure> {
        let cannot = |error| Failure::permanent(format!("cannot read `{}`: {error}", path.display()));
        let mut file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if !metadata.is_file() {
            return Err(Failure::permanent(format!("`{}` is not a regular file", path.display())));
        }
        if held.bytes() > metadata.len() || this.whole {
            held.forget()?;
        }
        file.seek(SeekFrom::Start(held.bytes())).map_err(cannot)?;
        let result = self.store(this, held, &mut file, Some(metadata.len()), Instant::now());
        result.map_err(|failure| if failure.at_once { failure } else { Failure { tries: 1, ..failure } })
    }

    fn fetch(&self, this: &Try<'_>, held: &mut Held<'_>, uri: &Uri) -> Result<(), Failure> {
        let from = if this.whole { 0 } else { held.bytes() };
        let since = Instant::now();
        let silence = this.floor.map(|_| self.stall.min(self.slow));
        let (response, place) = follow(self.clients, this.place, uri, from, silence)?;
        let length = response.body().content_length();
        let total = match response.status().as_u16() {
            206 if from > 0 => {
                let range = ContentRange::of(response.headers());
                let total = range.and_then(|range| range.total);
                if range.and_then(|range| range.part).is_none_or(|(first, _)| first != from) {
                    let reason = "the server answered with another part than was asked for";
                    return Err(Failure { whole: true, ..Failure::avoidable(reason) });
                }
                total.or_else(|| Some(from + length?))
            }
            206 => return Err(refusal(&response, &place)),
            416 if from > 0 => {
                held.forget()?;
                return Err(Failure::avoidable(format!("the server has nothing after byte {from}")));
            }
            status if (200..300).contains(&status) => {
                held.forget()?;
                // What ends with the connection may have ended early.
                let is_closed = length.is_none() && !response.headers().contains_key("transfer-encoding");
                if is_closed { this.wanted.size } else { length }
            }
            _ => return Err(refusal(&response, &place)),
        };
        self.store(this, held, &mut response.into_body().into_reader(), total, since)
    }

    /// Writes and verifies the content, whose first byte is the next one; `total` is how many there are of the whole,
    /// `since` when it was asked for.
    fn store(
        &self,
        this: &Try<'_>,
        held: &mut Held<'_>,
        content: &mut dyn Read,
        total: Option<u64>,
        since: Instant,
    ) -> Result<(), Failure> {
        let wanted = this.wanted;
        if let (Some(size), Some(total)) = (wanted.size, total)
            && size != total
        {
            return Err(Failure::wrong(format!("the content has {total} bytes instead of {size}")));
        }
        let size = total.or(wanted.size);
        let missing = size.unwrap_or(0).saturating_sub(held.bytes());
        (self.room)(missing).map_err(Failure::here)?;
        if held.content.is_none() {
            held.content = Some(Arriving::begin(&self.workspace, &wanted.checksum, size).map_err(internal)?);
        }
        held.in_parts |= held.bytes() > 0;
        let origin = &this.place.shown;
        (self.events)(DownloadEvent::Started { item: wanted.checksum.as_str(), origin, size });
        held.meter.set(held.bytes());
        let result = self.pass(this, held, content, since);
        held.meter.set(held.bytes());
        let arrived = held.bytes();
        match result {
            // Whatever the server said about the length: it is all there.
            Err(failure) if !failure.here && arrived > 0 && self.is_right(this, held) => {}
            result => result?,
        }
        let failure = match size {
            // What is missing can be asked for.
            Some(size) if arrived < size && total.is_some() && !self.is_right(this, held) => {
                return Err(Failure::passing("the connection was closed before the end"));
            }
            Some(size) if wanted.size.is_some() && arrived != size => {
                Failure::wrong(format!("the content has {arrived} bytes instead of {size}"))
            }
            _ if self.is_right(this, held) => return self.commit(held),
            _ => {
                let found = held.content.as_ref().map(|content| content.checksum().to_string());
                let found = found.unwrap_or_default();
                Failure::wrong(format!("the content has another checksum: {found}"))
            }
        };
        let in_parts = held.in_parts;
        held.forget()?;
        Err(if in_parts { Failure::avoidable(failure.reason) } else { failure })
    }

    fn is_right(&self, this: &Try<'_>, held: &Held<'_>) -> bool {
        held.content.as_ref().is_some_and(|content| content.checksum() == this.wanted.checksum)
    }

    fn commit(&self, held: &mut Held<'_>) -> Result<(), Failure> {
        held.meter.set(held.bytes());
        held.content.take().map_or(Ok(()), |content| content.commit().map_err(internal))
    }

    /// Passes the content on to file and checksum as it arrives.
    fn pass(
        &self,
        this: &Try<'_>,
        held: &mut Held<'_>,
        content: &mut dyn Read,
        since: Instant,
    ) -> Result<(), Failure> {
        let Held { meter, content: Some(target), .. } = held else { return Ok(()) };
        let host = this.place.host();
        let mut buffer = vec![0; BUFFER];
        let mut window = Window { start: since, bytes: 0 };
        let mut patience = Window::new();
        loop {
            if self.stop.is_set() {
                return Err(Failure::permanent("interrupted"));
            }
            let count = match content.read(&mut buffer) {
                Ok(0) => {
                    self.speeds.record(host, window.bytes, window.start.elapsed());
                    return Ok(());
                }
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::client(&error.into())),
            };
            let chunk = buffer.get(..count).unwrap_or_default();
            let arrived = target.bytes() + count as u64;
            if let Some(size) = this.wanted.size.filter(|size| arrived > *size) {
                // Not written: nobody has to make room for what is wrong already.
                return Err(Failure::wrong(format!("the content has more than {size} bytes")));
            }
            target.write(chunk).map_err(|error| Failure::here(error.to_string()))?;
            let now = Instant::now();
            meter.show(arrived, now);
            window.bytes += count as u64;
            patience.bytes += count as u64;
            if let Some(time) = patience.over(now, self.stall) {
                if patience.bytes < SLOWEST * time.as_secs() {
                    return Err(Failure::passing(format!("slower than {SLOWEST} bytes per second")));
                }
                patience = Window::new();
            }
            if let Some(time) = window.over(now, self.slow) {
                let speed = window.bytes as f64 / time.as_secs_f64();
                self.speeds.record(host, window.bytes, time);
                if this.floor.is_some_and(|floor| speed < floor()) {
                    let speed = speed as u64 / 1000;
                    return Err(Failure::passing(format!("slow ({speed} kB/s)")));
                }
                window = Window::new();
            }
        }
    }
}

/// What has arrived since some time.
struct Window {
    start: Instant,
    bytes: u64,
}

impl Window {
    fn new() -> Self {
        Self { start: Instant::now(), bytes: 0 }
    }

    /// How long it is open, if that is longer than it was to be.
    fn over(&self, now: Instant, length: Duration) -> Option<Duration> {
        let time = now.duration_since(self.start);
        (time >= length).then_some(time)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands where an error is mapped")]
fn internal(error: kiln_api::ModuleError) -> Failure {
    Failure::here(error.to_string())
}
