//! How fast servers are, as far as this run has seen, and which place of a file that makes the best.
//!
//! A server's speed is that of one connection, request included, over what it has sent lately. Places come in the
//! stated order until something is known. Then: places of servers that are fast, the fastest first; places of servers
//! that nothing is known of; places of servers that are much slower than the fastest; servers that do not answer.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes per second below which a transfer is slow, whatever else is known.
const SLOW: f64 = 32.0 * 1024.0;
/// So many times slower than the best is slow.
const MUCH: f64 = 4.0;
/// So many times slower than others of the same server is slow: they differ by chance and by who else is served.
const MUCH_ALIKE: f64 = 8.0;
/// How much of what was seen before counts beside what is new.
const MEMORY: f64 = 0.75;
/// What is smaller says something about the time to the first byte only.
const TELLING: u64 = 4096;

/// The servers of one run.
#[derive(Debug, Default)]
pub(super) struct Speeds(Mutex<HashMap<String, Host>>);

#[derive(Clone, Copy, Debug, Default)]
struct Host {
    bytes: f64,
    seconds: f64,
    down: bool,
}

/// Another place that a file can be had from.
pub(super) struct Other<'a> {
    pub(super) host: &'a str,
    /// Whether the file was not tried there yet.
    pub(super) is_fresh: bool,
}

impl Host {
    fn speed(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.bytes / self.seconds)
    }
}

impl Speeds {
    /// Takes note of what a server has sent, and how long it took.
    pub(super) fn record(&self, host: &str, bytes: u64, time: Duration) {
        let mut hosts = self.lock();
        let host = hosts.entry(host.to_owned()).or_default();
        host.down = false;
        if bytes >= TELLING {
            host.bytes = host.bytes * MEMORY + bytes as f64;
            host.seconds = host.seconds * MEMORY + time.as_secs_f64().max(1e-6);
        }
    }

    /// Takes note that a server cannot be reached.
    pub(super) fn unreachable(&self, host: &str) {
        self.lock().entry(host.to_owned()).or_default().down = true;
    }

    /// Compares two servers: the better one is less.
    pub(super) fn compare(&self, one: &str, other: &str) -> Ordering {
        let hosts = self.lock();
        if hosts.is_empty() || one == other {
            return Ordering::Equal;
        }
        let [one, other] = [one, other].map(|host| hosts.get(host).copied().unwrap_or_default());
        // Only what can be compared counts: the best of two, not of all.
        let best = one.speed().into_iter().chain(other.speed()).fold(0.0, f64::max);
        let class = |host: &Host| match host.speed() {
            _ if host.down => 3,
            None => 1,
            Some(speed) if speed < SLOW || speed * MUCH < best => 2,
            Some(_) => 0,
        };
        let speed = |host: &Host| host.speed().unwrap_or(0.0);
        class(&one).cmp(&class(&other)).then(speed(&other).total_cmp(&speed(&one)))
    }

    /// The bytes per second below which a transfer from a server is worth being replaced by one from another.
    pub(super) fn floor(&self, host: &str, others: &[Other<'_>]) -> f64 {
        let hosts = self.lock();
        let speed = |host: &str| hosts.get(host).and_then(Host::speed);
        let alike = speed(host).map_or(0.0, |speed| speed / MUCH_ALIKE);
        let others = others.iter().map(|other| {
            let fair = if other.is_fresh { SLOW } else { 0.0 };
            speed(other.host).map_or(fair, |speed| fair.max(speed / MUCH))
        });
        others.fold(alike, f64::max)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_come_first_and_the_slow_after_the_unknown() {
        let speeds = Speeds::default();
        let second = Duration::from_secs(1);
        speeds.record("fast", 10_000_000, second);
        speeds.record("faster", 20_000_000, second);
        speeds.record("slow", 20_000, second);
        speeds.record("tiny", 10, second);
        speeds.record("down", 10_000_000, second);
        speeds.unreachable("down");
        let order = ["faster", "fast", "unknown", "slow", "down"];
        for (place, host) in order.iter().enumerate() {
            for (other_place, other) in order.iter().enumerate() {
                assert_eq!(speeds.compare(host, other), place.cmp(&other_place), "{host} {other}");
            }
        }
        assert_eq!(speeds.compare("tiny", "unknown"), Ordering::Equal);
        speeds.record("down", 0, second);
        assert_eq!(speeds.compare("down", "unknown"), Ordering::Less, "it answers again");
    }

    #[test]
    fn what_is_slow_depends_on_the_others() {
        let speeds = Speeds::default();
        let second = Duration::from_secs(1);
        let fresh = |host| Other { host, is_fresh: true };
        let known = |host| Other { host, is_fresh: false };
        assert_eq!(speeds.floor("a", &[fresh("b")]), SLOW);
        assert_eq!(speeds.floor("a", &[known("b")]), 0.0);
        speeds.record("b", 8_000_000, second);
        assert_eq!(speeds.floor("a", &[known("b"), fresh("c")]), 2_000_000.0);
        speeds.record("a", 80_000_000, second);
        assert_eq!(
            speeds.floor("a", &[known("b")]),
            10_000_000.0,
            "others of this server are that much faster"
        );
    }

    #[test]
    fn what_is_new_counts_more() {
        let speeds = Speeds::default();
        for _ in 0..20 {
            speeds.record("was fast", 10_000_000, Duration::from_secs(1));
            speeds.record("steady", 5_000_000, Duration::from_secs(1));
        }
        assert_eq!(speeds.compare("was fast", "steady"), Ordering::Less);
        for _ in 0..5 {
            speeds.record("was fast", 1_000_000, Duration::from_secs(1));
        }
        assert_eq!(speeds.compare("was fast", "steady"), Ordering::Greater);
    }
}
