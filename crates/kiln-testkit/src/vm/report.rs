//! What a system says of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Accelerator, Expectation};

/// What starts a report line.
const MARK: &str = "KILN-REPORT ";
/// The key of the last report line.
const END: &str = "end";

/// What a system reported, and how long it took.
#[derive(Debug, Clone)]
pub struct BootReport {
    /// The reported pairs without the last one.
    pub values: BTreeMap<String, String>,
    /// From power-on to the end of the report.
    pub boot_time: Duration,
    /// From the power button to the end of the machine.
    pub shutdown_time: Duration,
    /// What the machine ran on.
    pub accelerator: Accelerator,
}

impl BootReport {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// What differs from what is expected, in words; empty if nothing does.
    pub(super) fn faults(&self, expectation: &Expectation) -> Vec<String> {
        let mut faults = Vec::new();
        let mut expect = |key: &str, expected: &str| match self.get(key) {
            Some(value) if value == expected => {}
            Some(value) => faults.push(format!("`{key}` is `{value}` instead of `{expected}`")),
            None => faults.push(format!("`{key}` is not reported")),
        };
        expect("state", "running");
        expect("failed-units", "0");
        expect("hostname", &expectation.hostname);
        match self.get("users") {
            Some(users) if users.split([' ', ',']).any(|user| user == expectation.user) => {}
            Some(users) => faults.push(format!("`users` is `{users}`, without `{}`", expectation.user)),
            None => faults.push("`users` is not reported".to_owned()),
        }
        if let Some(failed) = self.get("failed").filter(|failed| !failed.is_empty()) {
            faults.push(format!("`failed` is `{failed}`"));
        }
        faults
    }
}

/// Collects report lines until the last one.
#[derive(Debug, Default)]
pub(super) struct Collector {
    values: BTreeMap<String, String>,
}

impl Collector {
    /// Takes a console line; returns all pairs after the last report line.
    pub(super) fn take(&mut self, line: &str) -> Option<BTreeMap<String, String>> {
        let (key, value) = parse(line)?;
        if key == END {
            return Some(std::mem::take(&mut self.values));
        }
        self.values.insert(key.to_owned(), value.to_owned());
        None
    }
}

/// The key and the value of a report line.
fn parse(line: &str) -> Option<(&str, &str)> {
    let (_, pair) = line.split_once(MARK)?;
    let (key, value) = pair.split_once('=')?;
    Some((key.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> BootReport {
        let mut collector = Collector::default();
        let values = lines.iter().find_map(|line| collector.take(line)).expect("a last line");
        BootReport {
            values,
            boot_time: Duration::ZERO,
            shutdown_time: Duration::ZERO,
            accelerator: Accelerator::Tcg,
        }
    }

    #[test]
    fn report_lines_are_found_after_a_prompt_and_among_noise() {
        let report = report(&[
            "[    1.2] kernel: talking",
            "kiln login: KILN-REPORT state=running",
            "KILN-REPORT cmdline=root=/dev/vda ro",
            "KILN-REPORT no pair",
            "KILN-REPORT end=1",
            "KILN-REPORT late=1",
        ]);
        let pairs: Vec<_> = report.values.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(pairs, ["cmdline=root=/dev/vda ro", "state=running"]);
    }

    #[test]
    fn every_difference_is_named() {
        let expectation = Expectation::new("kiln", "alice");
        for (lines, faults) in [
            (&["state=running", "failed-units=0", "hostname=kiln", "users=root alice"][..], &[][..]),
            (
                &["state=degraded", "failed-units=1", "failed=a.service", "hostname=x", "users=alicex"],
                &[
                    "`state` is `degraded` instead of `running`",
                    "`failed-units` is `1` instead of `0`",
                    "`hostname` is `x` instead of `kiln`",
                    "`users` is `alicex`, without `alice`",
                    "`failed` is `a.service`",
                ],
            ),
            (
                &[],
                &[
                    "`state` is not reported",
                    "`failed-units` is not reported",
                    "`hostname` is not reported",
                    "`users` is not reported",
                ],
            ),
        ] {
            let lines: Vec<_> =
                lines.iter().chain(&["end=1"]).map(|pair| format!("KILN-REPORT {pair}")).collect();
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            assert_eq!(report(&lines).faults(&expectation), faults);
        }
    }
}
