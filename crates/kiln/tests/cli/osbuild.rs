//! The program under the name `osbuild`: what callers of the reference rely on; and, where `KILN_REFERENCE` names
//! a checkout of the reference, both programs side by side.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_testkit::http::Reply;
use serde_json::{Value, json};

use crate::manifests::{
    add_inline, add_url, checksum, copy_files, copy_tree_to_disk, download, good, manifest, mkdir, mkfs,
    noop, pipeline, truncate,
};
use crate::world::{Finished, KILN, World, assert_shown, finish, names};

/// The reference is no part of the project: even CI may be without it.
pub(crate) fn say_skipped(reason: &str) {
    std::io::stderr().write_all(format!("SKIPPED: {reason}\n").as_bytes()).expect("stderr");
}

impl World {
    /// The program by the reference's name, wherever that is.
    pub(crate) fn osbuild_program(&self) -> PathBuf {
        let program = self.path("osbuild");
        if !program.exists() {
            symlink(KILN, &program).expect("linked");
        }
        program
    }

    /// Runs the program by the reference's name.
    pub(crate) fn osbuild(&self, arguments: &[&str]) -> Finished {
        finish(self.program(self.osbuild_program(), arguments).spawn().expect("started"))
    }

    /// Runs the reference itself; none, and a word about it, without a checkout.
    pub(crate) fn reference(&self, arguments: &[&str]) -> Option<Finished> {
        let (mut command, reference) = self.with_reference("python3", &["-m", "osbuild", "--libdir"])?;
        command.arg(reference).args(arguments);
        Some(finish(command.spawn().expect("python3")))
    }

    /// A program that can run the reference, and where that is.
    pub(crate) fn with_reference(&self, program: &str, arguments: &[&str]) -> Option<(Command, PathBuf)> {
        let Some(checkout) = std::env::var_os("KILN_REFERENCE").map(PathBuf::from) else {
            say_skipped("KILN_REFERENCE is not set; nothing was compared with the reference");
            return None;
        };
        if !Path::new("/etc/containers").is_dir() {
            say_skipped("the reference needs `/etc/containers`, which this machine has not");
            return None;
        }
        let mut command = self.program(program, arguments);
        command.env("PYTHONPATH", &checkout).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        Some((command, checkout))
    }

    pub(crate) fn manifest(&self, manifest: &Value) {
        self.write("manifest.json", serde_json::to_string_pretty(manifest).expect("JSON"));
    }
}

#[test]
fn version() {
    assert_shown!(World::new(), World::new().osbuild(&["--version"]), @r#"
    exit code 0
    --- stdout
    osbuild 191
    "#);
}

#[test]
fn inspect() {
    let world = World::new();
    world.manifest(&good("a"));
    let mut settings = world.settings();
    settings.add_filter(r"org\.osbuild\.(debian|linux)\d*", "[RUNNER]");
    settings.bind(|| insta::assert_snapshot!(world.osbuild(&["--inspect", "manifest.json"]).shown(), @r#"
    exit code 0
    --- stdout
    {"version": "2", "pipelines": [{"name": "tree", "stages": [{"type": "org.osbuild.mkdir", "id": "[ID]", "options": {"paths": [{"path": "/a"}]}}]}]}
    "#));
}

#[test]
fn exit_codes() {
    let world = World::new();
    let code = |arguments: &[&str]| world.osbuild(arguments).code();
    assert_eq!(code(&[]), Some(2));
    assert_eq!(code(&["--nonsense", "manifest.json"]), Some(2));
    world.write("manifest.json", "{\"version\": \"3\"}");
    assert_eq!(code(&["manifest.json"]), Some(2));
    world.manifest(&manifest(&[pipeline(
        "tree",
        &[json!({"type": "org.osbuild.mkdir", "options": {"paths": 1}})],
    )]));
    assert_shown!(world, world.osbuild(&["manifest.json"]), @r#"
    exit code 2
    --- stdout
    manifest.json has errors:

    .pipelines[0].stages[0].options.paths:
      expected an array, found an integer

    --- stderr
    error: expected an array, found an integer
      --> manifest.json:10:22 (.pipelines[0].stages[0].options.paths)
                  "paths": 1
                           ^
    hint: `kiln modules show org.osbuild.mkdir` documents what it takes
    "#);
    assert_shown!(world, world.osbuild(&["--json", "manifest.json"]), @r#"
    exit code 2
    --- stdout
    {"type":"https://osbuild.org/validation-error","title":"JSON Schema validation failed","success":false,"errors":[{"message":"expected an array, found an integer","path":["pipelines",0,"stages",0,"options","paths"]}]}
    "#);
    assert_eq!(code(&["--inspect", "manifest.json"]), Some(2));
    world.manifest(&good("a"));
    assert_shown!(world, world.osbuild(&["--export", "three", "--output-directory", "o", "manifest.json"]), @r#"
    exit code 1
    --- stdout
    Export three not found in ['tree']
    Failed
    --- stderr
    error: the manifest has no pipeline `three`
    hint: did you mean `tree`?
    "#);
    assert_shown!(world, world.osbuild(&["--checkpoint", "three", "manifest.json"]), @r#"
    exit code 1
    --- stdout
    No checkpoints matched provided patterns!
    Failed
    --- stderr
    error: no checkpoint matches the patterns
    "#);
    assert_shown!(world, world.osbuild(&["--export", "tree", "manifest.json"]), @r#"
    exit code 1
    --- stdout
    Need --output-directory for --export
    --- stderr
    error: an export needs `--output-directory`
    "#);
}

#[test]
fn root_a_build_and_its_export() {
    let world = World::new();
    world.manifest(&good("a"));
    let build = ["--cache", "cache", "--export", "tree", "--output-directory", "output", "manifest.json"];
    let log = world.osbuild(&build).succeeded();
    assert!(log.stdout.starts_with("starting manifest.jsonPipeline tree: "), "{}", log.stdout);
    assert_eq!(log.stderr, "");
    assert_eq!(names(&world.path("output/tree")), ["a"]);
    // Without a limit nothing is kept.
    assert_eq!(names(&world.path("cache/objects")), [""; 0]);
    let quiet = [&["--quiet", "--checkpoint", "*", "--cache-max-size", "unlimited"], &build[..]].concat();
    assert_shown!(world, world.osbuild(&quiet), @r#"exit code 0"#);
    assert_eq!(names(&world.path("cache/objects")).len(), 1);
    world.assert_nothing_left();
    world.assert_sound();
}

#[test]
fn root_without_exports_everything_is_fetched_and_nothing_built() {
    let world = World::new();
    world.server.serve("/file", Reply::ok("content"));
    let mut manifest = good("a");
    add_url(&mut manifest, &checksum(b"content"), &world.server.url("/file"));
    world.manifest(&manifest);
    let result = world.osbuild(&["--json", "--cache", "cache", "manifest.json"]).succeeded().json();
    assert_eq!(result["log"], json!({}));
    assert_eq!(names(&world.path("cache/sources/org.osbuild.files")), [checksum(b"content")]);
    assert_eq!(names(&world.path("cache/objects")), [""; 0]);
}

/// The paths of all members of a JSON value.
fn members(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = format!("{path}.{key}");
                into.insert(path.clone());
                members(value, &path, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| members(item, &format!("{path}[]"), into)),
        _ => {}
    }
}

fn all_members(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    members(value, "", &mut found);
    found
}

/// A manifest of format 1 that makes a directory with each stage.
fn format1(directories: &[&str]) -> Value {
    let stage = |path| json!({"name": "org.osbuild.mkdir", "options": {"paths": [{"path": path}]}});
    json!({"pipeline": {"stages": directories.iter().map(stage).collect::<Vec<_>>()}})
}

/// What Kiln's results have beside the reference's members.
///
/// In the reference only runners report exceptions; Kiln's stages do too.
const OWN: [&str; 6] = [
    ".durations",
    ".duration",
    ".exports",
    ".error.details.stage.error.",
    ".log.tree[].error",
    ".stages[].error.",
];

#[test]
fn root_results_have_the_members_of_the_references() {
    let world = World::new();
    world.server.serve("/file", Reply::ok("content"));
    let downloading = download(&checksum(b"content"), &world.server.url("/file"));
    let failing = manifest(&[pipeline("tree", &[mkdir(&["/a"]), mkdir(&["/a"])])]);
    let gone = download(&checksum(b"gone"), &world.server.url("/gone"));
    let invalid =
        manifest(&[pipeline("tree", &[json!({"type": "org.osbuild.mkdir", "options": {"paths": 1}})])]);
    for (name, manifest, code) in [
        ("success", good("a"), 0),
        ("download", downloading, 0),
        ("failure", failing, 1),
        ("format 1", format1(&["/a", "/b"]), 0),
        ("failure in format 1", format1(&["/a", "/a"]), 1),
        ("gone", gone, 1),
        ("invalid", invalid, 2),
    ] {
        world.manifest(&manifest);
        let run = |cache: &str, output: &str| {
            ["--json", "--cache", cache, "--export", "tree", "--output-directory", output, "manifest.json"]
                .map(str::to_owned)
        };
        let (ours, theirs) = (run("cache", "ours"), run("reference", "theirs"));
        let ours = world.osbuild(&ours.each_ref().map(String::as_str));
        assert_eq!(ours.code(), Some(code), "{name}: {}", ours.shown());
        let Some(theirs) = world.reference(&theirs.each_ref().map(String::as_str)) else { return };
        assert_eq!(theirs.code(), Some(code), "{name}: {}", theirs.shown());
        let (ours, theirs) = (ours.json(), theirs.json());
        let mut own = all_members(&ours);
        own.retain(|path| !OWN.iter().any(|prefix| path.starts_with(prefix)));
        assert_eq!(own, all_members(&theirs), "{name}:\n{ours:#}\n{theirs:#}");
        assert_eq!(ours["success"], theirs["success"], "{name}");
        assert_eq!(ours["error"]["type"], theirs["error"]["type"], "{name}");
    }
}

/// A manifest of stages, devices and mounts that both programs have.
fn common() -> Value {
    let mut result = manifest(&[]);
    let content = add_inline(&mut result, b"some content\n");
    result["pipelines"] = json!([
        {"name": "tree", "source-epoch": 1_700_000_000, "stages": [
            mkdir(&["/etc", "/srv", "/srv/deep", "/srv/deep/deeper"]),
            copy_files(&[(&content, "/srv/file"), (&content, "/srv/program")]),
            {"type": "org.osbuild.chmod", "options": {"items": {"/srv/program": {"mode": "4755"}, "/srv/deep": {"mode": "0700", "recursive": true}}}},
            {"type": "org.osbuild.ln", "options": {"paths": [
                {"link_name": "tree:///srv/link", "target": "deep/deeper", "symbolic": true},
            ]}},
            {"type": "org.osbuild.hostname", "options": {"hostname": "kiln"}},
            {"type": "org.osbuild.locale", "options": {"language": "C.UTF-8"}},
            {"type": "org.osbuild.fstab", "options": {"filesystems": [
                {"uuid": "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a11", "vfs_type": "ext4", "path": "/", "freq": 1, "passno": 1},
            ]}},
            noop(),
        ]},
        {"name": "plain", "source-epoch": 1_700_000_000, "stages": [mkdir(&["/srv", "/srv/deep"]), noop()]},
        {"name": "archive", "source-epoch": 1_700_000_000, "stages": [{
            "type": "org.osbuild.tar",
            "inputs": {"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:plain"]}},
            "options": {"filename": "tree.tar"},
        }]},
        {"name": "image", "source-epoch": 1_700_000_000, "stages": [truncate("32M"), mkfs(), copy_tree_to_disk("tree")]},
    ]);
    result
}

#[test]
fn root_ids_and_trees_equal_the_references() {
    let world = World::new();
    world.manifest(&common());
    let exports = ["--export", "tree", "--export", "archive", "--export", "image"];
    let ours =
        [&["--cache", "cache", "--output-directory", "ours", "--json"], &exports[..], &["manifest.json"]]
            .concat();
    let ours = world.osbuild(&ours).succeeded();
    assert_eq!(names(&world.path("ours")), ["archive", "image", "tree"]);
    let theirs = [
        &["--cache", "reference", "--output-directory", "theirs", "--json"],
        &exports[..],
        &["manifest.json"],
    ]
    .concat();
    let Some(theirs) = world.reference(&theirs) else { return };
    let (ours, theirs) = (ours.json(), theirs.succeeded().json());
    for pipeline in ["tree", "archive", "image"] {
        let ids = |result: &Value| -> Vec<Value> {
            result["log"][pipeline]
                .as_array()
                .expect("stages")
                .iter()
                .map(|stage| stage["id"].clone())
                .collect()
        };
        assert_eq!(ids(&ours), ids(&theirs), "{pipeline}");
    }
    // Archives have the times of the build in them; they are compared by what is in them too.
    let script = "for side in ours theirs; do mkdir $side/content && tar -xpf $side/archive/tree.tar -C $side/content \
                  || exit 9; done; exec \"$0\" tree diff ours/content theirs/content";
    let diff = finish(world.program("sh", &["-c", script, KILN]).spawn().expect("started"));
    assert_eq!(diff.shown(), "exit code 0\n", "archive");
    let diff = world.run(&["tree", "diff", "ours/tree", "theirs/tree"]);
    assert_only_times_of_content_differ(&diff);
    // A file system is never the same twice in the reference; it is compared by what is in it.
    let script = "mkdir o t && mount -o loop,ro ours/image/disk.img o && mount -o loop,ro theirs/image/disk.img t && \
                  \"$0\" tree diff o t; code=$?; umount o t; exit $code";
    let diff = world.program("unshare", &["-m", "--", "sh", "-c", script, KILN]).spawn().expect("started");
    assert_only_times_of_content_differ(&finish(diff));
    world.assert_nothing_left();
}

/// Kiln gives content of sources a fixed time, so that it does not matter when it was fetched; in the reference it
/// has the time of the download, if that was before the build, or the source epoch.
#[track_caller]
fn assert_only_times_of_content_differ(diff: &Finished) {
    let differing = diff.stdout.lines().filter_map(|line| line.split_once(": mtime "));
    // mkfs.ext4 makes `lost+found` and gives it the time of the build.
    let mut paths: Vec<&str> = differing.map(|(path, _)| path).collect();
    assert_eq!(diff.stdout.lines().count(), paths.len(), "{}", diff.shown());
    paths.retain(|path| *path != "lost+found");
    assert_eq!(paths, ["srv/file", "srv/program"], "{}", diff.shown());
}
