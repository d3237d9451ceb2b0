//! Files from the web, for every source whose items are files that have URLs.
//!
//! - [`wanted`]: what is to be fetched, and where it can be had; [`url`]: quoting and joining; [`proxy`], [`tls`]: what
//!   the environment says.
//! - [`client`]: HTTP clients and their connections, over the sockets of [`tcp`].
//! - [`transfer`]: one try; [`failure`]: whether another one makes sense; [`schedule`]: which item is next.
//!
//! Memory per transfer is a few buffers of 128 KiB, whatever the size of the file.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use kiln_api::source::{DownloadEvent, DownloadRequest, ItemResult};
use serde_json::Value;

use self::client::Clients;
use self::failure::Failure;
use self::schedule::Schedule;
use self::tcp::{SLICE, Stop};
use self::transfer::Transfers;
pub(super) use self::wanted::Wanted;
use super::content::{Workspace, is_cached};

mod client;
mod failure;
mod proxy;
mod schedule;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod transfer;
pub(super) mod url;
mod wanted;

/// How many items are fetched at the same time.
const PARALLEL: usize = 8;
/// How many of them from one server.
const PARALLEL_PER_HOST: usize = 6;
/// How long a server may be silent.
const STALL: Duration = Duration::from_secs(30);
/// How long a server may take to be reached.
const CONNECT: Duration = Duration::from_secs(30);

/// How long is waited for what; tests wait for nothing.
pub(super) struct Patience<'a> {
    stall: Duration,
    connect: Duration,
    /// Waits between two tries, unless the run is interrupted.
    pause: &'a (dyn Fn(Duration, &AtomicBool) + Sync),
}

impl Default for Patience<'_> {
    fn default() -> Self {
        Self { stall: STALL, connect: CONNECT, pause: &pause }
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

/// Fetches what is not in the cache yet; `parse` reads an item of the request.
pub(super) fn download(
    request: &DownloadRequest<'_>,
    events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    patience: &Patience<'_>,
    parse: &dyn Fn(&str, &Value) -> Result<Wanted, String>,
) -> Vec<ItemResult> {
    let directory = request.cache.join(super::FILES);
    let mut results: Vec<Option<Result<bool, String>>> = Vec::new();
    let mut missing = Vec::new();
    for (index, (key, description)) in request.items.iter().enumerate() {
        results.push(match parse(key, description) {
            Ok(item) if is_cached(&directory, &item.checksum, item.size) => Some(Ok(true)),
            Ok(item) => {
                missing.push((index, item));
                None
            }
            Err(reason) => Some(Err(reason)),
        });
    }
    for (key, result) in request.items.keys().zip(&results) {
        if let Some(result) = result {
            report(key, result, events);
        }
    }
    if !missing.is_empty() {
        for (index, result) in fetch(missing, &directory, request, events, patience) {
            if let Some(place) = results.get_mut(index) {
                *place = Some(result);
            }
        }
    }
    let keys = request.items.keys().cloned();
    keys.zip(results)
        .map(|(checksum, result)| match result {
            Some(Ok(cached)) => ItemResult { checksum, cached, error: None },
            Some(Err(error)) => ItemResult { checksum, cached: false, error: Some(error) },
            None => ItemResult { checksum, cached: false, error: Some("interrupted".to_owned()) },
        })
        .collect()
}

fn report(key: &str, result: &Result<bool, String>, events: &(dyn Fn(DownloadEvent<'_>) + Sync)) {
    events(match result {
        Ok(cached) => DownloadEvent::Finished { item: key, cached: *cached },
        Err(reason) => DownloadEvent::Failed { item: key, reason },
    });
}

type Indexed = (usize, Result<bool, String>);

/// Fetches items side by side; what an interruption leaves undone has no result.
fn fetch(
    items: Vec<(usize, Wanted)>,
    directory: &Path,
    request: &DownloadRequest<'_>,
    events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    patience: &Patience<'_>,
) -> Vec<Indexed> {
    let workspace = match Workspace::create(directory) {
        Ok(workspace) => workspace,
        Err(error) => {
            let fail = |(index, item): &(usize, Wanted)| {
                let result = Err(error.to_string());
                report(item.checksum.as_str(), &result, events);
                (*index, result)
            };
            return items.iter().map(fail).collect();
        }
    };
    let stop = Stop::default();
    let clients = Clients::new(request.environment, stop.clone(), patience.stall, patience.connect);
    let transfers = Transfers { clients, workspace, events, stop, stall: patience.stall, room: request.room };
    let unreachable = Mutex::default();
    let job = Job { transfers, patience, interrupted: request.interrupted, unreachable };

    let workers = request.parallel.unwrap_or(PARALLEL).clamp(1, items.len());
    let per_host = request.parallel.unwrap_or(PARALLEL_PER_HOST);
    let schedule = Schedule::new(items, per_host);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        // Dropped when the last worker ends, which wakes the watch.
        let (alive, ended) = mpsc::channel::<()>();
        for _ in 0..workers {
            let alive = alive.clone();
            scope.spawn(|| {
                let _alive = alive;
                while let Some(next) = schedule.next(|| job.is_interrupted()) {
                    let (index, item) = next.item();
                    let result = job.run(item);
                    report(item.checksum.as_str(), &result, events);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((*index, result));
                }
            });
        }
        drop(alive);
        while matches!(ended.recv_timeout(SLICE), Err(mpsc::RecvTimeoutError::Timeout)) {
            if job.is_interrupted() {
                // Again and again: a client may have been made in the meantime.
                job.transfers.clients.shut_down();
            }
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

struct Job<'a> {
    transfers: Transfers<'a>,
    patience: &'a Patience<'a>,
    interrupted: &'a AtomicBool,
    /// Servers that could not be reached with all tries: their other items get one try each.
    unreachable: Mutex<HashSet<String>>,
}

impl Job<'_> {
    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Tries until it works, or until it makes no sense any more.
    fn run(&self, item: &Wanted) -> Result<bool, String> {
        let name = item.checksum.as_str();
        let mut tries = 0;
        loop {
            let result = self.transfers.attempt(item);
            tries += 1;
            if result.is_ok() {
                return Ok(false);
            }
            if self.is_interrupted() {
                return Err("interrupted".to_owned());
            }
            let Err(failure) = result else { continue };
            if tries >= failure.tries || (failure.unreachable && self.is_given_up(item)) {
                return Err(self.give_up(item, &failure, tries));
            }
            (self.transfers.events)(DownloadEvent::Retry { item: name, reason: &failure.reason });
            (self.patience.pause)(failure.pause(tries), self.interrupted);
            if self.is_interrupted() {
                return Err("interrupted".to_owned());
            }
        }
    }

    fn is_given_up(&self, item: &Wanted) -> bool {
        self.unreachable.lock().unwrap_or_else(PoisonError::into_inner).contains(item.host())
    }

    fn give_up(&self, item: &Wanted, failure: &Failure, tries: u32) -> String {
        if failure.unreachable {
            let mut unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
            unreachable.insert(item.host().to_owned());
        }
        let count = if tries == 1 { String::new() } else { format!(" (after {tries} tries)") };
        format!("cannot download {}: {}{count}", item.shown, failure.reason)
    }
}
