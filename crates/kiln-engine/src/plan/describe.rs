//! The plan as text: one line for each step, the reason at its end.

use std::fmt;

use super::{Plan, Reason};

/// How many digits of an id are shown: enough to find it.
const SHORT: usize = 12;

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fetch in &self.fetches {
            let known: u64 = fetch.items.iter().filter_map(|item| item.size).sum();
            let unknown = fetch.items.iter().filter(|item| item.size.is_none()).count();
            let whom = fetch.pipeline.as_deref().map_or("everything".to_owned(), |name| format!("`{name}`"));
            write!(out, "fetch   {}: {}", fetch.source, count(fetch.items.len(), "item"))?;
            match (known, unknown) {
                (0, 0) => {}
                (0, _) => write!(out, ", size unknown")?,
                (known, 0) => write!(out, ", {}", bytes(known))?,
                (known, unknown) => {
                    write!(out, ", {} and {} of unknown size", bytes(known), count(unknown, "item"))?;
                }
            }
            if fetch.cached > 0 {
                write!(out, ", {} cached", fetch.cached)?;
            }
            writeln!(out, " (for {whom})")?;
        }
        for cached in &self.cached {
            let id = short(cached.id.as_str());
            writeln!(out, "cached  `{}` {id} ({})", cached.pipeline, reasons(&cached.reasons))?;
        }
        for build in &self.builds {
            let id = short(build.id.as_str());
            write!(out, "build   `{}` {id}: {}", build.pipeline, count(build.stages, "stage"))?;
            if build.skipped > 0 {
                write!(out, " after {} cached", build.skipped)?;
            }
            let runner = build.runner.as_deref().unwrap_or("the host's runner");
            writeln!(out, ", {runner} ({})", reasons(&build.reasons))?;
        }
        for export in &self.exports {
            writeln!(out, "export  `{}` {}", export.name, short(export.id.as_str()))?;
        }
        Ok(())
    }
}

/// A number of things: `1 stage`, `2 stages`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

fn reasons(reasons: &[Reason]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => write!(out, "requested"),
            Self::BuildRoot { of } => write!(out, "build root of `{of}`"),
            Self::Input { of, stage } => write!(out, "input of `{stage}` in `{of}`"),
        }
    }
}

/// A number of bytes for people: `512 B`, `3.4 MB`; powers of ten, as download sizes are counted.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS.get(unit).copied().unwrap_or_default())
}
