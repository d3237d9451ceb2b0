//! Why a try failed, and whether and when another one makes sense.
//!
//! The pause grows from a quarter of a second to eight, and is shortened by up to a half at random so that
//! many clients of one server do not come back at the same time. A server's `Retry-After` is honoured
//! up to two minutes.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

/// How often an item is tried at most, as in the reference.
pub(super) const TRIES: u32 = 10;
/// How often an item is tried that arrives complete but wrong: another mirror may answer the next time.
const TRIES_WRONG: u32 = 3;
/// How often a host is tried that has no address.
const TRIES_UNKNOWN_HOST: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
const LONGEST_WISH: Duration = Duration::from_secs(120);

/// Why a try failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The reason, for people.
    pub(super) reason: String,
    /// How many tries such a failure is worth.
    pub(super) tries: u32,
    /// How long the server wants to be left alone.
    pub(super) wait: Option<Duration>,
    /// Whether there was no answer at all: other items of the host will fare no better.
    pub(super) unreachable: bool,
    /// Whether the next try need not wait: it asks for something else.
    pub(super) at_once: bool,
    /// Whether the server must not be asked for a part again.
    pub(super) whole: bool,
    /// Whether the cause is on this machine: no other place of the file helps.
    pub(super) here: bool,
}

impl Failure {
    fn new(reason: impl Into<String>, tries: u32) -> Self {
        Self {
            reason: reason.into(),
            tries,
            wait: None,
            unreachable: false,
            at_once: false,
            whole: false,
            here: false,
        }
    }

    /// A failure that every further try would repeat.
    pub(super) fn permanent(reason: impl Into<String>) -> Self {
        Self::new(reason, 1)
    }

    /// A failure of this machine, which no server can help.
    pub(super) fn here(reason: impl Into<String>) -> Self {
        Self { here: true, ..Self::permanent(reason) }
    }

    /// A failure that the next request avoids because it asks for something else.
    pub(super) fn avoidable(reason: impl Into<String>) -> Self {
        Self { at_once: true, ..Self::passing(reason) }
    }

    /// A failure that may pass.
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self::new(reason, TRIES)
    }

    /// Content that is complete but not what was asked for.
    pub(super) fn wrong(reason: impl Into<String>) -> Self {
        Self::new(reason, TRIES_WRONG)
    }

    /// An answer that is not the content.
    pub(super) fn status(status: u16, headers: &HeaderMap, now: SystemTime) -> Self {
        let reason = match reason_phrase(status) {
            Some(phrase) => format!("the server answered {status} {phrase}"),
            None => format!("the server answered {status}"),
        };
        if !matches!(status, 408 | 429 | 500..=599) || status == 501 {
            return Self::permanent(reason);
        }
        let wait = headers.get("retry-after").and_then(|value| retry_after(value.to_str().ok()?, now));
        match wait {
            Some(wait) if wait > LONGEST_WISH => {
                Self::permanent(format!("{reason} and wants to be asked again in {} s only", wait.as_secs()))
            }
            wait => Self { wait, ..Self::passing(reason) },
        }
    }

    /// What the HTTP client says.
    pub(super) fn client(error: &ureq::Error) -> Self {
        match error {
            ureq::Error::Io(error) => Self::io(error),
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                Self { unreachable: true, ..Self::passing("the server cannot be reached: no answer in time") }
            }
            ureq::Error::Timeout(_) => Self::passing("the server stopped sending"),
            ureq::Error::HostNotFound => Self::unknown_host("the host has no address"),
            ureq::Error::Rustls(error) => Self::tls(error),
            ureq::Error::Tls(_)
            | ureq::Error::TlsRequired
            | ureq::Error::Pem(_)
            | ureq::Error::BadUri(_)
            | ureq::Error::InvalidProxyUrl
            | ureq::Error::Http(_) => Self::permanent(error.to_string()),
            other => Self::passing(other.to_string()),
        }
    }

    fn io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let source = error.get_ref();
        if let Some(error) = source.and_then(|source| source.downcast_ref::<rustls::Error>()) {
            return Self::tls(error);
        }
        if let Some(error) = source.and_then(|source| source.downcast_ref::<ureq::Error>()) {
            return Self::client(error);
        }
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::passing("the connection was closed before the end"),
            ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown => {
                Self { unreachable: true, ..Self::passing(format!("the server cannot be reached: {error}")) }
            }
            // What the resolver of the standard library reports has no kind of its own.
            _ if error.to_string().contains("lookup address") => {
                Self::unknown_host(format!("the host has no address: {error}"))
            }
            _ => Self::passing(error.to_string()),
        }
    }

    fn tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(reason) => {
                Self::permanent(format!("the server's certificate is not accepted: {reason}"))
            }
            other => Self { tries: TRIES_WRONG, ..Self::passing(format!("TLS failed: {other}")) },
        }
    }

    fn unknown_host(reason: impl Into<String>) -> Self {
        Self { unreachable: true, ..Self::new(reason, TRIES_UNKNOWN_HOST) }
    }

    /// How long to wait after so many tries (from 1).
    pub(super) fn pause(&self, tries: u32) -> Duration {
        if self.at_once {
            return Duration::ZERO;
        }
        let full = FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
        let random = RandomState::new().hash_one(tries) % 1000;
        let pause = full.mul_f64(1.0 - 0.5 * (random as f64 / 1000.0));
        self.wait.map_or(pause, |wait| wait.max(pause))
    }
}

/// The value of `Retry-After`: seconds, or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(parse_date(value)?))?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that servers send today.
fn parse_date(value: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, date) = value.trim().strip_suffix(" GMT")?.split_once(", ")?;
    let mut words = date.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
    // Days by the proleptic Gregorian calendar, with years that begin in March.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some(days.checked_sub(719_468)? * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

fn reason_phrase(status: u16) -> Option<&'static str> {
    ureq::http::StatusCode::from_u16(status).ok()?.canonical_reason()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let cases = [
            (400, 1),
            (401, 1),
            (403, 1),
            (404, 1),
            (408, 10),
            (410, 1),
            (429, 10),
            (500, 10),
            (501, 1),
            (503, 10),
        ];
        for (status, tries) in cases {
            let failure = Failure::status(status, &HeaderMap::new(), SystemTime::now());
            assert_eq!(failure.tries, tries, "{status}: {}", failure.reason);
        }
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let failure = Failure::passing("x");
        for (tries, full) in [(1, 250), (2, 500), (3, 1000), (6, 8000), (9, 8000), (u32::MAX, 8000)] {
            let pause = failure.pause(tries).as_millis();
            assert!((full / 2..=full).contains(&pause), "{tries}: {pause}");
        }
    }

    #[test]
    fn a_server_may_ask_for_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let cases = [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Thu, 29 Feb 2024 00:00:00 GMT", Some(1_709_164_800 - 784_111_777)),
            ("soon", None),
            ("-1", None),
        ];
        for (value, expected) in cases {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "30".parse().expect("a value"));
        assert_eq!(Failure::status(503, &headers, now).pause(1), Duration::from_secs(30));
        headers.insert("retry-after", "3600".parse().expect("a value"));
        let failure = Failure::status(503, &headers, now);
        assert_eq!(failure.tries, 1, "nobody waits for an hour");
    }
}
