//! A client of ours that drives `osbuild` as the tools above it do (`tests/client/drive.py`): the monitor on a
//! descriptor of its own, the manifest on standard input, the result as JSON, interruptions. It drives Kiln and, where
//! `KILN_REFERENCE` names a checkout of it, the reference, and has to see the same.

use std::path::Path;

use kiln_testkit::http::Reply;
use serde_json::{Value, json};

use crate::manifests::{add_inline, add_url, checksum, copy_files, good, manifest, mkdir, noop, pipeline};
use crate::world::{World, finish};

/// Stages that take long enough, all together, to be interrupted in the middle.
const MANY: usize = 300;

/// What the client has seen.
struct Seen {
    code: i64,
    records: Vec<Value>,
    stdout: String,
}

impl Seen {
    #[track_caller]
    fn new(mut report: Value) -> Self {
        assert_eq!(report["problems"], json!([]), "{report:#}");
        let Value::Array(records) = report["records"].take() else { panic!("{report:#}") };
        let code = report["code"].as_i64().expect("a number");
        Self { code, records, stdout: report["stdout"].as_str().expect("a text").to_owned() }
    }

    fn result(&self) -> Value {
        serde_json::from_str(&self.stdout).expect("a result")
    }

    /// Without the words on each download: the reference's come from another thread, and sometimes too late or never.
    fn without_downloads(&self) -> Self {
        let told =
            |record: &&Value| !record["message"].as_str().unwrap_or_default().contains(": Downloaded ");
        let records = self.records.iter().filter(told).cloned().collect();
        Self { code: self.code, records, stdout: self.stdout.clone() }
    }

    /// A line for each record: progress, origin, message, and what else there is.
    fn lines(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().trim_end().to_owned();
        let line = |record: &Value| {
            let progress = |value: &Value| format!("{}/{}", value["done"], value["total"]);
            let mut line = progress(&record["progress"]);
            if let Some(stages) = record["progress"].get("progress") {
                line += &format!(" ({} {})", text(&stages["name"]), progress(stages));
            }
            line += &format!(" {}: {}", text(&record["context"]["origin"]), text(&record["message"]));
            for member in ["result", "options", "duration", "metadata"] {
                if let Some(value) = record.get(member) {
                    line += &format!(" {member}={value}");
                }
            }
            line.trim_end().to_owned() + "\n"
        };
        self.records.iter().map(line).collect()
    }
}

/// Runs a manifest with the client; the second is what the reference did.
fn drive(world: &World, manifest: &Value, client: &[&str], arguments: &[&str]) -> (Seen, Option<Seen>) {
    world.manifest(manifest);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client/drive.py");
    let script = script.to_str().expect("UTF-8");
    let common = ["--monitor", "JSONSeqMonitor", "--monitor-fd", "3", "--json"];
    let client = [&[script], client, &["manifest.json"]].concat();
    let seen = |mut command: std::process::Command, cache: &str, output: &str| {
        command.args(common).args(arguments).args(["--cache", cache, "--output-directory", output, "-"]);
        Seen::new(finish(command.spawn().expect("started")).succeeded().json())
    };
    let mut ours = world.program("python3", &client);
    ours.arg(world.osbuild_program());
    let ours = seen(ours, "cache", "ours");
    let theirs = world.with_reference("python3", &client).map(|(mut command, checkout)| {
        command.args(["python3", "-m", "osbuild", "--libdir"]).arg(checkout);
        seen(command, "reference", "theirs")
    });
    (ours, theirs)
}

/// As [`drive`], and both must have seen the same; what that was.
#[track_caller]
fn same(world: &World, manifest: &Value, arguments: &[&str]) -> Seen {
    let (ours, theirs) = drive(world, manifest, &[], arguments);
    if let Some(theirs) = theirs {
        let (own, other) = (ours.without_downloads(), theirs.without_downloads());
        assert_eq!(own.lines(), other.lines());
        assert_eq!(own.records, other.records);
        assert_eq!(ours.code, theirs.code);
        let (own, other) = (ours.result(), theirs.result());
        assert_eq!(own["success"], other["success"]);
        assert_eq!(own["type"], other["type"]);
        if own["success"] == true {
            assert_eq!(own["sources"], other["sources"]);
            assert_eq!(own["metadata"], other["metadata"]);
        }
    }
    ours
}

macro_rules! assert_lines {
    ($world:expr, $seen:expr, @$expected:literal) => {
        $world.settings().bind(|| insta::assert_snapshot!($seen.lines(), @$expected))
    };
}

/// A source and two pipelines, one of which takes the other's tree.
fn two_pipelines() -> Value {
    let mut result = manifest(&[]);
    let content = add_inline(&mut result, b"some content\n");
    result["pipelines"] = json!([
        {"name": "tree", "source-epoch": 1_700_000_000, "stages": [
            mkdir(&["/srv"]), copy_files(&[(&content, "/srv/file")]),
        ]},
        {"name": "other", "stages": [noop()]},
        {"name": "archive", "stages": [{
            "type": "org.osbuild.tar",
            "inputs": {"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}},
            "options": {"filename": "tree.tar"},
        }]},
    ]);
    result
}

#[test]
fn root_a_build_is_followed() {
    let world = World::new();
    let build = ["--export", "archive", "--checkpoint", "*", "--cache-max-size", "unlimited"];
    let seen = same(&world, &two_pipelines(), &build);
    assert_eq!(seen.code, 0);
    assert!(world.path("ours/archive/tree.tar").exists());
    assert_lines!(world, seen, @r#"
    0/3 osbuild.main_cli: starting -
    0/3 osbuild.monitor: Starting pipeline source org.osbuild.inline
    0/3 osbuild.monitor: Finished module source org.osbuild.inline result={"name":"source org.osbuild.inline","source_type":"org.osbuild.inline","success":true,"output":"source org.osbuild.inline finished successfully","results":[{"success":true,"metadata":{"checksum":"sha256:[ID]","cached":false},"error":""}]}
    1/3 osbuild.monitor: Finished pipeline org.osbuild.inline
    1/3 (pipeline: tree 0/2) osbuild.monitor: Starting pipeline tree
    1/3 (pipeline: tree 0/2) osbuild.monitor: Starting module org.osbuild.mkdir
    1/3 (pipeline: tree 0/2) stages/org.osbuild.mkdir:
    1/3 (pipeline: tree 1/2) osbuild.monitor: Finished module org.osbuild.mkdir result={"name":"org.osbuild.mkdir","id":"[ID]","success":true} options={"paths":[{"path":"/srv"}]} duration="some"
    1/3 (pipeline: tree 1/2) osbuild.monitor: Starting module org.osbuild.copy
    1/3 (pipeline: tree 1/2) stages/org.osbuild.copy:
    1/3 (pipeline: tree 2/2) osbuild.monitor: Finished module org.osbuild.copy result={"name":"org.osbuild.copy","id":"[ID]","success":true} options={"paths":[{"from":"input://files/sha256:[ID]","to":"tree:///srv/file"}]} duration="some"
    2/3 osbuild.monitor: Finished pipeline tree
    2/3 (pipeline: archive 0/1) osbuild.monitor: Starting pipeline archive
    2/3 (pipeline: archive 0/1) osbuild.monitor: Starting module org.osbuild.tar
    2/3 (pipeline: archive 0/1) stages/org.osbuild.tar:
    2/3 (pipeline: archive 1/1) osbuild.monitor: Finished module org.osbuild.tar result={"name":"org.osbuild.tar","id":"[ID]","success":true} options={"filename":"tree.tar"} duration="some"
    3/3 osbuild.monitor: Finished pipeline archive
    3/3 osbuild.main_cli: manifest - finished successfully
    "#);
    world.assert_nothing_left();
    world.assert_sound();
}

#[test]
fn root_a_build_from_the_cache_is_followed() {
    let world = World::new();
    // Nothing of the source is left to be fetched, and both programs say so.
    let prefetch = same(&world, &two_pipelines(), &[]);
    assert_eq!(prefetch.code, 0);
    let build = ["--export", "other", "--checkpoint", "*", "--cache-max-size", "unlimited"];
    let (first, _) = drive(&world, &two_pipelines(), &[], &build);
    assert_eq!(first.code, 0);
    let (again, _) = drive(&world, &two_pipelines(), &[], &build);
    assert_lines!(world, again, @r#"
    0/1 osbuild.main_cli: starting -
    0/1 osbuild.monitor: Starting pipeline source org.osbuild.inline
    0/1 osbuild.monitor: Finished module source org.osbuild.inline result={"name":"source org.osbuild.inline","source_type":"org.osbuild.inline","success":true,"output":"source org.osbuild.inline finished successfully","results":[]}
    1/1 osbuild.monitor: Finished pipeline org.osbuild.inline
    1/1 osbuild.main_cli: manifest - finished successfully
    "#);
    // Without exports all items are looked at, in the cache too.
    let again = same(&world, &two_pipelines(), &[]);
    let cached = &again.result()["sources"]["org.osbuild.inline"][0]["cached"];
    assert_eq!(cached, true);
    world.assert_nothing_left();
}

#[test]
fn root_a_failing_build_is_followed() {
    let world = World::new();
    let failing = manifest(&[
        pipeline("tree", &[mkdir(&["/a"]), mkdir(&["/a"]), noop()]),
        pipeline("other", &[noop()]),
    ]);
    let seen = same(&world, &failing, &["--export", "tree"]);
    assert_eq!(seen.code, 1);
    assert_eq!(seen.result()["error"]["type"], "org.osbuild.error.stage");
    assert_lines!(world, seen, @r#"
    0/1 osbuild.main_cli: starting -
    0/1 (pipeline: tree 0/3) osbuild.monitor: Starting pipeline tree
    0/1 (pipeline: tree 0/3) osbuild.monitor: Starting module org.osbuild.mkdir
    0/1 (pipeline: tree 0/3) stages/org.osbuild.mkdir:
    0/1 (pipeline: tree 1/3) osbuild.monitor: Finished module org.osbuild.mkdir result={"name":"org.osbuild.mkdir","id":"[ID]","success":true} options={"paths":[{"path":"/a"}]} duration="some"
    0/1 (pipeline: tree 1/3) osbuild.monitor: Starting module org.osbuild.mkdir
    0/1 (pipeline: tree 1/3) stages/org.osbuild.mkdir:
    0/1 (pipeline: tree 2/3) osbuild.monitor: Finished module org.osbuild.mkdir result={"name":"org.osbuild.mkdir","id":"[ID]","success":false} options={"paths":[{"path":"/a"}]} duration="some"
    1/1 osbuild.monitor: Finished pipeline tree
    1/1 osbuild.main_cli: manifest - failed
    "#);
    world.assert_nothing_left();
}

#[test]
fn root_downloads_are_followed() {
    let world = World::new();
    world.server.serve("/file", Reply::ok("content"));
    let mut one = good("a");
    add_url(&mut one, &checksum(b"content"), &world.server.url("/file"));
    let seen = same(&world, &one, &[]);
    assert_eq!(seen.code, 0);
    assert_lines!(world, seen, @r#"
    0/1 osbuild.main_cli: starting -
    0/1 osbuild.monitor: Starting pipeline source org.osbuild.curl
    0/1 org.osbuild: source/org.osbuild.curl (org.osbuild.curl): Downloaded http://[SERVER]/file
    0/1 osbuild.monitor: Finished module source org.osbuild.curl result={"name":"source org.osbuild.curl","source_type":"org.osbuild.curl","success":true,"output":"source org.osbuild.curl finished successfully","results":[{"success":true,"metadata":{"checksum":"sha256:[ID]","cached":false},"error":""}]}
    1/1 osbuild.monitor: Finished pipeline org.osbuild.curl
    1/1 osbuild.main_cli: manifest - finished successfully
    "#);
}

#[test]
fn root_a_source_that_fails_does_not_keep_others_from_being_fetched() {
    let world = World::new();
    let mut failing = good("a");
    add_url(&mut failing, &checksum(b"gone"), &world.server.url("/gone"));
    add_inline(&mut failing, b"content");
    let seen = same(&world, &failing, &[]);
    assert_eq!(seen.code, 1);
    assert_eq!(seen.result()["error"]["type"], "org.osbuild.error.source");
    assert_lines!(world, seen, @r#"
    0/2 osbuild.main_cli: starting -
    0/2 osbuild.monitor: Starting pipeline source org.osbuild.curl
    0/2 osbuild.monitor: Finished module source org.osbuild.curl result={"name":"source org.osbuild.curl","source_type":"org.osbuild.curl","success":false}
    1/2 osbuild.monitor: Finished pipeline org.osbuild.curl
    1/2 osbuild.monitor: Starting pipeline source org.osbuild.inline
    1/2 osbuild.monitor: Finished module source org.osbuild.inline result={"name":"source org.osbuild.inline","source_type":"org.osbuild.inline","success":true,"output":"source org.osbuild.inline finished successfully","results":[{"success":true,"metadata":{"checksum":"sha256:[ID]","cached":false},"error":""}]}
    2/2 osbuild.monitor: Finished pipeline org.osbuild.inline
    2/2 osbuild.main_cli: manifest - failed
    "#);
}

#[test]
fn root_an_interrupted_build_ends_in_order() {
    let world = World::new();
    let stages: Vec<Value> =
        (0..MANY).map(|number| json!({"type": "org.osbuild.noop", "options": {"number": number}})).collect();
    let long = manifest(&[pipeline("tree", &stages)]);
    let (ours, theirs) = drive(&world, &long, &["--interrupt-at", "Starting module"], &["--export", "tree"]);
    for (who, seen) in [("ours", Some(ours)), ("theirs", theirs)] {
        let Some(seen) = seen else { continue };
        assert_eq!(seen.code, 130, "{who}: {}", seen.lines());
        assert_eq!(seen.stdout, "\nAborted\n");
        assert!(!seen.lines().contains("osbuild.main_cli: manifest"), "{}", seen.lines());
    }
    world.assert_nothing_left();
    world.assert_sound();
}
