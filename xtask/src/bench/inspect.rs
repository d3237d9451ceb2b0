//! The command line's `--inspect` on a real manifest, beside the reference with the same modules; and all faults of a
//! large manifest.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::load::largest;
use super::measure::{Series, Side, in_turns};
use super::memory;
use super::table::{Limit, Row, Value};
use super::{Context, write_json};
use crate::error::Error;

/// How many times as fast as the reference a manifest is to be inspected.
const FACTOR: f64 = 30.0;
/// How much memory that may take.
const MEMORY: u64 = 32 << 20;
/// How often the memory is looked at: the command ends within a few looks.
const LOOKS: u32 = 10;
/// How many stages the faulty manifest has, each with a fault.
const STAGES: u32 = 10_000;
/// How long it may take to find and to show all their faults.
const FAULTS: Duration = Duration::from_secs(1);

/// Measures the case.
pub(super) fn measure(context: &Context<'_>) -> Result<Vec<Row>, Error> {
    let mut rows = real(context)?;
    rows.push(faulty(context)?);
    Ok(rows)
}

fn real(context: &Context<'_>) -> Result<Vec<Row>, Error> {
    let programs = &context.programs;
    let (Some(manifest), true) = (largest(context)?, programs.has_reference()) else {
        eprintln!("without the conformance manifests and the reference, `--inspect` is not measured");
        return Ok(Vec::new());
    };
    eprintln!("inspecting the largest conformance manifest");
    let cache = context.scratch.join("inspect-cache");
    // The same modules on both sides: most of the manifest's are not native.
    let kiln = || {
        let mut command = programs.osbuild();
        command.arg("--inspect").arg(&manifest);
        command.args(
            programs.checkout().into_iter().flat_map(|library| ["--libdir".as_ref(), library.as_os_str()]),
        );
        command
    };
    let reference = || {
        let mut command = programs.reference(&manifest, &cache).unwrap_or_else(|| programs.osbuild());
        command.arg("--inspect");
        command
    };
    let mut sides = [Side::new("kiln", kiln), Side::new("reference", reference)];
    let series = in_turns(context.runs.max(5), &mut sides)?;
    let best = |index: usize| Value::Time(series.get(index).map(Series::best).unwrap_or_default());
    let mut peak = 0;
    for _ in 0..LOOKS {
        peak = peak.max(memory::peak(&mut kiln())?.main);
    }
    let case = "`osbuild --inspect` of the largest conformance manifest";
    Ok(vec![
        Row {
            case: format!("{case}, its modules from `--libdir`"),
            limit: Some(Limit::TimesAsFast(FACTOR)),
            kiln: best(0),
            other: Some(("reference", best(1))),
        },
        Row {
            case: format!("peak memory of {case}"),
            limit: Some(Limit::AtMost(Value::Memory(MEMORY))),
            kiln: Value::Memory(peak),
            other: None,
        },
    ])
}

fn faulty(context: &Context<'_>) -> Result<Row, Error> {
    let path = context.scratch.join("faulty.json");
    write_json(&path, &faults(STAGES))?;
    eprintln!("validating {STAGES} stages, each with a fault");
    // The exit code for a manifest with faults is the one that is expected.
    let command = || {
        let mut command = Command::new("sh");
        command.args(["-c", "\"$0\" validate \"$1\" 2>/dev/null; test $? -eq 2"]);
        command.arg(context.programs.program()).arg(&path);
        command
    };
    let series = in_turns(context.runs, &mut [Side::new("kiln", command)])?;
    Ok(Row {
        case: "`kiln validate` of 10,000 stages, each with a fault".to_owned(),
        limit: Some(Limit::AtMost(Value::Time(FAULTS))),
        kiln: Value::Time(series.first().map(Series::best).unwrap_or_default()),
        other: None,
    })
}

/// A manifest of stages with one fault each, of several kinds.
fn faults(count: u32) -> Json {
    let stage = |number: u32| match number % 4 {
        0 => json!({"type": "org.osbuild.mkdri", "options": {}}),
        1 => json!({"type": "org.osbuild.mkdir", "options": {"path": []}}),
        2 => json!({"type": "org.osbuild.mkdir", "options": {"paths": [{"path": number}]}}),
        _ => json!({"type": "org.osbuild.truncate", "options": {"filename": "a", "size": false}}),
    };
    let stages: Vec<Json> = (0..count).map(stage).collect();
    json!({"version": "2", "pipelines": [{"name": "tree", "stages": stages}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faults_are_of_all_kinds() {
        let manifest = faults(8);
        let stages = manifest["pipelines"][0]["stages"].as_array().expect("stages");
        assert_eq!(stages.len(), 8);
        assert!(
            stages.iter().take(4).all(|stage| stages.iter().filter(|other| *other == stage).count() <= 2)
        );
    }
}
