//! How far the downloads of a source are: what the records say of it while it takes long.
//!
//! The reference's records say nothing of a source between its beginning and its end, so this is Kiln's own: below the
//! progress of the build, where a pipeline has its stages, a source has its items, and below them its bytes. Two more
//! members tell how many bytes have arrived and how many come in a second.
//!
//! ```text
//! {"name": "pipelines/sources", "total": 3, "done": 0, "progress":
//!   {"name": "source: org.osbuild.curl", "total": 12, "done": 3, "bytes": 4096, "rate": 2048, "progress":
//!     {"name": "bytes", "total": 8192, "done": 4096}}}
//! ```
//!
//! It is said at most twice in a second, and not at all of downloads that are over before that.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use kiln_api::source::DownloadEvent;
use kiln_engine::manifest::json::Json;
use kiln_engine::plan::{bytes, count};

use super::json_seq::{number_of, object};

/// How often it is said.
const INTERVAL: Duration = Duration::from_millis(500);

/// The rate is that of so much time.
const WINDOW: Duration = Duration::from_secs(5);

/// The downloads of one source.
pub(super) struct Downloads {
    source: String,
    items: u64,
    finished: u64,
    /// How many bytes are known to come from what the manifest says.
    expected: u64,
    /// What servers say of the sizes of items.
    sizes: HashMap<String, u64>,
    arrived: u64,
    /// How many bytes had arrived when something was said, and at the beginning.
    samples: VecDeque<(Instant, u64)>,
    rate: u64,
    said: bool,
}

impl Downloads {
    pub(super) fn new(source: &str, items: usize, expected: u64, now: Instant) -> Self {
        Self {
            source: source.to_owned(),
            items: u64::try_from(items).unwrap_or(u64::MAX),
            finished: 0,
            expected,
            sizes: HashMap::new(),
            arrived: 0,
            samples: VecDeque::from([(now, 0)]),
            rate: 0,
            said: false,
        }
    }

    /// Takes notice of an event; the line that is to be said, if it is time for one.
    pub(super) fn event(&mut self, event: &DownloadEvent<'_>, now: Instant) -> Option<String> {
        match event {
            DownloadEvent::Started { item, size: Some(size), .. } => {
                self.sizes.insert((*item).to_owned(), *size);
            }
            DownloadEvent::Progress { bytes, .. } => {
                self.arrived = self.arrived.saturating_add_signed(*bytes);
            }
            DownloadEvent::Finished { .. } => self.finished += 1,
            DownloadEvent::Started { size: None, .. }
            | DownloadEvent::Retry { .. }
            | DownloadEvent::Failed { .. } => {}
        }
        let (last, _) = *self.samples.back()?;
        if now.duration_since(last) < INTERVAL {
            return None;
        }
        self.sample(now);
        self.said = true;
        Some(self.line())
    }

    fn sample(&mut self, now: Instant) {
        self.samples.push_back((now, self.arrived));
        // The oldest one stays that makes the time that is looked at long enough.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
        if let Some((at, before)) = self.samples.front() {
            let milliseconds = now.duration_since(*at).as_millis().max(1);
            let rate = u128::from(self.arrived.saturating_sub(*before)) * 1000 / milliseconds;
            self.rate = u64::try_from(rate).unwrap_or(u64::MAX);
        }
    }

    /// How many bytes are known to come, as far as it is known now.
    fn total(&self) -> u64 {
        self.expected.max(self.sizes.values().sum()).max(self.arrived)
    }

    fn line(&self) -> String {
        format!(
            "source/{source} ({source}): {} of {}, {} of {}, {} per second\n",
            self.finished,
            count(usize::try_from(self.items).unwrap_or(usize::MAX), "item"),
            bytes(self.arrived),
            bytes(self.total()),
            bytes(self.rate),
            source = self.source,
        )
    }

    /// What goes into the progress of the build, once a line was said.
    pub(super) fn progress(&self) -> Option<Json> {
        self.said.then(|| {
            object([
                ("name", Json::from(format!("source: {}", self.source))),
                ("total", number_of(self.items)),
                ("done", number_of(self.finished)),
                ("bytes", number_of(self.arrived)),
                ("rate", number_of(self.rate)),
                (
                    "progress",
                    object([
                        ("name", Json::from("bytes")),
                        ("total", number_of(self.total())),
                        ("done", number_of(self.arrived)),
                    ]),
                ),
            ])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(item: &str, size: Option<u64>) -> DownloadEvent<'_> {
        DownloadEvent::Started { item, origin: "here", size }
    }

    #[test]
    fn what_is_quick_is_not_said() {
        let start = Instant::now();
        let mut downloads = Downloads::new("s", 2, 10, start);
        for event in [
            started("a", Some(10)),
            DownloadEvent::Progress { item: "a", bytes: 10 },
            DownloadEvent::Finished { item: "a", cached: false },
        ] {
            assert_eq!(downloads.event(&event, start + INTERVAL / 2), None);
        }
        assert!(downloads.progress().is_none());
    }

    #[test]
    fn lines_are_rare_and_rates_are_of_the_last_seconds() {
        let start = Instant::now();
        let mut downloads = Downloads::new("org.osbuild.curl", 3, 500, start);
        assert_eq!(downloads.event(&started("a", Some(2_000_000)), start), None);
        let mut lines = Vec::new();
        // A hundred thousand bytes in a tenth of a second, for two seconds; then half as many for ten.
        for tick in 1..=120_u32 {
            let bytes = if tick <= 20 { 100_000 } else { 50_000 };
            let event = DownloadEvent::Progress { item: "a", bytes };
            lines.extend(downloads.event(&event, start + Duration::from_millis(100) * tick));
        }
        assert_eq!(lines.len(), 24);
        assert_eq!(
            lines[1],
            "source/org.osbuild.curl (org.osbuild.curl): 0 of 3 items, 1.0 MB of 2.0 MB, 1.0 MB per second\n"
        );
        // More has come than was announced.
        assert_eq!(
            lines[23],
            "source/org.osbuild.curl (org.osbuild.curl): 0 of 3 items, 7.0 MB of 7.0 MB, 500.0 kB per second\n"
        );
    }

    #[test]
    fn what_a_failed_try_brought_is_taken_back() {
        let start = Instant::now();
        let mut downloads = Downloads::new("s", 2, 0, start);
        downloads.event(&started("a", Some(100)), start);
        downloads.event(&DownloadEvent::Progress { item: "a", bytes: 60 }, start);
        downloads.event(&DownloadEvent::Progress { item: "a", bytes: -60 }, start);
        downloads.event(&DownloadEvent::Retry { item: "a", reason: "it broke" }, start);
        downloads.event(&started("a", Some(100)), start);
        downloads.event(&started("b", None), start);
        downloads.event(&DownloadEvent::Finished { item: "a", cached: false }, start);
        let second = start + Duration::from_secs(1);
        let line = downloads.event(&DownloadEvent::Progress { item: "b", bytes: 40 }, second);
        assert_eq!(line.as_deref(), Some("source/s (s): 1 of 2 items, 40 B of 100 B, 40 B per second\n"));
        assert_eq!(
            downloads.progress().expect("said").to_string(),
            concat!(
                r#"{"name": "source: s", "total": 2, "done": 1, "bytes": 40, "rate": 40, "progress": "#,
                r#"{"name": "bytes", "total": 100, "done": 40}}"#
            )
        );
    }
}
