//! What is told of a file's progress: at most ten times a second, and in the end exactly.

use std::time::{Duration, Instant};

use kiln_api::source::DownloadEvent;

/// Nobody looks more often.
const INTERVAL: Duration = Duration::from_millis(100);

/// Tells how many bytes of a file are there.
pub(super) struct Meter<'a> {
    item: &'a str,
    events: &'a (dyn Fn(DownloadEvent<'_>) + Sync),
    told: u64,
    last: Option<Instant>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(item: &'a str, events: &'a (dyn Fn(DownloadEvent<'_>) + Sync)) -> Self {
        Self { item, events, told: 0, last: None }
    }

    /// So many bytes are there now: told if it was not told just before.
    pub(super) fn show(&mut self, bytes: u64, now: Instant) {
        if self.last.is_none_or(|last| now.duration_since(last) >= INTERVAL) {
            self.last = Some(now);
            self.set(bytes);
        }
    }

    /// So many bytes are there now: told in any case.
    pub(super) fn set(&mut self, bytes: u64) {
        let change = i64::try_from(i128::from(bytes) - i128::from(self.told)).unwrap_or(i64::MAX);
        if change != 0 {
            self.told = bytes;
            (self.events)(DownloadEvent::Progress { item: self.item, bytes: change });
        }
    }
}
