//! `kiln cache prune`: what was not used for longest goes.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use kiln_engine::plan::bytes;
use kiln_store::cache::{KeptBecause, PruneOptions, PruneReport, PruneTarget, Pruned};
use serde_json::{Value, json};

use super::{Common, cache_error, print_json, short, stamp, word};
use crate::command::size::parse_bytes;
use crate::error::CliResult;
use crate::present::{Side, ago, entries, print, table};

/// The arguments of `kiln cache prune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without `--to`, `--older-than` or `--all` the cache is pruned down to its limit. What is locked, what a\nrunning build uses, and while others have the cache open also downloads that were used within a day, stay.\n\nJSON: {dry-run, before, freed, missing, removed: [{kind, name, size, last-used}], kept: [{…, because}]}; `because` is\n\"in-use\", \"build\", \"linked\" or \"recent\", `missing` the bytes that should have gone and could not."
)]
pub(super) struct Arguments {
    /// Leave so many bytes at most: a number, with or without a unit as in `10GiB`
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, conflicts_with_all = ["older_than", "all"])]
    to: Option<u64>,
    /// Remove what was not used for so long: a number with `s`, `min`, `h`, `d` or `w`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "all")]
    older_than: Option<Duration>,
    /// Remove everything
    #[arg(long)]
    all: bool,
    /// Only say what would go
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Remove objects only
    #[arg(long, conflicts_with = "downloads")]
    objects: bool,
    /// Remove downloads only
    #[arg(long)]
    downloads: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let target = match (arguments.to, arguments.older_than, arguments.all) {
        (Some(size), ..) => PruneTarget::Size(size),
        (_, Some(duration), _) => PruneTarget::Unused(duration),
        (.., true) => PruneTarget::All,
        _ => PruneTarget::Limit,
    };
    let options = PruneOptions {
        target,
        objects: !arguments.downloads,
        downloads: !arguments.objects,
        dry_run: arguments.dry_run,
    };
    let cache = arguments.common.open(!arguments.dry_run)?;
    let failed = |error| cache_error(&error);
    let report = cache.prune(&options).map_err(failed)?;
    if arguments.common.json {
        print_json(&value(&report, arguments.dry_run));
    } else {
        let limited = target != PruneTarget::Limit || cache.has_maximum_size().map_err(failed)?;
        print(text(&report, arguments.dry_run, limited, SystemTime::now()));
    }
    Ok(ExitCode::SUCCESS)
}

fn value(report: &PruneReport, dry_run: bool) -> Value {
    let pruned = |pruned: &Pruned| {
        json!({
            "kind": word(pruned.kind), "name": pruned.name, "size": pruned.size,
            "last-used": stamp(pruned.last_used),
        })
    };
    let kept = report.kept.iter().map(|(entry, because)| {
        let mut value = pruned(entry);
        if let Some(object) = value.as_object_mut() {
            object.insert("because".to_owned(), reason(*because).0.into());
        }
        value
    });
    json!({
        "dry-run": dry_run,
        "before": report.before,
        "freed": report.freed,
        "missing": report.missing,
        "removed": report.removed.iter().map(pruned).collect::<Vec<_>>(),
        "kept": kept.collect::<Vec<_>>(),
    })
}

fn text(report: &PruneReport, dry_run: bool, limited: bool, now: SystemTime) -> String {
    let mut rows = Vec::new();
    let row = |word_of_fate: &str, pruned: &Pruned, reason: &str| {
        vec![
            word_of_fate.to_owned(),
            word(pruned.kind).to_owned(),
            short(&pruned.name),
            bytes(pruned.size),
            format!("used {}", ago(pruned.last_used, now)),
            reason.to_owned(),
        ]
    };
    let removed = if dry_run { "would remove" } else { "removed" };
    rows.extend(report.removed.iter().map(|pruned| row(removed, pruned, "")));
    let kept = if dry_run { "would keep" } else { "kept" };
    rows.extend(report.kept.iter().map(|(pruned, because)| row(kept, pruned, reason(*because).1)));
    let columns = [Side::Left, Side::Left, Side::Left, Side::Right, Side::Left, Side::Left];
    let mut text = table(&rows, &columns);
    if report.removed.is_empty() && report.kept.is_empty() {
        text.push_str(if limited {
            "nothing to remove\n"
        } else {
            "nothing to remove: the cache has no limit; say how far with `--to`, `--older-than` or `--all`\n"
        });
        return text;
    }
    let verb = if dry_run { "would free" } else { "freed" };
    let (freed, before) = (bytes(report.freed), bytes(report.before));
    text.push_str(&format!("{verb} {freed} of {before} ({})\n", entries(report.removed.len())));
    if report.missing > 0 {
        let verb = if dry_run { "would stay" } else { "stay" };
        text.push_str(&format!("{} {verb} that should go: what has them is in use\n", bytes(report.missing)));
    }
    text
}

/// Why something stays: a word for programs, and some for people.
const fn reason(because: KeptBecause) -> (&'static str, &'static str) {
    match because {
        KeptBecause::InUse => ("in-use", "in use"),
        KeptBecause::Build => ("build", "a running build may use it"),
        KeptBecause::Linked => ("linked", "linked to, as by an input of a running stage"),
        KeptBecause::Recent => ("recent", "used within a day, and others have the cache open"),
    }
}

/// Parses a duration: a whole number and a unit.
fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] =
        [("min", 60), ("s", 1), ("h", 60 * 60), ("d", 24 * 60 * 60), ("w", 7 * 24 * 60 * 60)];
    UNITS
        .iter()
        .find_map(|(unit, seconds)| {
            let number = text.strip_suffix(unit)?.trim_end();
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| number.parse::<u64>().ok()?.checked_mul(*seconds))?
        })
        .map(Duration::from_secs)
        .ok_or_else(|| "expected a whole number with a unit: s, min, h, d or w".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("0s", Some(0)),
            ("90s", Some(90)),
            ("5min", Some(300)),
            ("2 h", Some(7200)),
            ("30d", Some(2_592_000)),
            ("1w", Some(604_800)),
            ("7", None),
            ("d", None),
            ("-1d", None),
            ("1.5d", None),
            ("3 months", None),
            ("99999999999999999999d", None),
            ("18446744073709551615w", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text).ok(), expected.map(Duration::from_secs), "{text}");
        }
    }
}
