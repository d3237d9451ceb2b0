//! Command lines of `osbuild`: exit codes and what is said on standard output, recorded; and beside the reference where
//! `KILN_REFERENCE` names a checkout of it.

use std::fs::{self, File};

use serde_json::json;

use crate::manifests::{manifest, mkdir, noop, pipeline};
use crate::world::{Finished, World, finish};

/// What is expected on standard output.
enum Said {
    /// Exactly this.
    Text(&'static str),
    /// Something that begins like this; the reference's is the same.
    Begins(&'static str),
    /// Something, which is another thing in the reference.
    Other,
}
use Said::{Begins, Other, Text};

/// A description of the manifest.
const DESCRIPTION: Said = Begins("{\"version\": \"2\", \"pipelines\": [{\"name\": \"tree\", ");
const NOTHING: Said = Text("");

/// Command lines (in words, `@` standing for nothing), exit codes, and what is said.
const CASES: &[(&str, i32, Said)] = &[
    ("", 2, NOTHING),
    ("--version", 0, Text("osbuild 191\n")),
    ("--version nonsense --nonsense", 0, Text("osbuild 191\n")),
    ("--help", 0, Other),
    ("-h", 0, Other),
    ("--nonsense good.json", 2, NOTHING),
    ("good.json more.json", 2, NOTHING),
    // Manifests.
    ("missing.json", 1, NOTHING),
    ("--inspect missing.json", 1, NOTHING),
    ("syntax.json", 1, NOTHING),
    ("--json syntax.json", 1, NOTHING),
    ("empty.json", 1, NOTHING),
    ("array.json", 1, NOTHING),
    ("null.json", 1, NOTHING),
    ("latin.json", 1, NOTHING),
    ("mark.json", 1, NOTHING),
    ("format3.json", 2, Text("Unsupported manifest format\n")),
    ("--json --inspect format3.json", 2, Text("Unsupported manifest format\n")),
    ("number.json", 2, Text("Unsupported manifest format\n")),
    ("invalid.json", 2, Begins("invalid.json has errors:\n\n.pipelines[0].stages[0].options.paths:\n  ")),
    ("no-runner.json", 1, NOTHING),
    ("--inspect no-runner.json", 1, NOTHING),
    ("--inspect good.json", 0, DESCRIPTION),
    ("--inspect - < good.json", 0, DESCRIPTION),
    ("- < syntax.json", 1, NOTHING),
    ("- < format3.json", 2, Text("Unsupported manifest format\n")),
    ("- < invalid.json", 2, Begins("<stdin> has errors:\n")),
    // Options: shortened, joined, repeated, ended.
    ("--ins good.json", 0, DESCRIPTION),
    ("--inspect -- good.json", 0, DESCRIPTION),
    ("good.json --inspect", 0, DESCRIPTION),
    ("--json --json --inspect good.json", 0, DESCRIPTION),
    ("-qq --inspect good.json", 0, DESCRIPTION),
    ("--inspect=1 good.json", 2, NOTHING),
    ("--cache=a --cache=b --inspect good.json", 0, DESCRIPTION),
    ("--store a --inspect good.json", 0, DESCRIPTION),
    ("--c a --inspect good.json", 2, NOTHING),
    ("--mon LogMonitor --inspect good.json", 2, NOTHING),
    ("--inspect good.json --export", 2, NOTHING),
    ("--export -x good.json", 2, NOTHING),
    (
        "--export three --output-directory out good.json",
        1,
        Begins("Export three not found in ['tree']\nFailed\n"),
    ),
    ("--export three good.json", 1, Begins("Export three not found in ['tree']\nFailed\n")),
    ("--export three --inspect good.json", 1, Begins("Export three not found in ['tree']\nFailed\n")),
    ("--export tree good.json", 1, Text("Need --output-directory for --export\n")),
    ("--export tree --json --quiet good.json", 1, Text("Need --output-directory for --export\n")),
    ("--export tree --inspect good.json", 0, DESCRIPTION),
    // Checkpoints.
    ("--checkpoint three good.json", 1, Text("No checkpoints matched provided patterns!\nFailed\n")),
    ("--checkpoint [ --quiet good.json", 1, Text("No checkpoints matched provided patterns!\nFailed\n")),
    ("--checkpoint @ good.json", 1, Text("No checkpoints matched provided patterns!\nFailed\n")),
    ("--checkpoint TREE good.json", 1, Text("No checkpoints matched provided patterns!\nFailed\n")),
    (
        "--checkpoint three --inspect good.json",
        1,
        Text("No checkpoints matched provided patterns!\nFailed\n"),
    ),
    (
        "--checkpoint org.osbuild.no[^x]p --inspect good.json",
        1,
        Text("No checkpoints matched provided patterns!\nFailed\n"),
    ),
    ("--checkpoint org.osbuild.no[!x]p --inspect good.json", 0, DESCRIPTION),
    ("--checkpoint tree** --inspect good.json", 0, DESCRIPTION),
    ("--checkpoint [ --checkpoint tr?e --inspect good.json", 0, DESCRIPTION),
    // Values.
    ("--cache-max-size 17 --inspect good.json", 0, DESCRIPTION),
    ("--cache-max-size 17KiB --inspect good.json", 0, DESCRIPTION),
    ("--cache-max-size unlimited --inspect good.json", 0, DESCRIPTION),
    ("--cache-max-size 99999999999999999999999 --inspect good.json", 0, DESCRIPTION),
    ("--cache-max-size 99999999TB --inspect good.json", 0, DESCRIPTION),
    ("--cache-max-size Unlimited --inspect good.json", 2, NOTHING),
    ("--cache-max-size 1.5GB --inspect good.json", 2, NOTHING),
    ("--cache-max-size 1kb --inspect good.json", 2, NOTHING),
    ("--cache-max-size 1G --inspect good.json", 2, NOTHING),
    ("--cache-max-size -1 --inspect good.json", 2, NOTHING),
    ("--cache-max-size @ --inspect good.json", 2, NOTHING),
    ("--stage-timeout 5 --inspect good.json", 0, DESCRIPTION),
    ("--stage-timeout +1_000 --inspect good.json", 0, DESCRIPTION),
    ("--stage-timeout -1 --inspect good.json", 0, DESCRIPTION),
    ("--stage-timeout 99999999999999999999 --inspect good.json", 0, DESCRIPTION),
    ("--stage-timeout 1.5 --inspect good.json", 2, NOTHING),
    ("--stage-timeout x --inspect good.json", 2, NOTHING),
    ("--monitor-fd x --inspect good.json", 2, NOTHING),
    ("--monitor-fd 77 --inspect good.json", 0, DESCRIPTION),
    ("--monitor-fd -1 --inspect good.json", 0, DESCRIPTION),
    ("--in-vm tree --in-vm other --inspect good.json", 0, DESCRIPTION),
    ("--in-vm", 2, NOTHING),
    ("--rundir /run/osbuild --inspect good.json", 0, DESCRIPTION),
    ("--rundir", 2, NOTHING),
    ("--output-directory", 2, NOTHING),
    // The value may be left out, and the next word is it.
    ("--break --inspect good.json", 0, DESCRIPTION),
    ("--break=x --inspect good.json", 0, DESCRIPTION),
    ("good.json --inspect --break", 0, DESCRIPTION),
    ("--break good.json", 2, NOTHING),
];

/// What is built: without exports nothing, and everything is well.
const BUILDS: &[(&str, i32, Said)] = &[
    ("--quiet good.json", 0, NOTHING),
    ("-q --cache a --cache-max-size 1GiB good.json", 0, NOTHING),
    ("--quiet - < good.json", 0, NOTHING),
    ("--monitor NullMonitor good.json", 0, Begins("\nPipelines\n  tree:     \t")),
    ("--monitor NullMonitor --checkpoint tree good.json", 0, Begins("\nPipelines\n  tree:     \t")),
    (
        "good.json",
        0,
        Begins("starting good.jsonmanifest good.json finished successfully\n\nPipelines\n  tree: "),
    ),
    ("--json good.json", 0, Other),
    ("--in-vm other --quiet good.json", 0, NOTHING),
    ("--in-vm tree --quiet good.json", 0, NOTHING),
    ("--quiet --export tree --export tree --output-directory out good.json", 0, NOTHING),
    ("--qui --exp=tree --out=out good.json", 0, NOTHING),
    ("--quiet --export tree --output-directory out failing.json", 1, NOTHING),
    ("--monitor NullMonitor --export tree --output-directory out failing.json", 1, Text("Failed\n")),
    ("--quiet --stage-timeout 60 --export tree --output-directory out good.json", 0, NOTHING),
];

fn world() -> World {
    let world = World::new();
    let good = manifest(&[pipeline("tree", &[noop(), mkdir(&["/a"])])]);
    let failing = manifest(&[pipeline("tree", &[mkdir(&["/a"]), mkdir(&["/a"])])]);
    let invalid =
        manifest(&[pipeline("tree", &[json!({"type": "org.osbuild.mkdir", "options": {"paths": 1}})])]);
    let mut no_runner = good.clone();
    no_runner["pipelines"][0]["runner"] = json!("org.osbuild.nonsense9");
    for (name, manifest) in
        [("good", good), ("failing", failing), ("invalid", invalid), ("no-runner", no_runner)]
    {
        world.write(&format!("{name}.json"), manifest.to_string());
    }
    for (name, text) in [
        ("syntax", &b"{"[..]),
        ("empty", b""),
        ("array", b"[]"),
        ("null", b"null"),
        ("latin", b"{\"version\": \"2\", \"x\": \"\xe9\"}"),
        ("mark", b"\xef\xbb\xbf{\"version\": \"2\", \"pipelines\": []}"),
        ("format3", b" {\"version\": \"3\"}"),
        ("number", b"{\"version\": 2}"),
    ] {
        world.write(&format!("{name}.json"), text);
    }
    world
}

/// Runs a command line on both programs.
fn run(world: &World, line: &str) -> (Finished, Option<Finished>) {
    let (line, input) = match line.split_once(" < ") {
        Some((line, input)) => (line, Some(input)),
        None => (line, None),
    };
    let words: Vec<&str> = line.split_whitespace().map(|word| if word == "@" { "" } else { word }).collect();
    let ours = world.program(world.osbuild_program(), &words);
    let theirs =
        world.with_reference("python3", &["-m", "osbuild", "--libdir"]).map(|(mut command, checkout)| {
            command.arg(checkout).args(&words);
            command
        });
    let end = |mut command: std::process::Command| {
        for directory in [".osbuild", "a", "b", "out"] {
            let _ = fs::remove_dir_all(world.path(directory));
        }
        if let Some(input) = input {
            command.stdin(File::open(world.path(input)).expect(input));
        }
        finish(command.spawn().expect("started"))
    };
    (end(ours), theirs.map(end))
}

fn check(cases: &[(&str, i32, Said)]) {
    let world = world();
    for (line, code, said) in cases {
        let (ours, theirs) = run(&world, line);
        for finished in [Some(&ours), theirs.as_ref()].into_iter().flatten() {
            assert_eq!(finished.code(), Some(*code), "{line}: {}", finished.shown());
            match said {
                Text(text) => assert_eq!(finished.stdout, *text, "{line}: {}", finished.shown()),
                Begins(text) => assert!(finished.stdout.starts_with(text), "{line}: {}", finished.shown()),
                Other => assert_ne!(finished.stdout, "", "{line}: {}", finished.shown()),
            }
        }
        // Whatever is wrong, something says it.
        assert!(*code == 0 || !ours.stderr.is_empty(), "{line}: {}", ours.shown());
        if let (Some(theirs), Begins(_)) = (&theirs, said)
            && !line.ends_with("invalid.json")
        {
            assert_eq!(ours.stdout, theirs.stdout, "{line}");
        }
    }
}

#[test]
fn command_lines() {
    check(CASES);
}

#[test]
fn root_builds() {
    check(BUILDS);
}

#[test]
fn mistakes_have_the_programs_name_before_them() {
    let world = world();
    let (ours, theirs) = run(&world, "--stage-timeout x good.json");
    crate::world::assert_shown!(world, ours, @r#"
    exit code 2
    --- stderr
    usage: osbuild [OPTIONS] MANIFEST
    osbuild: error: invalid value 'x' for '--stage-timeout <SECONDS>': expected a whole number
    "#);
    if let Some(theirs) = theirs {
        let last = theirs.stderr.lines().last().expect("a line");
        assert!(
            last.starts_with("osbuild: error: ") && theirs.stderr.starts_with("usage: osbuild "),
            "{last}"
        );
    }
    let (ours, _) = run(&world, "");
    crate::world::assert_shown!(world, ours, @r#"
    exit code 2
    --- stderr
    usage: osbuild [OPTIONS] MANIFEST
    osbuild: error: the following required arguments were not provided:
      <MANIFEST>
    "#);
}
