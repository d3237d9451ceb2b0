//! Downloads from loopback servers that behave and misbehave.
//!
//! No test waits for time to pass: pauses are recorded instead of slept, silence counts after a fraction of a
//! second where a server is silent on purpose, and servers hold their answers until enough requests are there.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln_api::source::{DownloadEvent, DownloadRequest, ItemResult, Source};
pub(in crate::sources) use kiln_testkit::http::{Reply, Server};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::Patience;
use crate::checksum::Checksum;
use crate::sources::curl::{Curl, download};

mod behaviour;
mod interruption;
mod mirrors;
mod resume;
mod tls;
mod torture;

/// What is tested.
type Fetcher =
    fn(&DownloadRequest<'_>, &(dyn Fn(DownloadEvent<'_>) + Sync), &Patience<'_>) -> Vec<ItemResult>;

/// A cache, and everything that was reported while it was filled.
pub(in crate::sources) struct Fixture {
    cache: TempDir,
    fetcher: Fetcher,
    options: Value,
    environment: BTreeMap<String, String>,
    parallel: Option<usize>,
    stall: Duration,
    slow: Duration,
    interrupted: AtomicBool,
    /// Why there is no room.
    room: Option<String>,
    pauses: Mutex<Vec<Duration>>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
pub(in crate::sources) struct Log {
    started: Vec<(String, Option<u64>)>,
    bytes: BTreeMap<String, i64>,
    pub(in crate::sources) retries: Vec<String>,
    finished: Vec<(String, bool)>,
    failed: Vec<(String, String)>,
}

impl Fixture {
    pub(in crate::sources) fn new() -> Self {
        Self {
            cache: tempfile::tempdir().expect("tempdir"),
            fetcher: download,
            options: json!({}),
            environment: BTreeMap::new(),
            parallel: None,
            stall: Duration::from_secs(30),
            slow: Duration::from_secs(30),
            interrupted: AtomicBool::new(false),
            room: None,
            pauses: Mutex::default(),
            log: Mutex::default(),
        }
    }

    /// What tests another source than curl.
    pub(in crate::sources) fn of(fetcher: Fetcher, options: Value) -> Self {
        Self { fetcher, options, ..Self::new() }
    }

    /// Fetches one file after the other.
    pub(in crate::sources) fn one_by_one(self) -> Self {
        Self { parallel: Some(1), ..self }
    }

    fn environment(mut self, variables: &[(&str, &str)]) -> Self {
        self.environment =
            variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self
    }

    pub(in crate::sources) fn download(&self, items: &Map<String, Value>) -> Vec<ItemResult> {
        let pause = |duration: Duration, _: &AtomicBool| {
            if !duration.is_zero() {
                self.pauses.lock().unwrap_or_else(PoisonError::into_inner).push(duration);
            }
        };
        let request = DownloadRequest {
            items,
            options: &self.options,
            cache: self.cache.path(),
            environment: &self.environment,
            parallel: self.parallel,
            interrupted: &self.interrupted,
            room: &|_| self.room.clone().map_or(Ok(()), Err),
        };
        let patience =
            Patience { stall: self.stall, slow: self.slow, connect: Duration::from_secs(10), pause: &pause };
        let results = (self.fetcher)(&request, &|event| self.log().record(event), &patience);
        assert_eq!(
            results.iter().map(|result| &result.checksum).collect::<Vec<_>>(),
            items.keys().collect::<Vec<_>>(),
            "one result per item, in order"
        );
        assert!(self.leftovers().is_empty(), "{:?}", self.leftovers());
        results
    }

    /// Downloads one item, which must work.
    pub(in crate::sources) fn fetch(&self, body: &[u8], description: Value) {
        let key = checksum(body);
        let results = self.download(&items([(key.clone(), description)]));
        assert_eq!(results[0].error, None);
        assert_eq!(fs::read(self.path(&key)).expect("cached"), body);
        assert_eq!(self.log().bytes.get(&key).copied().unwrap_or_default(), body.len() as i64);
    }

    /// Downloads one item, which must fail.
    pub(in crate::sources) fn fail(&self, key: &str, description: Value) -> String {
        let results = self.download(&items([(key.to_owned(), description)]));
        assert!(!self.path(key).exists());
        let error = results[0].error.clone().expect("it fails");
        assert_eq!(self.log().failed, [(key.to_owned(), error.clone())]);
        assert_eq!(self.log().bytes.get(key).copied().unwrap_or_default(), 0, "progress is taken back");
        error
    }

    fn path(&self, key: &str) -> PathBuf {
        self.cache.path().join("org.osbuild.files").join(key)
    }

    pub(in crate::sources) fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pauses(&self) -> Vec<Duration> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so much has arrived of one item.
    fn wait_for_partial(&self, bytes: u64) {
        let start = Instant::now();
        while self.partials().iter().all(|(_, arrived)| *arrived < bytes) {
            assert!(start.elapsed() < Duration::from_secs(10), "no {bytes} bytes");
            std::thread::yield_now();
        }
    }

    /// Of what something has arrived, and how much.
    fn partials(&self) -> Vec<(String, u64)> {
        let entries = fs::read_dir(self.cache.path().join("org.osbuild.files")).into_iter().flatten();
        let found = entries.map(|entry| entry.expect("entry")).filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().strip_prefix(".partial-kiln-")?.to_owned();
            Some((name, entry.metadata().expect("metadata").len()))
        });
        found.collect()
    }

    /// What is in the cache and neither content nor something that has arrived.
    fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache.path().join("org.osbuild.files")).into_iter().flatten();
        entries
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with('.') && !name.starts_with(".partial-kiln-"))
            .collect()
    }
}

impl Log {
    fn record(&mut self, event: DownloadEvent<'_>) {
        match event {
            DownloadEvent::Started { item, size, .. } => self.started.push((item.to_owned(), size)),
            DownloadEvent::Progress { item, bytes } => {
                *self.bytes.entry(item.to_owned()).or_default() += bytes;
            }
            DownloadEvent::Retry { reason, .. } => self.retries.push(reason.to_owned()),
            DownloadEvent::Finished { item, cached } => self.finished.push((item.to_owned(), cached)),
            DownloadEvent::Failed { item, reason } => self.failed.push((item.to_owned(), reason.to_owned())),
        }
    }
}

pub(in crate::sources) fn checksum(body: &[u8]) -> String {
    let any = Checksum::parse(&format!("sha256:{}", "0".repeat(64))).expect("a checksum");
    let mut hasher = any.algorithm().hasher();
    hasher.update(body);
    hasher.finish().as_str().to_owned()
}

pub(in crate::sources) fn items(entries: impl IntoIterator<Item = (String, Value)>) -> Map<String, Value> {
    entries.into_iter().collect()
}

/// A body larger than any buffer.
fn large() -> Vec<u8> {
    (0..1_000_000_u32).flat_map(|number| number.to_le_bytes()).collect()
}
