//! Loading large manifests to ids: `inspect`.
//!
//! The time of a whole command, and the same less the time that a manifest of one stage takes: what the program's
//! start costs is another matter. The reference validates while it loads, and so does Kiln.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_sys::command::Run;
use serde_json::{Value as Json, json};

use super::measure::{Series, Side, in_turns};
use super::stages::noops;
use super::table::{Limit, Row, Value};
use super::{Context, write_json};
use crate::error::Error;

/// What loading the largest conformance manifest may take, start included.
const LARGEST: Duration = Duration::from_millis(10);
/// What loading a synthetic manifest of this many stages, or references, may take.
const SYNTHETIC: Duration = Duration::from_millis(100);
const COUNT: u32 = 6_000;

/// Measures the case.
pub(super) fn measure(context: &Context<'_>) -> Result<Vec<Row>, Error> {
    let one = context.scratch.join("one.json");
    write_json(&one, &noops(1))?;
    let mut cases = Vec::new();
    match largest(context)? {
        Some(path) => cases.push(("loading the largest conformance manifest", path, LARGEST)),
        None => eprintln!("no manifests in `{}`: that case is left out", context.manifests.display()),
    }
    for (name, case, manifest) in [
        ("stages.json", "loading 6,000 stages", noops(COUNT)),
        ("references.json", "loading 6,000 references in two inputs", references(COUNT)),
    ] {
        let path = context.scratch.join(name);
        write_json(&path, &manifest)?;
        cases.push((case, path, SYNTHETIC));
    }
    let mut rows = Vec::new();
    for (case, path, limit) in cases {
        eprintln!("{case}");
        rows.push(load(context, case, &path, &one, limit)?);
    }
    Ok(rows)
}

fn load(context: &Context<'_>, case: &str, path: &Path, one: &Path, limit: Duration) -> Result<Row, Error> {
    let programs = &context.programs;
    let cache = context.scratch.join("load-cache");
    let kiln = || {
        let mut command = programs.kiln("inspect");
        command.arg(path);
        command
    };
    let mut sides = vec![Side::new("kiln", kiln)];
    if programs.has_reference() {
        for (name, manifest) in [("reference", path), ("reference, its start", one)] {
            let cache = &cache;
            sides.push(Side::new(name, move || {
                let mut command =
                    programs.reference(manifest, cache).unwrap_or_else(|| programs.kiln("inspect"));
                command.arg("--inspect");
                command
            }));
        }
    }
    let series = in_turns(context.runs, &mut sides)?;
    let best = |index: usize| series.get(index).map(Series::best);
    let reference = best(1).zip(best(2)).map(|(whole, start)| whole.saturating_sub(start));
    Ok(Row {
        case: case.to_owned(),
        limit: Some(Limit::AtMost(Value::Time(limit))),
        kiln: Value::Time(best(0).unwrap_or_default()),
        other: reference.map(|time| ("reference, without its start,", Value::Time(time))),
    })
}

/// The largest conformance manifest, unpacked.
pub(super) fn largest(context: &Context<'_>) -> Result<Option<PathBuf>, Error> {
    let Ok(entries) = std::fs::read_dir(&context.manifests) else { return Ok(None) };
    let mut found: Option<Vec<u8>> = None;
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with(".json.gz")) {
        let text = Run::new("gunzip").arg("--stdout").arg(entry.path()).output()?;
        if found.as_ref().is_none_or(|largest| text.len() > largest.len()) {
            found = Some(text);
        }
    }
    let Some(text) = found else { return Ok(None) };
    let path = context.scratch.join("largest.json");
    std::fs::write(&path, text).map_err(Error::file("write", &path))?;
    Ok(Some(path))
}

/// A manifest with two inputs of half as many references each.
fn references(count: u32) -> Json {
    let digest = |number: u32| format!("sha256:{number:064x}");
    let items: serde_json::Map<String, Json> =
        (0..count).map(|number| (digest(number), json!({"encoding": "base64", "data": ""}))).collect();
    let input = |range: std::ops::Range<u32>| {
        let references: serde_json::Map<String, Json> =
            range.map(|number| (digest(number), json!({}))).collect();
        json!({"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": references})
    };
    json!({
        "version": "2",
        "pipelines": [{"name": "tree", "stages": [{
            "type": "org.osbuild.copy",
            "inputs": {"one": input(0..count / 2), "two": input(count / 2..count)},
            "options": {"paths": [{"from": "input://one/a", "to": "tree:///a"}]}
        }]}],
        "sources": {"org.osbuild.inline": {"items": items}}
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_synthetic_manifest_is_a_source() {
        let manifest = references(10);
        let items = manifest["sources"]["org.osbuild.inline"]["items"].as_object().expect("items");
        let inputs = manifest["pipelines"][0]["stages"][0]["inputs"].as_object().expect("inputs");
        let named: Vec<_> = inputs
            .values()
            .flat_map(|input| input["references"].as_object().expect("references").keys())
            .collect();
        assert_eq!(named, items.keys().collect::<Vec<_>>());
        assert_eq!(named.len(), 10);
    }
}
