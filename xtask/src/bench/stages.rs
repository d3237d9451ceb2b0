//! The cost of an empty stage: a manifest of many `org.osbuild.noop` stages against one of a single stage.
//!
//! The difference leaves out what a build costs at its start and end.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::measure::{Side, in_turns};
use super::side::export;
use super::table::{Limit, Row, Value};
use super::{Context, write_json};
use crate::error::Error;

/// How many stages more the long manifest has: enough to tell a few milliseconds each from noise.
const KILN: u32 = 100;
/// Fewer for the reference, whose stages cost more than a hundred milliseconds each.
const REFERENCE: u32 = 20;
/// What an empty stage may cost.
const LIMIT: Duration = Duration::from_millis(8);

/// Measures the case.
pub(super) fn measure(context: &Context<'_>) -> Result<Vec<Row>, Error> {
    eprintln!("an empty stage");
    let kiln = per_stage(context, KILN, false)?;
    let reference =
        if context.programs.has_reference() { Some(per_stage(context, REFERENCE, true)?) } else { None };
    Ok(vec![Row {
        case: "an empty stage".to_owned(),
        limit: Some(Limit::AtMost(Value::Time(LIMIT))),
        kiln: Value::Time(kiln),
        other: reference.map(|time| ("reference", Value::Time(time))),
    }])
}

fn per_stage(context: &Context<'_>, more: u32, reference: bool) -> Result<Duration, Error> {
    let (cache, output) = (context.scratch.join("stage-cache"), context.scratch.join("stage-output"));
    let manifest = |stages: u32| -> Result<PathBuf, Error> {
        let path = context.scratch.join(&format!("stages-{stages}.json"));
        write_json(&path, &noops(stages))?;
        Ok(path)
    };
    let (one, many) = (manifest(1)?, manifest(more + 1)?);
    let clear = || {
        context.scratch.remove("stage-cache")?;
        context.scratch.remove("stage-output")
    };
    let command = |manifest: &PathBuf| {
        let command = if reference { context.programs.reference(manifest, &cache) } else { None };
        let command = command.unwrap_or_else(|| context.programs.kiln_build(manifest, &cache));
        export(command, "tree", &output)
    };
    let who = if reference { "reference" } else { "kiln" };
    let mut sides = [
        Side::new(format!("{who}, one stage"), || command(&one)).after(clear),
        Side::new(format!("{who}, {} stages", more + 1), || command(&many)).after(clear),
    ];
    let series = in_turns(context.runs, &mut sides)?;
    let best = |index: usize| series.get(index).map(super::measure::Series::best).unwrap_or_default();
    Ok(best(1).saturating_sub(best(0)) / more)
}

/// A manifest of empty stages that all differ.
pub(super) fn noops(count: u32) -> Json {
    let stages: Vec<Json> =
        (0..count).map(|number| json!({"type": "org.osbuild.noop", "options": {"number": number}})).collect();
    json!({"version": "2", "pipelines": [{"name": "tree", "stages": stages}]})
}
