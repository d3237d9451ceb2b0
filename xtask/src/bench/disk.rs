//! Tree to raw ext4 disk to qcow2: the same manifest by both sides, each with its own modules, with the host's tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_sys::command::Run;
use serde_json::{Value as Json, json};

use super::measure::{Series, Side, in_turns, timed};
use super::sample;
use super::scratch::remove;
use super::side::export;
use super::table::{Limit, Row, Value};
use super::{Context, write_json};
use crate::error::Error;

/// How many times as fast as the reference.
const FACTOR: f64 = 1.5;
/// A sector, in bytes.
const SECTOR: u64 = 512;
/// Where the partition starts, in sectors.
const START: u64 = 2048;
/// The disk's size in bytes: the tree and some room.
const SIZE: u64 = 3 << 30;

/// Measures the case.
pub(super) fn measure(context: &Context<'_>) -> Result<Row, Error> {
    eprintln!("tree to disk");
    let path = prepare(context)?;
    let place = |name: &str| -> (PathBuf, PathBuf) {
        (
            context.scratch.join(&format!("disk-{name}-cache")),
            context.scratch.join(&format!("disk-{name}-output")),
        )
    };
    let programs = &context.programs;
    // The tree is in the cache already: unpacking it is not what is measured. Nothing else is kept.
    let kept = |mut command: Command| {
        command.args(["--checkpoint", "tree"]);
        command
    };
    let (kiln_cache, kiln_output) = place("kiln");
    let (reference_cache, reference_output) = place("reference");
    let kiln = || kept(programs.kiln_build(&path, &kiln_cache));
    let reference = || {
        let mut command = kept(programs.reference(&path, &reference_cache)?);
        // Its own limit is nothing.
        command.args(["--cache-max-size", "unlimited"]);
        Some(command)
    };
    timed("kiln", &mut export(kiln(), "tree", &kiln_output))?;
    remove(&kiln_output)?;
    let mut sides =
        vec![Side::new("kiln", || export(kiln(), "qcow2", &kiln_output)).after(|| remove(&kiln_output))];
    if let Some(command) = reference() {
        timed("reference", &mut export(command, "tree", &reference_output))?;
        remove(&reference_output)?;
        let side = || export(reference().unwrap_or_else(&kiln), "qcow2", &reference_output);
        sides.push(Side::new("reference", side).after(|| remove(&reference_output)));
    }
    let series = in_turns(context.runs, &mut sides)?;
    let best = |index: usize| series.get(index).map(|series: &Series| Value::Time(series.best()));
    Ok(Row {
        case: "500 MB in 20,000 files to a formatted disk to qcow2".to_owned(),
        limit: Some(Limit::TimesAsFast(FACTOR)),
        kiln: best(0).unwrap_or(Value::Time(std::time::Duration::ZERO)),
        other: best(1).map(|time| ("reference", time)),
    })
}

/// Makes the archive and the manifest.
fn prepare(context: &Context<'_>) -> Result<PathBuf, Error> {
    let tree = context.scratch.join("disk-tree");
    sample::make(&tree)?;
    let archive = context.scratch.join("disk-tree.tar");
    Run::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&tree)
        .arg(".")
        .output()?;
    context.scratch.remove("disk-tree")?;
    let digest = Run::new("sha256sum").arg(&archive).output()?;
    let digest = String::from_utf8_lossy(&digest).split(' ').next().unwrap_or_default().to_owned();
    let path = context.scratch.join("disk.json");
    write_json(&path, &manifest(&archive, &digest))?;
    Ok(path)
}

/// An archive as the only source; a tree of it; a disk with one ext4 partition that holds the tree; the disk as qcow2.
fn manifest(archive: &Path, digest: &str) -> Json {
    let item = format!("sha256:{digest}");
    let size = SIZE / SECTOR - START - START;
    let partition = json!({"type": "org.osbuild.loopback", "options": {"filename": "disk.img", "start": START, "size": size}});
    let uuid = "4d8b1c1e-7d0b-4c8e-9a30-1f0a5f5f2f11";
    json!({
        "version": "2",
        "pipelines": [
            {"name": "tree", "stages": [{
                "type": "org.osbuild.untar",
                "inputs": {"file": {"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": [item]}}
            }]},
            {"name": "raw", "stages": [
                {"type": "org.osbuild.truncate", "options": {"filename": "disk.img", "size": SIZE.to_string()}},
                {"type": "org.osbuild.sfdisk", "options": {
                    "label": "gpt",
                    "uuid": "0a0f8d3f-6c3f-4f5c-8b60-20b1b1c4f1a2",
                    "partitions": [{"type": "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "start": START, "size": size, "uuid": uuid}]
                }, "devices": {"device": {"type": "org.osbuild.loopback", "options": {"filename": "disk.img"}}}},
                {"type": "org.osbuild.mkfs.ext4", "options": {"uuid": uuid}, "devices": {"device": partition}},
                {
                    "type": "org.osbuild.copy",
                    "inputs": {"root": {
                        "type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]
                    }},
                    "options": {"paths": [{"from": "input://root/", "to": "mount://root/"}]},
                    "devices": {"root": partition},
                    "mounts": [{"name": "root", "type": "org.osbuild.ext4", "source": "root", "target": "/"}]
                }
            ]},
            {"name": "qcow2", "stages": [{
                "type": "org.osbuild.qemu",
                "inputs": {"image": {
                    "type": "org.osbuild.files", "origin": "org.osbuild.pipeline",
                    "references": {"name:raw": {"file": "disk.img"}}
                }},
                "options": {"filename": "disk.qcow2", "format": {"type": "qcow2", "compat": "1.1"}}
            }]}
        ],
        "sources": {"org.osbuild.curl": {"items": {format!("sha256:{digest}"): format!("file://{}", archive.display())}}}
    })
}
