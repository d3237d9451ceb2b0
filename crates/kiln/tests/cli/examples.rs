//! `examples/modules`: a library directory with a stage in shell, an input in Python and a stage that is one static
//! executable, as `docs/modules.md` describes them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use kiln_testkit::host::{self, Need};
use serde_json::{Value, json};

use crate::manifests::{mkdir, pipeline};
use crate::world::{Finished, World, assert_shown, finish};

/// What the modules use of the host's tools.
const NEEDS: &[Need] = &[host::JQ, host::PYTHON];

/// Makes one static executable of one Rust source.
pub(crate) fn compile(source: &Path, target: &Path) {
    fs::create_dir_all(target.parent().expect("a parent")).expect("made");
    // The compiler that has made this test.
    let mut command = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"));
    command.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "panic=abort"]);
    command.args(["-C", "strip=symbols", "-o"]).arg(target).arg(source);
    let output = command.output().expect("rustc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Copies a directory with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    let status = Command::new("cp").arg("-RT").arg(from).arg(to).status().expect("cp");
    assert!(status.success(), "{} is not copied", from.display());
}

/// Copies the reference's own library into a directory, so that other modules can be put beside its own.
pub(crate) fn copy_reference(checkout: &Path, to: &Path) {
    let own =
        ["osbuild", "schemas", "runners", "stages", "assemblers", "sources", "inputs", "devices", "mounts"];
    for name in own {
        copy(&checkout.join(name), &to.join(name));
    }
}

/// The examples with the executable that is made of a source, in a world's `modules`.
fn modules(world: &World) -> PathBuf {
    let modules = world.path("modules");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/modules"), &modules);
    compile(&modules.join("src/inventory.rs"), &modules.join("stages/org.example.inventory"));
    modules
}

fn example(modules: &Path) -> Value {
    serde_json::from_slice(&fs::read(modules.join("manifest.json")).expect("read")).expect("JSON")
}

fn build(world: &World, manifest: &Value) -> Finished {
    world.build(
        manifest,
        &["--libdir", "modules", "--progress", "none", "--export", "tree", "--output-directory", "out"],
    )
}

#[test]
fn the_example_modules_describe_themselves() {
    let world = World::new();
    let modules = modules(&world);
    assert_shown!(world, world.run(&["validate", "modules/manifest.json", "--libdir", "modules"]), @r#"
    exit code 0
    --- stdout
    `modules/manifest.json` is valid
    "#);
    let mut manifest = example(&modules);
    manifest["pipelines"][0]["stages"][0]["options"] = json!({"path": "etc/motd"});
    manifest["pipelines"][0]["stages"][0]["inputs"]["text"]["options"]["values"]["host"] = json!(1);
    manifest["pipelines"][0]["stages"][1]["options"] = json!({"deep": true});
    world.manifest(&manifest);
    let run = world.run(&["validate", "manifest.json", "--libdir", "modules"]);
    let places = ["inputs.text.options.values.host", "[0].options.path", "[1].options"];
    assert_eq!(run.code(), Some(2));
    for place in places {
        assert!(run.stderr.contains(place), "{place} is not in\n{}", run.stderr);
    }
    assert_shown!(world, world.run(&["modules", "show", "org.example.install", "--libdir", "modules"]), @r#"
    exit code 0
    --- stdout
    org.example.install (stage, [DIR]/modules/stages/org.example.install)

      Install a text as a file

      Writes the text of the input `text` to a file of the tree. Directories on
      the way to it are made where they are missing.

      Build root commands used: `install`, `jq`, `stat`

    Options:
      path (string, required)
          Where in the tree the file will be
      mode (string, default "0644")
          Its permissions, octal

    Inputs:
      text (object, required)
    "#);
}

/// As after a checkout, when nothing has been compiled.
#[test]
fn a_described_module_without_a_program_is_told_before_anything_is_built() {
    let world = World::new();
    let modules = modules(&world);
    fs::remove_file(modules.join("stages/org.example.inventory")).expect("removed");
    assert_shown!(world, build(&world, &example(&modules)), @r#"
    exit code 2
    --- stderr
    error: the stage `org.example.inventory` cannot be used: the library describes it, but has no program of its name
      --> manifest.json:30:19 (.pipelines[0].stages[1].type)
                "type": "org.example.inventory"
                        ^^^^^^^^^^^^^^^^^^^^^^^
    "#);
}

#[test]
fn root_the_example_modules_build_the_same_with_both_programs() {
    if !host::provided("the example modules", NEEDS) {
        return;
    }
    let world = World::new();
    let modules = modules(&world);
    let arguments = ["--export", "tree", "--json", "modules/manifest.json"];
    let own = ["--libdir", "modules", "--cache", "cache", "--output-directory", "out"];
    let result = world.osbuild(&[&own[..], &arguments].concat()).succeeded().json();
    let outputs: Vec<_> =
        result["log"]["tree"].as_array().expect("stages").iter().map(|stage| &stage["output"]).collect();
    assert_eq!(outputs, ["installed /etc/motd\n", "listed 1 files\n"]);
    assert_eq!(
        result["metadata"]["tree"],
        json!({
            "org.example.install": {"path": "/etc/motd", "bytes": 72},
            "org.example.inventory": {"files": 1, "bytes": 72},
        })
    );
    let read = |name: &str| fs::read_to_string(world.path("out/tree").join(name)).expect(name);
    assert_eq!(
        read("etc/motd"),
        "Welcome to example.\nIt was made by three small modules, and costs no $.\n"
    );
    assert_eq!(read("usr/share/inventory"), "72 /etc/motd\n");
    assert_eq!(fs::metadata(world.path("out/tree/etc/motd")).expect("made").permissions().mode(), 0o100_644);
    world.assert_nothing_left();

    let Some((mut command, checkout)) = world.with_reference("python3", &["-m", "osbuild"]) else { return };
    copy_reference(&checkout, &modules);
    let theirs = ["--libdir", "modules", "--cache", "their-cache", "--output-directory", "their-out"];
    command.args(theirs).args(arguments);
    let their_result = finish(command.spawn().expect("started")).succeeded().json();
    assert_eq!(their_result["metadata"], result["metadata"]);
    let never = AtomicBool::new(false);
    let differences =
        kiln_store::tree::compare(&world.path("out/tree"), &world.path("their-out/tree"), &never)
            .expect("compared");
    assert_eq!(differences, []);

    let reference = checkout.to_str().expect("text");
    let arguments =
        ["--reference", reference, "--libdir", "modules", "modules/manifest.json", "--export", "tree"];
    let shadow = world.run(&[&["shadow"], &arguments[..]].concat()).succeeded();
    assert!(shadow.stdout.starts_with("equal: "), "{}", shadow.shown());
    world.assert_nothing_left();
}

#[test]
fn root_a_failure_of_an_example_module_is_told() {
    if !host::provided("the example modules", NEEDS) {
        return;
    }
    let world = World::new();
    let mut manifest = example(&modules(&world));
    manifest["pipelines"][0]["stages"][0]["inputs"]["text"]["options"]["values"] = json!({"host": "a"});
    assert_shown!(world, build(&world, &manifest), @r#"
    exit code 1
    --- stderr
    error: the stage `org.example.install` of the pipeline `tree` failed: cannot map input `text` (`org.example.fill`): ValueError: the text has a blank for 'maker', and `values` has nothing for it
      cannot map input `text` (`org.example.fill`): ValueError: the text has a blank for 'maker', and `values` has nothing for it
    hint: the stage's id is [ID]; `--json` prints its whole output
    "#);
    world.assert_nothing_left();
}

/// The build root has nothing at all: no shell, no library, no interpreter.
#[test]
fn root_a_static_executable_is_all_that_a_build_root_needs() {
    let world = World::new();
    modules(&world);
    let mut tree = pipeline("tree", &[mkdir(&["/etc"]), json!({"type": "org.example.inventory"})]);
    tree["build"] = json!("name:build");
    let mut empty = pipeline("build", &[mkdir(&["/usr"])]);
    empty["runner"] = json!("org.osbuild.linux");
    build(&world, &json!({"version": "2", "pipelines": [empty, tree], "sources": {}})).succeeded();
    assert_eq!(fs::read(world.path("out/tree/usr/share/inventory")).expect("made"), b"");
    world.assert_nothing_left();
}
