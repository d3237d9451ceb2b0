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
use kiln_testkit::http::{Reply, Server};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::Patience;
use crate::checksum::Checksum;
use crate::sources::curl::{Curl, download};

mod behaviour;
mod interruption;
mod tls;

/// A cache, and everything that was reported while it was filled.
struct Fixture {
    cache: TempDir,
    environment: BTreeMap<String, String>,
    parallel: Option<usize>,
    stall: Duration,
    interrupted: AtomicBool,
    pauses: Mutex<Vec<Duration>>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    started: Vec<(String, Option<u64>)>,
    bytes: BTreeMap<String, i64>,
    retries: Vec<String>,
    finished: Vec<(String, bool)>,
    failed: Vec<(String, String)>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            cache: tempfile::tempdir().expect("tempdir"),
            environment: BTreeMap::new(),
            parallel: None,
            stall: Duration::from_secs(30),
            interrupted: AtomicBool::new(false),
            pauses: Mutex::default(),
            log: Mutex::default(),
        }
    }

    fn environment(mut self, variables: &[(&str, &str)]) -> Self {
        self.environment =
            variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self
    }

    fn download(&self, items: &Map<String, Value>) -> Vec<ItemResult> {
        let pause = |duration, _: &AtomicBool| {
            self.pauses.lock().unwrap_or_else(PoisonError::into_inner).push(duration);
        };
        let request = DownloadRequest {
            items,
            options: &json!({}),
            cache: self.cache.path(),
            environment: &self.environment,
            parallel: self.parallel,
            interrupted: &self.interrupted,
            room: &|_| Ok(()),
        };
        let patience = Patience { stall: self.stall, connect: Duration::from_secs(10), pause: &pause };
        let results = download(&request, &|event| self.log().record(event), &patience);
        assert_eq!(
            results.iter().map(|result| &result.checksum).collect::<Vec<_>>(),
            items.keys().collect::<Vec<_>>(),
            "one result per item, in order"
        );
        assert!(self.leftovers().is_empty(), "{:?}", self.leftovers());
        results
    }

    /// Downloads one item, which must work.
    fn fetch(&self, body: &[u8], description: Value) {
        let key = checksum(body);
        let results = self.download(&items([(key.clone(), description)]));
        assert_eq!(results[0].error, None);
        assert_eq!(fs::read(self.path(&key)).expect("cached"), body);
        assert_eq!(self.log().bytes.get(&key).copied().unwrap_or_default(), body.len() as i64);
    }

    /// Downloads one item, which must fail.
    fn fail(&self, key: &str, description: Value) -> String {
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

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pauses(&self) -> Vec<Duration> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is in the cache without being content.
    fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache.path().join("org.osbuild.files")).into_iter().flatten();
        entries
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with('.'))
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

fn checksum(body: &[u8]) -> String {
    let any = Checksum::parse(&format!("sha256:{}", "0".repeat(64))).expect("a checksum");
    let mut hasher = any.algorithm().hasher();
    hasher.update(body);
    hasher.finish().as_str().to_owned()
}

fn items(entries: impl IntoIterator<Item = (String, Value)>) -> Map<String, Value> {
    entries.into_iter().collect()
}

/// A body larger than any buffer.
fn large() -> Vec<u8> {
    (0..1_000_000_u32).flat_map(|number| number.to_le_bytes()).collect()
}
