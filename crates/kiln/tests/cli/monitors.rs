//! The log, the texts on standard output, and descriptors of monitors, beside the reference's where it is present.

use std::os::fd::AsFd as _;
use std::process::Stdio;

use kiln_testkit::http::Reply;
use serde_json::{Value, json};

use crate::manifests::{add_inline, add_url, checksum, good, manifest, mkdir, noop, pipeline, scripted};
use crate::world::{Finished, World, assert_shown, finish};

/// A log without what differs from run to run, and without what runners and stages say, which is another matter.
fn comparable(text: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        // `systemd-tmpfiles` in the reference's runner; the stage `org.osbuild.noop`.
        if line.starts_with("/usr/lib/tmpfiles.d/") || line.starts_with("Not doing anything with") {
            continue;
        }
        match line.find("Duration: ") {
            Some(at) => kept += &format!("{}Duration: [TIME]\n", &line[..at]),
            None => kept += &format!("{line}\n"),
        }
    }
    kept
}

/// A manifest with everything that the log shows.
fn shown() -> Value {
    let mut result = manifest(&[]);
    add_inline(&mut result, b"some content\n");
    result["pipelines"] = json!([
        {"name": "build", "stages": [mkdir(&["/usr", "/etc"])]},
        {"name": "tree", "source-epoch": 1_700_000_000, "stages": [
            mkdir(&["/srv"]),
            {"type": "org.osbuild.noop", "options": {"a": 1, "b": {}, "c": [], "d": {"e": [1.5, "ä"]}}},
        ]},
        {"name": "a-long-name", "stages": [noop()]},
    ]);
    result
}

#[test]
fn root_the_log_is_the_references() {
    let world = World::new();
    world.manifest(&shown());
    let run = |cache: &'static str, output: &'static str| {
        [
            "--cache",
            cache,
            "--checkpoint",
            "build",
            "--export",
            "tree",
            "--output-directory",
            output,
            "manifest.json",
        ]
    };
    let ours = world.osbuild(&run("cache", "ours")).succeeded();
    if let Some(theirs) = world.reference(&run("reference", "theirs")) {
        assert_eq!(comparable(&ours.stdout), comparable(&theirs.succeeded().stdout));
    }
    let mut settings = world.settings();
    settings.add_filter(r"org\.osbuild\.(debian|linux)\d*", "[RUNNER]");
    settings.add_filter(r"\w{3} Nov 1[45] \d\d:\d\d:20 2023", "[DATE]");
    settings.bind(|| {
        insta::assert_snapshot!(comparable(&ours.stdout), @r#"
        starting manifest.jsonPipeline source org.osbuild.inline: [ID]
        Build
          root: <host>
        Pipeline tree: [ID]
        Build
          root: <host>
          runner: [RUNNER] ([RUNNER])
          source-epoch: [DATE] [1700000000]
        org.osbuild.mkdir: [ID] {
          "paths": [
            {
              "path": "/srv"
            }
          ]
        }

        ⏱  Duration: [TIME]
        org.osbuild.noop: [ID] {
          "a": 1,
          "b": {},
          "c": [],
          "d": {
            "e": [
              1.5,
              "\u00e4"
            ]
          }
        }

        ⏱  Duration: [TIME]
        manifest manifest.json finished successfully

        Pipelines
          build:    	[ID]
          tree:     	[ID]
          a-long-name:	[ID]

        Checkpoints
          [ID]: not cached
        "#);
    });
    world.assert_nothing_left();
}

#[test]
fn root_checkpoints_that_were_kept_are_cached() {
    let world = World::new();
    world.manifest(&good("a"));
    let run = |cache: &'static str, output: &'static str| {
        [
            "--cache",
            cache,
            "--checkpoint",
            "org.osbuild.mk*",
            "--cache-max-size",
            "1 GiB",
            "--export",
            "tree",
            "--output-directory",
            output,
            "manifest.json",
        ]
    };
    let ours = world.osbuild(&run("cache", "ours")).succeeded();
    let last = |finished: &Finished| finished.stdout.lines().last().map(str::to_owned).expect("a line");
    assert!(last(&ours).ends_with(": cached"), "{}", ours.stdout);
    if let Some(theirs) = world.reference(&run("reference", "theirs")) {
        assert_eq!(last(&ours), last(&theirs.succeeded()));
    }
}

#[test]
fn root_the_end_of_a_failed_build() {
    let world = World::new();
    world.manifest(&manifest(&[pipeline("tree", &[mkdir(&["/a"]), mkdir(&["/a"])])]));
    let end = |finished: &Finished| -> Vec<String> {
        let lines: Vec<String> = finished.stdout.lines().map(str::to_owned).collect();
        lines[lines.len().saturating_sub(2)..].to_vec()
    };
    for (option, expected) in
        [("--checkpoint=*", vec!["manifest manifest.json failed", "Failed"]), ("--quiet", vec![])]
    {
        let run = |cache: &'static str| {
            [option, "--cache", cache, "--export", "tree", "--output-directory", "output", "manifest.json"]
        };
        let ours = world.osbuild(&run("cache"));
        assert_eq!((ours.code(), end(&ours)), (Some(1), expected.iter().map(ToString::to_string).collect()));
        assert!(ours.stderr.contains("error: the stage `org.osbuild.mkdir`"), "{}", ours.stderr);
        if let Some(theirs) = world.reference(&run("reference")) {
            assert_eq!((ours.code(), end(&ours)), (theirs.code(), end(&theirs)), "{option}");
        }
    }
}

#[test]
fn what_cannot_begin_says_so_in_the_references_words() {
    let world = World::new();
    world.manifest(&shown());
    world.write("unsupported.json", r#"{"version": "3"}"#);
    let cases: &[(&[&str], i32)] = &[
        (&["--version"], 0),
        (&["--export", "three", "--output-directory", "o", "manifest.json"], 1),
        (&["--expo", "tree", "manifest.json"], 1),
        (&["--checkpoint", "three", "manifest.json"], 1),
        (&["--checkpoint", "three", "--inspect", "manifest.json"], 1),
        (&["unsupported.json"], 2),
        (&["--json", "unsupported.json"], 2),
        (&["--cache-max-size", "1kiB", "manifest.json"], 2),
        (&["--monitor-fd", "three", "manifest.json"], 2),
        (&["--stage-timeout", "long", "manifest.json"], 2),
        (&["manifest.json", "unsupported.json"], 2),
        (&["--monitor", "manifest.json"], 2),
    ];
    for (arguments, code) in cases {
        let ours = world.osbuild(arguments);
        assert_eq!(ours.code(), Some(*code), "{arguments:?}: {}", ours.shown());
        if let Some(theirs) = world.reference(arguments) {
            assert_eq!((ours.code(), &ours.stdout), (theirs.code(), &theirs.stdout), "{arguments:?}");
        }
    }
}

#[test]
fn monitors_and_descriptors_that_do_not_exist() {
    let world = World::new();
    world.manifest(&good("a"));
    assert_shown!(world, world.osbuild(&["--monitor", "LogMonitr", "manifest.json"]), @r"
    exit code 2
    --- stderr
    usage: osbuild [OPTIONS] MANIFEST
    osbuild: error: invalid value 'LogMonitr' for '--monitor <NAME>'
      [possible values: NullMonitor, LogMonitor, JSONSeqMonitor]
      tip: a similar value exists: 'LogMonitor'
    ");
    assert_shown!(world, world.osbuild(&["--monitor-fd", "77", "manifest.json"]), @r"
    exit code 2
    --- stderr
    error: cannot write to the descriptor 77 of `--monitor-fd`: Bad file descriptor (os error 9)
    hint: the caller has to open it, as in a shell with `77>FILE`
    ");
    // Standard input is there, but nothing can be written to it.
    let reading = world.osbuild(&["--monitor-fd", "0", "manifest.json"]);
    assert_eq!(reading.code(), Some(2), "{}", reading.shown());
}

/// A build whose monitor writes to a pipe that nobody reads to the end, whatever the pipe's number.
#[test]
fn root_a_reader_that_goes_does_not_end_the_build() {
    let world = World::new();
    world.osbuild_program();
    for (monitor, descriptor, redirection) in [
        ("LogMonitor", 1, ""),
        ("LogMonitor", 2, "2>&1 1>/dev/null"),
        ("LogMonitor", 3, "3>&1 1>/dev/null"),
        ("JSONSeqMonitor", 1, ""),
        ("JSONSeqMonitor", 2, "2>&1 1>/dev/null"),
        ("JSONSeqMonitor", 3, "3>&1 1>/dev/null"),
        ("NullMonitor", 1, ""),
        ("NullMonitor", 3, "3>&1 1>/dev/null"),
    ] {
        let case = format!("{monitor}-{descriptor}");
        let stages: Vec<Value> = (0..20)
            .map(|number| json!({"type": "org.osbuild.noop", "options": {"number": number, "text": "x".repeat(9000), "for": case}}))
            .collect();
        world.manifest(&manifest(&[pipeline("tree", &stages)]));
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let script = format!(
            "exec ./osbuild --monitor {monitor} --monitor-fd {descriptor} --cache cache --export tree \
             --output-directory {case} manifest.json {redirection}"
        );
        let mut command = world.program("sh", &["-c", &script]);
        command.stdout(Stdio::from(writer));
        let child = command.spawn().expect("started");
        drop(command);
        if monitor != "NullMonitor" {
            // The build may not have begun, or be in its middle; it must not matter.
            let mut first = [0; 8];
            rustix::io::read(reader.as_fd(), &mut first).expect("a beginning");
        }
        drop(reader);
        let output = child.wait_with_output().expect("waited for");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{case}");
        assert!(world.path(&case).join("tree").is_dir(), "{case}");
    }
    world.assert_nothing_left();
}

/// A disk that is full ends the monitor with a word about it, and not the build.
#[test]
fn root_a_full_disk_does_not_end_the_build() {
    let world = World::new();
    world.manifest(&good("a"));
    let arguments = ["--cache", "cache", "--export", "tree", "--output-directory", "output", "manifest.json"];
    let script =
        format!("exec ./osbuild --monitor JSONSeqMonitor --monitor-fd 3 {} 3>/dev/full", arguments.join(" "));
    world.osbuild_program();
    let finished = finish(world.program("sh", &["-c", &script]).spawn().expect("started")).succeeded();
    assert_eq!(
        finished.stderr,
        "warning: the monitor ends, for the descriptor 3 cannot be written to: No space left on device (os error 28)\n"
    );
    assert!(world.path("output/tree/a").is_dir());
}

/// The records of a sequence, without the context.
fn records(text: &str) -> Vec<Value> {
    let record = |line: &str| {
        let record = line.strip_prefix('\u{1e}').unwrap_or_else(|| panic!("not a record: {line}"));
        serde_json::from_str(record).unwrap_or_else(|error| panic!("{error}: {record}"))
    };
    text.lines().map(record).collect()
}

/// What takes long says how far it is, below what the reference says.
#[test]
fn root_downloads_tell_how_far_they_are() {
    let world = World::new();
    let content = vec![b'x'; 3_000_000];
    world.server.serve("/quick", Reply::ok("quick"));
    // The pause that the server asks for makes it long.
    let busy = Reply::status(503).header("Retry-After", "1");
    world.server.script("/slow", [busy, Reply::ok(content.clone())]);
    let mut fetched = good("a");
    add_url(&mut fetched, &checksum(b"quick"), &world.server.url("/quick"));
    add_url(&mut fetched, &checksum(&content), &world.server.url("/slow"));
    world.manifest(&fetched);
    let arguments = ["--monitor", "JSONSeqMonitor", "--cache", "cache", "--quiet", "manifest.json"];
    let records = records(&world.osbuild(&arguments).succeeded().stdout);
    let message = |record: &Value| record["message"].as_str().unwrap_or_default().to_owned();
    let told: Vec<&Value> = records.iter().filter(|record| message(record).contains(" per second")).collect();
    assert!((1..10).contains(&told.len()), "{records:#?}");
    for record in &told {
        let source = &record["progress"]["progress"];
        assert_eq!(source["name"], "source: org.osbuild.curl", "{record}");
        assert_eq!((&source["done"], &source["total"]), (&json!(1), &json!(2)), "{record}");
        let bytes = &source["progress"];
        assert_eq!((&bytes["name"], &bytes["total"]), (&json!("bytes"), &json!(3_000_005)), "{record}");
        assert_eq!(bytes["done"], source["bytes"], "{record}");
        assert!(bytes["done"].as_u64() <= bytes["total"].as_u64(), "{record}");
        let whole = message(record);
        let start = "source/org.osbuild.curl (org.osbuild.curl): 1 of 2 items, ";
        assert!(whole.starts_with(start), "{whole:?}");
    }
    // What the reference says is as it says it: progress of the build alone, but for what comes in the middle.
    for record in &records {
        let below = record["progress"].get("progress").is_some();
        let middle = told.contains(&record) || message(record).contains(": Downloaded ");
        assert!(!below || middle, "{record}");
        assert_eq!(record["progress"]["name"], "pipelines/sources", "{record}");
    }
    assert_eq!(message(&records[records.len() - 2]), "Finished pipeline org.osbuild.curl");
}

/// What a stage wrote is cut in its result, as there are readers that take no record that is longer than 64 KiB; it is
/// whole in what was told while it was written, and in the result of `--json`.
#[test]
fn root_long_outputs_are_cut_in_results() {
    let world = World::new();
    world.manifest(&scripted("printf 'begin %040000d end\\n' 7"));
    let arguments = [
        "--monitor",
        "JSONSeqMonitor",
        "--monitor-fd",
        "2",
        "--json",
        "--cache",
        "cache",
        "--export",
        "tree",
        "--output-directory",
        "output",
        "manifest.json",
    ];
    let finished = world.osbuild(&arguments).succeeded();
    let records = records(&finished.stderr);
    let outputs: Vec<&str> = records
        .iter()
        .filter(|record| record["result"]["name"] == "org.osbuild.hostname")
        .map(|record| record["result"]["output"].as_str().expect("an output"))
        .collect();
    let [output] = outputs.as_slice() else { panic!("{outputs:?}") };
    let (note, rest) = output.split_once('\n').expect("a note");
    let log = finished.json()["log"]["tree"][0]["output"].clone();
    let whole = log.as_str().expect("an output");
    assert!(whole.contains(&format!("begin {:040000} end\n", 7)), "{whole}");
    assert_eq!(note, format!("[...{} bytes hidden...]", whole.chars().count() - 31_000));
    assert_eq!((rest.chars().count(), whole.ends_with(rest)), (31_000, true));
    let stage =
        records.iter().skip_while(|record| record["message"] != "Starting module org.osbuild.hostname");
    let told: String = stage
        .skip(1)
        .take_while(|record| record["message"] != "Finished module org.osbuild.hostname")
        .filter_map(|record| record["message"].as_str())
        .collect();
    assert!(told == whole, "{} characters of {}", told.len(), whole.len());
}

/// The reference cuts where Kiln does.
#[test]
fn root_the_reference_cuts_long_outputs_too() {
    let world = World::new();
    let long = format!("/{}", "long".repeat(9_000));
    world.manifest(&manifest(&[pipeline("tree", &[mkdir(&[&long])])]));
    let cut = |finished: &Finished| {
        assert_eq!(finished.code(), Some(1), "{}", finished.stderr);
        let records: Vec<Value> =
            finished.stdout.lines().filter(|line| line.starts_with('\u{1e}')).flat_map(records).collect();
        let result = records.iter().find(|record| record["result"]["success"] == false).expect("a result");
        let output = result["result"]["output"].as_str().expect("an output").to_owned();
        let (note, rest) = output.split_once('\n').expect("a note");
        assert!(note.starts_with("[...") && note.ends_with(" bytes hidden...]"), "{note}");
        rest.chars().count()
    };
    let run = |cache: &'static str| {
        [
            "--monitor",
            "JSONSeqMonitor",
            "--cache",
            cache,
            "--export",
            "tree",
            "--output-directory",
            "o",
            "manifest.json",
        ]
    };
    assert_eq!(cut(&world.osbuild(&run("cache"))), 31_000);
    if let Some(theirs) = world.reference(&run("reference")) {
        assert_eq!(cut(&theirs), 31_000);
    }
}
