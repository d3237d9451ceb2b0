//! `kiln cache info`: a cache at a glance.

use std::process::ExitCode;

use clap::Args;
use kiln_engine::plan::{bytes, count};
use kiln_store::cache::{MaximumSize, Overview};
use serde_json::{Value, json};

use super::{Common, cache_error, print_json};
use crate::error::CliResult;
use crate::present::print;

/// The arguments of `kiln cache info`.
#[derive(Debug, Args)]
#[command(
    after_help = "JSON: directory, version, limit (bytes, \"unlimited\", or null if none was set), size (objects and\ndownloads), objects {count, bytes}, downloads {count, bytes}, active, leftovers, boot-stamped,\nfile-system {type, size, free}."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let cache = arguments.common.open(false)?;
    let overview = cache.overview().map_err(|error| cache_error(&error))?;
    let directory = cache.directory().display().to_string();
    if arguments.common.json {
        print_json(&value(&directory, &overview));
    } else {
        print(text(&directory, &overview));
    }
    Ok(ExitCode::SUCCESS)
}

fn value(directory: &str, overview: &Overview) -> Value {
    let limit = match overview.maximum_size {
        None => Value::Null,
        Some(MaximumSize::Bytes(limit)) => limit.into(),
        Some(MaximumSize::Unlimited) => "unlimited".into(),
    };
    json!({
        "directory": directory,
        "version": overview.version,
        "limit": limit,
        "size": overview.objects_size.saturating_add(overview.downloads.bytes),
        "objects": {"count": overview.objects, "bytes": overview.objects_size},
        "downloads": {"count": overview.downloads.files, "bytes": overview.downloads.bytes},
        "active": overview.active,
        "leftovers": overview.leftovers,
        "boot-stamped": overview.boot_stamped,
        "file-system": {
            "type": overview.place.kind, "size": overview.place.size, "free": overview.place.free,
        },
    })
}

fn text(directory: &str, overview: &Overview) -> String {
    let size = overview.objects_size.saturating_add(overview.downloads.bytes);
    let limit = match overview.maximum_size {
        None => {
            "none was set: no objects are kept until `kiln build` or `--cache-max-size` sets one".to_owned()
        }
        Some(MaximumSize::Bytes(0)) => "0: no objects are kept".to_owned(),
        Some(MaximumSize::Bytes(limit)) => bytes(limit),
        Some(MaximumSize::Unlimited) => "unlimited".to_owned(),
    };
    let share = match overview.maximum_size {
        Some(MaximumSize::Bytes(limit)) if limit > 0 => {
            format!(", {} % of the limit", u128::from(size) * 100 / u128::from(limit))
        }
        _ => String::new(),
    };
    let version = match overview.version {
        Some(version) => format!("version {version}"),
        None => "unknown".to_owned(),
    };
    let rows = [
        ("cache", directory.to_owned()),
        (
            "file system",
            format!(
                "{}, {} of {} free",
                overview.place.kind.as_deref().unwrap_or("of unknown type"),
                bytes(overview.place.free),
                bytes(overview.place.size)
            ),
        ),
        ("layout", version),
        (
            "made in",
            if overview.boot_stamped { "a noted boot" } else { "a boot that was not noted" }.to_owned(),
        ),
        ("limit", limit),
        ("objects", format!("{}, {}", overview.objects, bytes(overview.objects_size))),
        ("downloads", format!("{}, {}", overview.downloads.files, bytes(overview.downloads.bytes))),
        (
            "in the making",
            count(usize::try_from(overview.active).unwrap_or(usize::MAX), "entry")
                .replace("entrys", "entries"),
        ),
        (
            "left behind",
            count(usize::try_from(overview.leftovers).unwrap_or(usize::MAX), "entry")
                .replace("entrys", "entries"),
        ),
        ("together", format!("{}{share}", bytes(size))),
    ];
    rows.iter().map(|(name, value)| format!("{:<14} {value}\n", format!("{name}:"))).collect()
}
