//! Stages of a library: modules that others wrote, run by Kiln and by the reference.
//!
//! First the reference's own modules, with its own runner and with Kiln's in its place. Then Kiln's and the reference's
//! own share of a stage: a library whose runner (`env`) and whose module (`true`) do nothing, less what these two take
//! by themselves.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::measure::{Series, Side, in_turns, timed};
use super::side::export;
use super::stages::noops;
use super::table::{Limit, Row, Value};
use super::{Context, write_json};
use crate::error::Error;

/// How many stages the manifest has.
const STAGES: u32 = 100;
/// How many times as fast as the reference the stages are, with its runner and with Kiln's.
const FACTORS: [f64; 2] = [1.1, 1.8];
/// What a stage may cost beside its runner and its module.
const SHARE: Duration = Duration::from_millis(6);
/// How often the runner and the module are run by themselves.
const BY_THEMSELVES: u32 = 200;

/// Measures the case.
pub(super) fn measure(context: &Context<'_>) -> Result<Vec<Row>, Error> {
    let Some(checkout) = context.programs.checkout() else {
        eprintln!("without the reference, its modules are not measured");
        return Ok(Vec::new());
    };
    eprintln!("{STAGES} stages of the reference's, in Python");
    let many = manifest(context, STAGES)?;
    let times = in_turns(
        context.runs,
        &mut [
            side(context, "kiln, its own runner", &many, checkout, Some(&["--prefer-native=runners"])),
            side(context, "kiln, the reference's runner", &many, checkout, Some(&[])),
            side(context, "reference", &many, checkout, None),
        ],
    )?;
    let [native, kiln, reference] = times.as_slice() else { return Ok(Vec::new()) };
    let row = |which: &str, series: &Series, factor| Row {
        case: format!("{STAGES} stages in Python, {which}"),
        limit: Some(Limit::TimesAsFast(factor)),
        kiln: Value::Time(series.best()),
        other: Some(("reference, its own runner", Value::Time(reference.best()))),
    };
    let mut rows =
        vec![row("the reference's runner", kiln, FACTORS[0]), row("Kiln's runner", native, FACTORS[1])];
    rows.push(share(context, checkout)?);
    Ok(rows)
}

fn share(context: &Context<'_>, checkout: &Path) -> Result<Row, Error> {
    eprintln!("a stage whose runner and module do nothing");
    let library = nothing(context, checkout)?;
    let (one, many) = (manifest(context, 1)?, manifest(context, STAGES + 1)?);
    let times = in_turns(
        context.runs,
        &mut [
            side(context, "kiln, one stage", &one, &library, Some(&[])),
            side(context, "kiln, many stages", &many, &library, Some(&[])),
            side(context, "reference, one stage", &one, &library, None),
            side(context, "reference, many stages", &many, &library, None),
        ],
    )?;
    let best = |index: usize| times.get(index).map(Series::best).unwrap_or_default();
    let mut themselves = Duration::MAX;
    for _ in 0..BY_THEMSELVES {
        let mut command = Command::new(library.join("runners/org.osbuild.linux"));
        command.arg(library.join("stages/org.osbuild.noop"));
        themselves = themselves.min(timed("the runner and the module", &mut command)?);
    }
    let share = |less: usize, more: usize| {
        Value::Time((best(more).saturating_sub(best(less)) / STAGES).saturating_sub(themselves))
    };
    Ok(Row {
        case: "a stage of a library, less its runner and its module".to_owned(),
        limit: Some(Limit::AtMost(Value::Time(SHARE))),
        kiln: share(0, 1),
        other: Some(("reference", share(2, 3))),
    })
}

fn manifest(context: &Context<'_>, stages: u32) -> Result<PathBuf, Error> {
    let path = context.scratch.join(&format!("modules-{stages}.json"));
    write_json(&path, &noops(stages))?;
    Ok(path)
}

/// A build with a library: by Kiln with more arguments, or by the reference.
fn side<'a>(
    context: &'a Context<'_>,
    name: &str,
    manifest: &'a Path,
    library: &'a Path,
    kiln: Option<&'a [&'a str]>,
) -> Side<'a> {
    let (cache, output) = (context.scratch.join("modules-cache"), context.scratch.join("modules-output"));
    let clear = || {
        context.scratch.remove("modules-cache")?;
        context.scratch.remove("modules-output")
    };
    let command = move || {
        let mut command = match kiln {
            Some(_) => context.programs.osbuild(),
            None => context.programs.reference_itself(),
        };
        command.arg("--libdir").arg(library).arg("--cache").arg(&cache).arg(manifest);
        command.args(kiln.unwrap_or_default());
        export(command, "tree", &output)
    };
    Side::new(name, command).after(clear)
}

/// A library with one module that does nothing, and runners that start it, under all the names that the reference has.
fn nothing(context: &Context<'_>, checkout: &Path) -> Result<PathBuf, Error> {
    let library = context.scratch.join("modules-library");
    for kind in ["stages", "runners", "sources", "inputs", "devices", "mounts", "assemblers", "osbuild"] {
        let directory = library.join(kind);
        std::fs::create_dir_all(&directory).map_err(Error::file("make", &directory))?;
    }
    let copy =
        |from: &Path, to: PathBuf| std::fs::copy(from, &to).map(drop).map_err(Error::file("make", &to));
    copy(Path::new("/usr/bin/true"), library.join("stages/org.osbuild.noop"))?;
    let meta = json!({"summary": "Nothing", "description": [], "schema_2": {"options": {"type": "object"}}});
    write_json(&library.join("stages/org.osbuild.noop.meta.json"), &meta)?;
    let runners = checkout.join("runners");
    for runner in std::fs::read_dir(&runners).map_err(Error::file("read", &runners))?.flatten() {
        copy(Path::new("/usr/bin/env"), library.join("runners").join(runner.file_name()))?;
    }
    let schemas = checkout.join("schemas");
    let ours = library.join("schemas");
    std::os::unix::fs::symlink(&schemas, &ours).map_err(Error::file("make", &ours))?;
    Ok(library)
}
