//! The log, the texts on standard output, and descriptors of monitors, beside the reference's where it is present.

use std::os::fd::AsFd as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::manifests::{add_inline, good, manifest, mkdir, noop, pipeline};
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
    error: invalid value 'LogMonitr' for '--monitor <NAME>'
      [possible values: NullMonitor, LogMonitor, JSONSeqMonitor]

      tip: a similar value exists: 'LogMonitor'

    For more information, try '--help'.
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

/// A build whose monitor writes to a pipe that nobody reads to the end.
#[test]
fn root_a_reader_that_goes_does_not_end_the_build() {
    let world = World::new();
    for monitor in ["LogMonitor", "JSONSeqMonitor"] {
        let stages: Vec<Value> = (0..20)
            .map(|number| json!({"type": "org.osbuild.noop", "options": {"number": number, "text": "x".repeat(9000), "for": monitor}}))
            .collect();
        world.manifest(&manifest(&[pipeline("tree", &stages)]));
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let arguments = [
            "--monitor",
            monitor,
            "--cache",
            "cache",
            "--export",
            "tree",
            "--output-directory",
            monitor,
            "manifest.json",
        ];
        let mut command = world.program(world.osbuild_program(), &arguments);
        command.stdout(Stdio::from(writer));
        let child = command.spawn().expect("started");
        drop(command);
        // The build may not have begun, or be in its middle; it must not matter.
        let mut first = [0; 8];
        rustix::io::read(reader.as_fd(), &mut first).expect("a beginning");
        drop(reader);
        let output = child.wait_with_output().expect("waited for");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{monitor}");
        assert!(world.path(monitor).join("tree").is_dir(), "{monitor}");
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
