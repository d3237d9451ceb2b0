//! `kiln cache ls`: what there is, and why it is kept.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use kiln_engine::plan::bytes;
use kiln_store::cache::{EntryKind, Listed};
use serde_json::{Value, json};

use super::{Common, cache_error, is_meant, print_json, short, stamp, unknown, word};
use crate::error::CliResult;
use crate::present::{Side, ago, entries, print, table};

/// The arguments of `kiln cache ls`.
#[derive(Debug, Args)]
#[command(
    after_help = "JSON: an array of {kind (\"object\" or \"download\"), name, path, size, created, last-used, in-use,\nthis-boot, flushed, recipe, notes}; `notes` has what else was noted with an object."
)]
pub(super) struct Arguments {
    /// Show only these: names or their beginnings
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Order of the list
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Sort {
    /// By last use, the oldest first: that is evicted first
    #[default]
    Used,
    /// By size, the largest first
    Size,
    /// By name
    Name,
}

pub(super) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let cache = arguments.common.open(false)?;
    let mut list = cache.list().map_err(|error| cache_error(&error))?;
    unknown(&arguments.names, &list.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>())?;
    list.retain(|entry| is_meant(&entry.name, &arguments.names));
    list.sort_by(|one, other| one.name.cmp(&other.name));
    match arguments.sort {
        Sort::Used => list.sort_by_key(|entry| entry.last_used),
        Sort::Size => list.sort_by_key(|entry| std::cmp::Reverse(entry.size)),
        Sort::Name => {}
    }
    if arguments.common.json {
        print_json(&list.iter().map(value).collect());
    } else {
        print(text(&list, SystemTime::now()));
    }
    Ok(ExitCode::SUCCESS)
}

fn value(entry: &Listed) -> Value {
    let mut notes = entry.notes.clone();
    let recipe = notes.shift_remove("recipe");
    json!({
        "kind": word(entry.kind),
        "name": entry.name,
        "path": entry.path.to_string_lossy(),
        "size": entry.size,
        "created": entry.created.map(stamp),
        "last-used": stamp(entry.last_used),
        "in-use": entry.in_use,
        "this-boot": entry.this_boot,
        "flushed": entry.flushed,
        "recipe": recipe,
        "notes": notes,
    })
}

fn text(list: &[Listed], now: SystemTime) -> String {
    let mut rows =
        vec![["", "NAME", "SIZE", "CREATED", "LAST USED", "STATE", "WHAT"].map(str::to_owned).to_vec()];
    for entry in list {
        rows.push(vec![
            word(entry.kind).to_owned(),
            short(&entry.name),
            bytes(entry.size),
            entry.created.map_or_else(|| "-".to_owned(), |time| ago(time, now)),
            ago(entry.last_used, now),
            state(entry),
            what(entry),
        ]);
    }
    let columns = [Side::Left, Side::Left, Side::Right, Side::Right, Side::Right, Side::Left, Side::Left];
    let total = list.iter().map(|entry| entry.size).sum();
    format!("{}{}, {}\n", table(&rows, &columns), entries(list.len()), bytes(total))
}

fn state(entry: &Listed) -> String {
    let mut words = Vec::new();
    if entry.in_use {
        words.push("in use");
    }
    if entry.flushed == Some(false) {
        words.push("not flushed");
    }
    if entry.this_boot == Some(false) {
        words.push("earlier boot");
    }
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

/// What was noted with an object, as far as it is short.
fn what(entry: &Listed) -> String {
    if entry.kind == EntryKind::Download {
        return String::new();
    }
    let noted = |key: &str| entry.notes.get(key).and_then(Value::as_str);
    let mut words = Vec::new();
    words.extend(match (noted("pipeline"), noted("stage")) {
        (Some(pipeline), Some(stage)) => Some(format!("{pipeline}: {stage}")),
        (pipeline, stage) => pipeline.or(stage).map(str::to_owned),
    });
    words.extend(entry.recipe().map(|recipe| format!("recipe {}", short(recipe))));
    words.join(", ")
}
