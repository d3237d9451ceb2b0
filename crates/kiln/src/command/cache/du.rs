//! `kiln cache du`: what entries take on disk.

use std::process::ExitCode;

use clap::Args;
use kiln_engine::plan::bytes;
use kiln_store::cache::{Progress, Usage, UsageReport};
use serde_json::{Value, json};

use super::watch::watch;
use super::{Common, cache_error, is_meant, print_json, short, unknown, word};
use crate::error::{CliError, CliResult, Kind};
use crate::present::{Side, entries, print, table};
use crate::signals;

/// The arguments of `kiln cache du`.
#[derive(Debug, Args)]
#[command(
    after_help = "APPARENT is the length of the content, ON DISK what is allocated for it, SHARED what of that other files\nhave too (reflinks), UNIQUE what removing the entry frees. A file with several names counts once. `?` stands\nwhere the file system cannot tell what is shared.\n\nJSON: {entries: [{kind, name, files, apparent, on-disk, shared, unique}], total: {files, apparent, on-disk,\nshared, unique, occupied}}; `occupied` counts what entries share once."
)]
pub(super) struct Arguments {
    /// Measure only these: names or their beginnings
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let interrupted =
        signals::interrupted().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let cache = arguments.common.open(false)?;
    let progress = Progress::default();
    let names = &arguments.names;
    let report = watch("measuring", &progress, || {
        cache.usage(&|_, name| is_meant(name, names), &progress, &interrupted)
    })
    .map_err(|error| cache_error(&error))?;
    unknown(names, &report.entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>())?;
    if arguments.common.json {
        print_json(&value(&report));
    } else {
        print(text(&report));
    }
    Ok(ExitCode::SUCCESS)
}

/// The sums of a report, with nothing for what is not known of each.
struct Total {
    files: u64,
    apparent: u64,
    on_disk: u64,
    shared: Option<u64>,
    unique: Option<u64>,
}

impl Total {
    fn of(entries: &[Usage]) -> Self {
        let sum = |of: fn(&Usage) -> u64| entries.iter().map(of).sum();
        Self {
            files: sum(|entry| entry.files),
            apparent: sum(|entry| entry.apparent),
            on_disk: sum(|entry| entry.on_disk),
            shared: entries.iter().map(|entry| entry.shared).sum(),
            unique: entries.iter().map(Usage::unique).sum(),
        }
    }
}

fn value(report: &UsageReport) -> Value {
    let entry = |entry: &Usage| {
        json!({
            "kind": word(entry.kind), "name": entry.name, "files": entry.files, "apparent": entry.apparent,
            "on-disk": entry.on_disk, "shared": entry.shared, "unique": entry.unique(),
        })
    };
    let total = Total::of(&report.entries);
    json!({
        "entries": report.entries.iter().map(entry).collect::<Vec<_>>(),
        "total": {
            "files": total.files, "apparent": total.apparent, "on-disk": total.on_disk,
            "shared": total.shared, "unique": total.unique, "occupied": report.occupied,
        },
    })
}

fn text(report: &UsageReport) -> String {
    let known = |size: Option<u64>| size.map_or_else(|| "?".to_owned(), bytes);
    let heads = ["", "NAME", "FILES", "APPARENT", "ON DISK", "SHARED", "UNIQUE"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for entry in &report.entries {
        rows.push(vec![
            word(entry.kind).to_owned(),
            short(&entry.name),
            entry.files.to_string(),
            bytes(entry.apparent),
            bytes(entry.on_disk),
            known(entry.shared),
            known(entry.unique()),
        ]);
    }
    let total = Total::of(&report.entries);
    rows.push(vec![
        "total".to_owned(),
        entries(report.entries.len()),
        total.files.to_string(),
        bytes(total.apparent),
        bytes(total.on_disk),
        known(total.shared),
        known(total.unique),
    ]);
    let right = Side::Right;
    let mut text = table(&rows, &[Side::Left, Side::Left, right, right, right, right, right]);
    text.push_str(&match report.occupied {
        Some(occupied) => format!("{} on disk, with what is shared counted once\n", bytes(occupied)),
        None => "the file system cannot tell what is shared\n".to_owned(),
    });
    text
}
