//! How far the downloads of a source are, for whoever shows it: items, bytes, rate, and the time that is left; of all of
//! them, and of each one that is on its way.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use kiln_api::source::DownloadEvent;
use kiln_engine::plan::{bytes, count};

/// The rate is that of so much time.
const WINDOW: Duration = Duration::from_secs(5);
/// How often it is looked at how much has come.
const INTERVAL: Duration = Duration::from_millis(250);

/// Bytes that arrive, and how fast.
struct Gauge {
    arrived: u64,
    began: Instant,
    /// How many bytes had arrived when it was looked.
    samples: VecDeque<(Instant, u64)>,
}

impl Gauge {
    fn new(now: Instant) -> Self {
        Self { arrived: 0, began: now, samples: VecDeque::from([(now, 0)]) }
    }

    fn add(&mut self, bytes: i64, now: Instant) {
        self.arrived = self.arrived.saturating_add_signed(bytes);
        if self.samples.back().is_some_and(|(last, _)| now.duration_since(*last) < INTERVAL) {
            return;
        }
        self.samples.push_back((now, self.arrived));
        // The oldest one stays that makes the time that is looked at long enough.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Bytes in a second.
    fn rate(&self, now: Instant) -> u64 {
        let Some((at, before)) = self.samples.front() else { return 0 };
        let milliseconds = now.duration_since(*at).as_millis().max(1);
        let rate = u128::from(self.arrived.saturating_sub(*before)) * 1000 / milliseconds;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

/// An item on its way.
struct Item {
    checksum: String,
    origin: String,
    size: Option<u64>,
    gauge: Gauge,
}

/// The downloads of one source.
pub(crate) struct Downloads {
    items: usize,
    finished: usize,
    /// How many bytes are known to come from what the manifest says.
    expected: u64,
    /// What servers say of the sizes of items.
    sizes: HashMap<String, u64>,
    all: Gauge,
    /// Few: as many as are fetched at the same time.
    running: Vec<Item>,
}

/// How far something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Bytes that are there.
    pub(crate) arrived: u64,
    /// Bytes that there will be, as far as it is known.
    pub(crate) total: Option<u64>,
    /// Bytes in a second.
    pub(crate) rate: u64,
}

impl State {
    /// How long it will take at this rate; none if that is not known.
    fn left(&self) -> Option<Duration> {
        let missing = self.total?.checked_sub(self.arrived).filter(|missing| *missing > 0)?;
        (self.rate > 0).then(|| Duration::from_secs(missing.div_ceil(self.rate)))
    }

    /// Words for people: `4.0 MB of 8.0 MB, 1.0 MB per second, 4 s left`.
    pub(crate) fn words(&self) -> String {
        let total = self.total.map(|total| format!(" of {}", bytes(total))).unwrap_or_default();
        let left = self.left().map(|left| format!(", {} left", duration(left))).unwrap_or_default();
        format!("{}{total}, {} per second{left}", bytes(self.arrived), bytes(self.rate))
    }
}

fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

impl Downloads {
    pub(crate) fn new(items: usize, expected: u64, now: Instant) -> Self {
        Self {
            items,
            finished: 0,
            expected,
            sizes: HashMap::new(),
            all: Gauge::new(now),
            running: Vec::new(),
        }
    }

    /// Takes notice of an event.
    pub(crate) fn event(&mut self, event: &DownloadEvent<'_>, now: Instant) {
        match event {
            DownloadEvent::Started { item, origin, size } => {
                if let Some(size) = size {
                    self.sizes.insert((*item).to_owned(), *size);
                }
                match self.find(item) {
                    Some(item) => item.size = *size,
                    None => self.running.push(Item {
                        checksum: (*item).to_owned(),
                        origin: (*origin).to_owned(),
                        size: *size,
                        gauge: Gauge::new(now),
                    }),
                }
            }
            DownloadEvent::Progress { item, bytes } => {
                self.all.add(*bytes, now);
                if let Some(item) = self.find(item) {
                    item.gauge.add(*bytes, now);
                }
            }
            DownloadEvent::Finished { item, .. } => {
                self.finished += 1;
                self.end(item);
            }
            DownloadEvent::Failed { item, .. } => {
                self.end(item);
            }
            DownloadEvent::Retry { .. } => {}
        }
    }

    fn find(&mut self, item: &str) -> Option<&mut Item> {
        self.running.iter_mut().find(|running| running.checksum == item)
    }

    fn end(&mut self, item: &str) {
        self.running.retain(|running| running.checksum != item);
    }

    /// How many items there are.
    pub(crate) fn items(&self) -> usize {
        self.items
    }

    /// How many of them are there.
    pub(crate) fn finished(&self) -> usize {
        self.finished
    }

    /// How many bytes are known to come, as far as it is known now.
    pub(crate) fn total(&self) -> u64 {
        self.expected.max(self.sizes.values().sum()).max(self.all.arrived)
    }

    /// How far all of it is.
    pub(crate) fn state(&self, now: Instant) -> State {
        State { arrived: self.all.arrived, total: Some(self.total()), rate: self.all.rate(now) }
    }

    /// What all of it is, in words.
    pub(crate) fn words(&self, now: Instant) -> String {
        format!("{} of {}, {}", self.finished, count(self.items, "item"), self.state(now).words())
    }

    /// What has been on its way for so long, by name: the oldest first.
    pub(crate) fn running(&self, age: Duration, now: Instant) -> impl Iterator<Item = (&str, State)> {
        let old = self.running.iter().filter(move |item| now.duration_since(item.gauge.began) >= age);
        old.map(move |item| {
            let gauge = &item.gauge;
            (name(&item.origin), State { arrived: gauge.arrived, total: item.size, rate: gauge.rate(now) })
        })
    }
}

/// The last part of a URL that says something.
fn name(origin: &str) -> &str {
    let path = origin.split(['?', '#']).next().unwrap_or(origin).trim_end_matches('/');
    path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(item: &str, size: Option<u64>) -> DownloadEvent<'_> {
        DownloadEvent::Started { item, origin: "https://host.invalid/pool/package_1.deb?a=/b", size }
    }

    #[test]
    fn rates_are_of_the_last_seconds() {
        let start = Instant::now();
        let mut downloads = Downloads::new(3, 500, start);
        downloads.event(&started("a", Some(20_000_000)), start);
        let mut words = Vec::new();
        // A hundred thousand bytes in a tenth of a second, for two seconds; then half as many for ten.
        for tick in 1..=120_u32 {
            let bytes = if tick <= 20 { 100_000 } else { 50_000 };
            let now = start + Duration::from_millis(100) * tick;
            downloads.event(&DownloadEvent::Progress { item: "a", bytes }, now);
            words.push(downloads.words(now));
        }
        assert_eq!(words[9], "0 of 3 items, 1.0 MB of 20.0 MB, 1.0 MB per second, 19 s left");
        assert_eq!(words[119], "0 of 3 items, 7.0 MB of 20.0 MB, 500.0 kB per second, 26 s left");
    }

    #[test]
    fn items_on_their_way_are_known_by_name() {
        let start = Instant::now();
        let mut downloads = Downloads::new(2, 0, start);
        downloads.event(&started("a", None), start);
        let second = start + Duration::from_secs(1);
        downloads.event(&started("b", Some(5)), second);
        downloads.event(&DownloadEvent::Progress { item: "a", bytes: 2000 }, second);
        let running: Vec<_> = downloads.running(Duration::from_secs(1), second).collect();
        let state = State { arrived: 2000, total: None, rate: 2000 };
        assert_eq!(state.words(), "2.0 kB, 2.0 kB per second");
        assert_eq!(running, [("package_1.deb", state)]);
        downloads.event(&DownloadEvent::Failed { item: "a", reason: "x" }, second);
        assert_eq!(downloads.running(Duration::ZERO, second).count(), 1);
    }

    #[test]
    fn what_a_failed_try_brought_is_taken_back() {
        let start = Instant::now();
        let mut downloads = Downloads::new(2, 0, start);
        downloads.event(&started("a", Some(100)), start);
        downloads.event(&DownloadEvent::Progress { item: "a", bytes: 60 }, start);
        downloads.event(&DownloadEvent::Progress { item: "a", bytes: -60 }, start);
        downloads.event(&started("a", Some(100)), start);
        downloads.event(&DownloadEvent::Finished { item: "a", cached: false }, start);
        let state = downloads.state(start + Duration::from_secs(1));
        assert_eq!((state.arrived, state.total, downloads.finished()), (0, Some(100), 1));
    }

    #[test]
    fn durations_are_short() {
        for (seconds, expected) in [(5, "5 s"), (65, "1 min 5 s"), (3661, "1 h 1 min")] {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
        }
    }
}
