//! Files from the web, for every source whose items are files that have URLs.
//!
//! - [`wanted`]: what is to be fetched, and where it can be had; [`url`]: quoting and joining; [`proxy`], [`tls`]: what
//!   the environment says.
//! - [`client`]: HTTP clients and their connections, over the sockets of [`tcp`].
//! - [`schedule`]: which file is next; [`tries`]: where it is tried, and whether again; [`speeds`]: which server is the
//!   best; [`failure`]: what a failure means.
//! - [`request`]: one request and where it leads; [`transfer`]: one try; [`range`]: answers with the rest of a file; [`meter`]: what is told of the progress.
//!
//! Memory per transfer is a few buffers of 128 KiB, whatever the size of the file.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use kiln_api::source::{DownloadEvent, DownloadRequest, ItemResult};

use self::client::Clients;
use self::schedule::Schedule;
use self::speeds::Speeds;
use self::tcp::{SLICE, Stop};
use self::transfer::Transfers;
use self::tries::Tries;
use self::url::Location;
pub(super) use self::wanted::{Mirrors, Place, Places, Wanted};
use super::content::{Workspace, is_cached};
use crate::checksum::Checksum;

mod client;
mod failure;
mod meter;
mod proxy;
mod range;
mod request;
mod schedule;
mod speeds;
mod tcp;
#[cfg(test)]
pub(super) mod tests;
mod tls;
mod transfer;
mod tries;
pub(super) mod url;
mod wanted;

/// How many items are fetched at the same time.
const PARALLEL: usize = 8;
/// How many of them from one server.
const PARALLEL_PER_HOST: usize = 6;
/// How long a server may be silent.
const STALL: Duration = Duration::from_secs(30);
/// How long a transfer may be slow before it is replaced by one from another place.
const SLOW: Duration = Duration::from_secs(5);
/// How long a server may take to be reached.
const CONNECT: Duration = Duration::from_secs(30);

/// How many servers are probed at the same time, and how long one may take to count as near.
const PROBES: usize = 16;
const NEAR: Duration = Duration::from_secs(1);

/// How long is waited for what; tests wait for nothing.
pub(super) struct Patience<'a> {
    pub(super) stall: Duration,
    pub(super) slow: Duration,
    pub(super) connect: Duration,
    /// Waits between two tries, unless the run is interrupted.
    pub(super) pause: &'a (dyn Fn(Duration, &AtomicBool) + Sync),
}

impl Default for Patience<'_> {
    fn default() -> Self {
        Self { stall: STALL, slow: SLOW, connect: CONNECT, pause: &pause }
    }
}

fn pause(duration: Duration, interrupted: &AtomicBool) {
    let start = Instant::now();
    while !interrupted.load(Ordering::Relaxed) {
        let left = duration.saturating_sub(start.elapsed());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(SLICE));
    }
}

/// Whether a file is in the cache, by the checksum of a manifest.
pub(super) fn is_file_cached(cache: &Path, checksum: &str) -> bool {
    Checksum::parse(checksum).is_ok_and(|checksum| is_cached(&cache.join(super::FILES), &checksum, None))
}

/// One request to a source, and what becomes of it.
pub(super) struct Web<'a> {
    request: &'a DownloadRequest<'a>,
    events: &'a (dyn Fn(DownloadEvent<'_>) + Sync),
    patience: &'a Patience<'a>,
    directory: PathBuf,
    stop: Stop,
    clients: Clients<'a>,
    speeds: Speeds,
    /// One for each item, in order.
    results: Mutex<Vec<Option<Result<bool, String>>>>,
}

impl<'a> Web<'a> {
    pub(super) fn new(
        request: &'a DownloadRequest<'a>,
        events: &'a (dyn Fn(DownloadEvent<'_>) + Sync),
        patience: &'a Patience<'a>,
    ) -> Self {
        let stop = Stop::default();
        Self {
            request,
            events,
            patience,
            directory: request.cache.join(super::FILES),
            clients: Clients::new(request.environment, stop.clone(), patience.stall, patience.connect),
            stop,
            speeds: Speeds::default(),
            results: Mutex::new(vec![None; request.items.len()]),
        }
    }

    /// Says what became of the item with that place in the request; `true` is for what was there already.
    pub(super) fn report(&self, index: usize, result: Result<bool, String>) {
        let Some(item) = self.request.items.keys().nth(index) else { return };
        (self.events)(match &result {
            Ok(cached) => DownloadEvent::Finished { item, cached: *cached },
            Err(reason) => DownloadEvent::Failed { item, reason },
        });
        if let Some(place) = self.results.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
            *place = Some(result);
        }
    }

    /// Reports a file if it is in the cache.
    pub(super) fn has(&self, index: usize, checksum: &Checksum, size: Option<u64>) -> bool {
        let has = is_cached(&self.directory, checksum, size);
        if has {
            self.report(index, Ok(true));
        }
        has
    }

    /// Fetches a short text, with as many tries as it is worth.
    pub(super) fn text(&self, place: &Place, limit: u64) -> Result<Vec<u8>, String> {
        let result = Mutex::new(Err("interrupted".to_owned()));
        self.side_by_side(1, &|| {
            let mut tries = 0;
            while !self.is_interrupted() {
                let failure = match request::text(&self.clients, place, limit) {
                    Ok(text) => {
                        *result.lock().unwrap_or_else(PoisonError::into_inner) = Ok(text);
                        return;
                    }
                    Err(failure) => failure,
                };
                tries += 1;
                if tries >= failure.tries && !self.is_interrupted() {
                    let count = if tries == 1 { String::new() } else { format!(" (after {tries} tries)") };
                    let reason = format!("{}: {}{count}", place.shown, failure.reason);
                    *result.lock().unwrap_or_else(PoisonError::into_inner) = Err(reason);
                    return;
                }
                (self.patience.pause)(failure.pause(tries), self.request.interrupted);
            }
        });
        result.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sorts servers by how soon they accept a connection; those that do not come last. What a proxy leads to cannot be
    /// measured and stays in front.
    pub(super) fn sort_by_distance(&self, servers: &mut Vec<(String, Location)>) {
        let distances = Mutex::new(vec![None; servers.len()]);
        let next = AtomicUsize::new(0);
        self.side_by_side(servers.len().min(PROBES), &|| {
            while !self.is_interrupted() {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some((_, location)) = servers.get(index) else { return };
                let distance = self.distance(location);
                if let Some(place) = distances.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
                    *place = distance;
                }
            }
        });
        let distances = distances.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<_> = servers.drain(..).zip(distances).collect();
        sorted.sort_by_key(|(_, distance)| distance.unwrap_or(Duration::MAX));
        servers.extend(sorted.into_iter().map(|(server, _)| server));
    }

    fn distance(&self, location: &Location) -> Option<Duration> {
        let Location::Web(uri) = location else { return Some(Duration::ZERO) };
        if self.clients.has_proxy(uri) {
            return Some(Duration::ZERO);
        }
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let address = (host, port).to_socket_addrs().ok()?.next()?;
        let start = Instant::now();
        TcpStream::connect_timeout(&address, NEAR).ok().map(|_| start.elapsed())
    }

    /// Fetches files side by side, each with its place in the request.
    pub(super) fn fetch(&self, files: Vec<(usize, Wanted)>) {
        if files.is_empty() {
            return;
        }
        let workspace = match Workspace::create(&self.directory) {
            Ok(workspace) => workspace,
            Err(error) => {
                files.iter().for_each(|(index, _)| self.report(*index, Err(error.to_string())));
                return;
            }
        };
        let transfers = Transfers {
            clients: &self.clients,
            speeds: &self.speeds,
            workspace,
            events: self.events,
            stop: self.stop.clone(),
            stall: self.patience.stall,
            slow: self.patience.slow,
            room: self.request.room,
        };
        let tries = Tries::new(transfers, self.patience, self.request.interrupted);
        let workers = self.request.parallel.unwrap_or(PARALLEL).clamp(1, files.len());
        let per_host = self.request.parallel.unwrap_or(PARALLEL_PER_HOST);
        let schedule = Schedule::new(files, per_host, &self.speeds);
        self.side_by_side(workers, &|| {
            while let Some(mut next) = schedule.next(|| self.is_interrupted()) {
                let result = tries.run(&mut next).map(|()| false);
                self.report(next.index, result);
            }
        });
    }

    /// The results; what has none was left undone by an interruption.
    pub(super) fn finish(self) -> Vec<ItemResult> {
        let results = self.results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let keys = self.request.items.keys().cloned();
        keys.zip(results)
            .map(|(checksum, result)| match result {
                Some(Ok(cached)) => ItemResult { checksum, cached, error: None },
                Some(Err(error)) => ItemResult { checksum, cached: false, error: Some(error) },
                None => ItemResult { checksum, cached: false, error: Some("interrupted".to_owned()) },
            })
            .collect()
    }

    fn is_interrupted(&self) -> bool {
        self.request.interrupted.load(Ordering::Relaxed)
    }

    /// Does work on so many threads, and ends what they wait for when the run is interrupted.
    fn side_by_side(&self, workers: usize, work: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| {
            // Dropped when the last worker ends, which wakes the watch.
            let (alive, ended) = mpsc::channel::<()>();
            for _ in 0..workers {
                let alive = alive.clone();
                scope.spawn(move || {
                    let _alive = alive;
                    work();
                });
            }
            drop(alive);
            while matches!(ended.recv_timeout(SLICE), Err(mpsc::RecvTimeoutError::Timeout)) {
                if self.is_interrupted() {
                    // Again and again: a client may have been made in the meantime.
                    self.clients.shut_down();
                }
            }
        });
    }
}
