//! `kiln cache verify`: whether a cache is what it says.

use std::process::ExitCode;

use clap::Args;
use kiln_engine::plan::{bytes, count};
use kiln_store::cache::{Finding, Progress, Repair, Unchecked, VerifyReport, verify};
use serde_json::{Value, json};

use super::watch::watch;
use super::{Common, cache_error, print_json};
use crate::error::{CliError, CliResult, Kind};
use crate::present::print;
use crate::signals;

/// The arguments of `kiln cache verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "Checked are the structure, what commits objects, what their trees take, their metadata and recipes, the sum of\nall sizes, and the content of downloads. Of content that is not named by its checksum (ostree, containers)\nonly the structure is.\n\nJSON: {sound, objects, downloads, hashed, findings: [{path, fault, text, remedy, outcome}], unchecked: [text]};\n`outcome` is \"not-asked\", \"repaired\", \"in-use\", \"others-here\" or \"left\"."
)]
pub(super) struct Arguments {
    /// Repair what can be: remove what is broken and not in use, count again
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let interrupted =
        signals::interrupted().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let directory = arguments.common.directory()?;
    let progress = Progress::default();
    let report =
        watch("verifying", &progress, || verify(directory, arguments.repair, &progress, &interrupted))
            .map_err(|error| cache_error(&error))?;
    if arguments.common.json {
        print_json(&value(&report));
    } else {
        print(text(&report));
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { Kind::Build.code() })
}

fn value(report: &VerifyReport) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "path": finding.path.to_string_lossy(),
            "fault": finding.fault.word(),
            "text": finding.fault.to_string(),
            "remedy": finding.fault.remedy().to_string(),
            "outcome": outcome(finding.outcome).0,
        })
    };
    json!({
        "sound": report.is_sound(),
        "objects": report.objects,
        "downloads": report.downloads,
        "hashed": report.hashed,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "unchecked": report.unchecked.iter().map(unchecked).collect::<Vec<_>>(),
    })
}

fn text(report: &VerifyReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let remedy = finding.fault.remedy();
        let fate = match outcome(finding.outcome).1 {
            None => format!("`--repair` {remedy}"),
            Some(fate) => fate.to_owned(),
        };
        text.push_str(&format!("{}: {}\n  {fate}\n", finding.path.display(), finding.fault));
    }
    for part in &report.unchecked {
        text.push_str(&format!("not checked: {}\n", unchecked(part)));
    }
    let number = |number: u64, noun: &str| count(usize::try_from(number).unwrap_or(usize::MAX), noun);
    let checked = format!(
        "checked {} and {} ({} hashed)",
        number(report.objects, "object"),
        number(report.downloads, "download"),
        bytes(report.hashed)
    );
    let repaired = report.findings.iter().filter(|finding| finding.outcome == Repair::Done).count();
    let found = match report.findings.len() {
        0 => "nothing is wrong".to_owned(),
        number => format!("{}, {repaired} repaired", count(number, "finding")),
    };
    text.push_str(&format!("{checked}: {found}\n"));
    text
}

/// What became of a finding: a word for programs, and some for people.
const fn outcome(repair: Repair) -> (&'static str, Option<&'static str>) {
    match repair {
        Repair::NotAsked => ("not-asked", None),
        Repair::Done => ("repaired", Some("repaired")),
        Repair::InUse => ("in-use", Some("not repaired: it is in use")),
        Repair::OthersHere => {
            ("others-here", Some("not repaired: others have the cache open; try again when they have ended"))
        }
        Repair::Left => ("left", Some("left as it is: look at it yourself")),
    }
}

fn unchecked(part: &Unchecked) -> String {
    match part {
        Unchecked::Accounting => {
            "the sum of all sizes: others have the cache open, or it may only be read".to_owned()
        }
        Unchecked::Busy { entries } => format!("objects that are being written: {entries}"),
        Unchecked::Content { content_type, items } => {
            format!("the content of `{content_type}`, which is not named by its checksum: {items}")
        }
        Unchecked::Everything => "everything else, because the cache cannot be opened".to_owned(),
    }
}
