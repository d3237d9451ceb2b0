//! What the records say of the downloads of a source while they take long.
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

use std::time::{Duration, Instant};

use kiln_api::source::DownloadEvent;
use kiln_engine::manifest::json::Json;

use super::json_seq::{number_of, object};
use crate::downloads::Downloads;

/// How often it is said.
const INTERVAL: Duration = Duration::from_millis(500);

/// The downloads of one source.
pub(super) struct Reported {
    source: String,
    downloads: Downloads,
    last: Instant,
    said: bool,
}

impl Reported {
    pub(super) fn new(source: &str, items: usize, expected: u64, now: Instant) -> Self {
        let downloads = Downloads::new(items, expected, now);
        Self { source: source.to_owned(), downloads, last: now, said: false }
    }

    /// Takes notice of an event; the line that is to be said, if it is time for one.
    pub(super) fn event(&mut self, event: &DownloadEvent<'_>, now: Instant) -> Option<String> {
        self.downloads.event(event, now);
        if now.duration_since(self.last) < INTERVAL {
            return None;
        }
        self.last = now;
        self.said = true;
        Some(format!("source/{source} ({source}): {}\n", self.downloads.words(now), source = self.source))
    }

    /// What goes into the progress of the build, once a line was said.
    pub(super) fn progress(&self) -> Option<Json> {
        let number = |count: usize| number_of(u64::try_from(count).unwrap_or(u64::MAX));
        self.said.then(|| {
            let state = self.downloads.state(self.last);
            object([
                ("name", Json::from(format!("source: {}", self.source))),
                ("total", number(self.downloads.items())),
                ("done", number(self.downloads.finished())),
                ("bytes", number_of(state.arrived)),
                ("rate", number_of(state.rate)),
                (
                    "progress",
                    object([
                        ("name", Json::from("bytes")),
                        ("total", number_of(self.downloads.total())),
                        ("done", number_of(state.arrived)),
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
        let mut downloads = Reported::new("s", 2, 10, start);
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
    fn lines_are_rare() {
        let start = Instant::now();
        let mut downloads = Reported::new("org.osbuild.curl", 3, 500, start);
        assert_eq!(downloads.event(&started("a", Some(2_000_000)), start), None);
        let mut lines = Vec::new();
        for tick in 1..=20_u32 {
            let event = DownloadEvent::Progress { item: "a", bytes: 100_000 };
            lines.extend(downloads.event(&event, start + Duration::from_millis(100) * tick));
        }
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[1],
            "source/org.osbuild.curl (org.osbuild.curl): 0 of 3 items, 1.0 MB of 2.0 MB, 1.0 MB per second, 1 s left\n"
        );
    }

    #[test]
    fn progress_has_items_and_bytes() {
        let start = Instant::now();
        let mut downloads = Reported::new("s", 2, 0, start);
        downloads.event(&started("a", Some(100)), start);
        downloads.event(&DownloadEvent::Finished { item: "a", cached: false }, start);
        let second = start + Duration::from_secs(1);
        let line = downloads.event(&DownloadEvent::Progress { item: "b", bytes: 40 }, second);
        assert_eq!(
            line.as_deref(),
            Some("source/s (s): 1 of 2 items, 40 B of 100 B, 40 B per second, 2 s left\n")
        );
        assert_eq!(
            downloads.progress().expect("said").to_string(),
            concat!(
                r#"{"name": "source: s", "total": 2, "done": 1, "bytes": 40, "rate": 40, "progress": "#,
                r#"{"name": "bytes", "total": 100, "done": 40}}"#
            )
        );
    }
}
