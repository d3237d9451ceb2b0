//! Interruption: in order by SIGINT and SIGTERM, by force with SIGKILL. Nothing is left, and the next build works.

use std::os::unix::process::CommandExt as _;
use std::process::Child;
use std::time::Instant;

use kiln_testkit::http::Reply;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;

use crate::manifests::{
    add_inline, checksum, copy_files, disk, download, good, manifest, mkdir, pipeline, scripted,
};
use crate::world::{World, assert_shown, finish, kill_after, names, wait_for};

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it runs");
}

#[test]
fn root_in_a_download() {
    let world = World::new();
    let content = vec![7; 100_000];
    world.server.serve("/file", Reply::ok(content.clone()).stall_at(70_000));
    let manifest = download(&checksum(&content), &world.server.url("/file"));
    let run = world.build_command(&manifest, &["--export", "tree"]).spawn().expect("started");
    world.server.wait_until_stalled(1);
    signal(&run, Signal::INT);
    assert_shown!(world, finish(run), @r#"
    exit code 130
    --- stderr
    fetch org.osbuild.curl: 1 item for `tree`
    fetch: sha256:[ID]: interrupted
    fetch org.osbuild.curl: 1 item failed
    error: interrupted
    "#);
    assert_eq!(names(&world.path("output")), [""; 0]);
    world.server.serve("/file", Reply::ok(content));
    world.assert_recovers(&manifest, "tree");
}

#[test]
fn root_in_a_stage() {
    // A terminal sends SIGINT to the whole process group.
    for (by, group) in [(Signal::INT, false), (Signal::TERM, false), (Signal::INT, true)] {
        let world = World::new();
        let slow = scripted("(sleep 1001 &); trap '' TERM INT; sleep 1000");
        let run =
            world.build_command(&slow, &["--export", "tree"]).process_group(0).spawn().expect("started");
        world.wait_for_process("sleep 1000");
        if group {
            kill_process_group(Pid::from_child(&run), by).expect("it runs");
        } else {
            signal(&run, by);
        }
        insta::allow_duplicates! {
            assert_shown!(world, finish(run), @r#"
            exit code 130
            --- stderr
            fetch org.osbuild.inline: 1 item for `build`
            fetch org.osbuild.inline: done, 58 B in [TIME]
            fetch org.osbuild.curl: 4 items for `build`
            fetch org.osbuild.curl: done, 2.3 MB in [TIME]
            build: 4 stages ([ID])
            build: [1] org.osbuild.mkdir
            build: [2] org.osbuild.copy
            build: [3] org.osbuild.ln
            build: [4] org.osbuild.chmod
            build: done in [TIME]
            tree: 1 stage ([ID])
            tree: [1] org.osbuild.hostname
            error: interrupted
            "#);
        }
        assert_eq!(names(&world.path("output")), [""; 0]);
        world.assert_recovers(&good("a"), "tree");
    }
}

/// So many directories take long enough to be copied to be interrupted in between.
#[test]
fn root_in_an_export() {
    let world = World::new();
    let paths: Vec<String> = (0..10_000).map(|number| format!("/directory-{number}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let large = manifest(&[pipeline("tree", &[mkdir(&paths)])]);
    let run = world.build_command(&large, &["--export", "tree"]).spawn().expect("started");
    // Under a name of its own until it is whole.
    wait_for(|| names(&world.path("output")).first().cloned()).expect("an export");
    signal(&run, Signal::INT);
    assert_shown!(world, finish(run), @r#"
    exit code 130
    --- stderr
    tree: 1 stage ([ID])
    tree: [1] org.osbuild.mkdir
    tree: done in [TIME]
    error: interrupted
    "#);
    assert_eq!(names(&world.path("output")), [""; 0]);
    world.assert_recovers(&large, "tree");
    assert_eq!(names(&world.path("recovered/tree")).len(), paths.len());
}

/// Under the name `osbuild` and beside its monitors, in each phase, by each signal, to the program alone or to its
/// whole group, as a terminal does.
#[test]
fn root_as_osbuild() {
    let content = vec![7; 100_000];
    let paths: Vec<String> = (0..10_000).map(|number| format!("/directory-{number}")).collect();
    let large =
        manifest(&[pipeline("tree", &[mkdir(&paths.iter().map(String::as_str).collect::<Vec<_>>())])]);
    // So many items take a moment to be handed to the stage.
    let mut many = manifest(&[]);
    let items: Vec<String> =
        (0..1_000).map(|number| add_inline(&mut many, format!("{number}").as_bytes())).collect();
    let references: Vec<(&str, &str)> = items.iter().map(|item| (item.as_str(), "/")).collect();
    many["pipelines"] = json!([pipeline("tree", &[copy_files(&references)])]);
    // The phase, the signal, whether the whole group gets it, and whether the caller wants records.
    for (phase, by, group, as_json) in [
        ("download", Signal::INT, false, true),
        ("stage", Signal::TERM, false, false),
        ("stage", Signal::INT, true, true),
        ("input", Signal::INT, true, false),
        ("export", Signal::TERM, false, false),
    ] {
        let world = World::new();
        world.server.serve("/file", Reply::ok(content.clone()).stall_at(70_000));
        let manifest = match phase {
            "download" => download(&checksum(&content), &world.server.url("/file")),
            "stage" => scripted("(sleep 1001 &); trap '' TERM INT; sleep 1000"),
            "input" => many.clone(),
            _ => large.clone(),
        };
        world.manifest(&manifest);
        let mut command = world.program(world.osbuild_program(), &["--export", "tree", "--cache"]);
        command.arg(world.cache()).args(["--output-directory", "output", "manifest.json"]);
        // Nobody reads the log of the large ones before their end.
        command.args(match (as_json, phase) {
            (true, "download" | "stage") => {
                &["--json", "--monitor", "JSONSeqMonitor", "--monitor-fd", "2"][..]
            }
            (false, "download" | "stage") => &[],
            // What is kept has to be copied.
            _ => &["--quiet", "--checkpoint", "tree", "--cache-max-size", "unlimited"],
        });
        let run = command.process_group(0).spawn().expect("started");
        match phase {
            "download" => world.server.wait_until_stalled(1),
            "stage" => drop(world.wait_for_process("sleep 1000")),
            "input" => {
                let temporary = world.cache().join("tmp");
                let mapping = |name: &String| temporary.join(name).join("inputs/files").exists();
                wait_for(|| names(&temporary).into_iter().find(mapping)).expect("an input");
            }
            _ => drop(wait_for(|| names(&world.path("output")).first().cloned()).expect("an export")),
        }
        if group {
            kill_process_group(Pid::from_child(&run), by).expect("it runs");
        } else {
            signal(&run, by);
        }
        let finished = finish(run);
        assert_eq!(finished.code(), Some(130), "{phase} {by:?}: {}", finished.shown());
        assert!(finished.stdout.ends_with("\nAborted\n"), "{phase} {by:?}: {}", finished.shown());
        assert_eq!(names(&world.path("output")), [""; 0], "{phase} {by:?}");
        world.assert_recovers(&good("a"), "tree");
    }
}

/// A second signal does not wait for anything.
#[test]
fn root_twice() {
    let world = World::new();
    let content = vec![7; 100_000];
    world.server.serve("/file", Reply::ok(content.clone()).stall_at(70_000));
    let manifest = download(&checksum(&content), &world.server.url("/file"));
    let run = world.build_command(&manifest, &["--export", "tree"]).spawn().expect("started");
    world.server.wait_until_stalled(1);
    signal(&run, Signal::INT);
    // It may have ended already.
    let _ = kill_process(Pid::from_child(&run), Signal::INT);
    assert_eq!(finish(run).code(), Some(130));
    world.server.serve("/file", Reply::ok(content));
    world.assert_nothing_left();
    world.build(&manifest, &["--export", "tree"]).succeeded();
    world.assert_sound();
}

/// SIGKILL at moments spread over a build with loop devices and mounts: nothing stays on the host, and the next
/// run reclaims what stayed in the cache. `KILN_TEST_KILLS` says how many.
#[test]
fn root_killed_at_any_moment_of_a_build_with_loop_devices_and_mounts() {
    let kills: u32 = std::env::var("KILN_TEST_KILLS").map_or(30, |number| number.parse().expect("a number"));
    let world = World::new();
    let start = Instant::now();
    world.build(&disk("first", "32M"), &["--export", "image"]).succeeded();
    let whole = start.elapsed();
    for kill in 0..kills {
        let manifest = disk(&format!("number-{kill}"), "32M");
        let run = world.build_command(&manifest, &["--export", "image"]).spawn().expect("started");
        kill_after(run, whole * kill / kills);
        world.assert_nothing_left();
        let next = world.build(&manifest, &["--export", "image", "--progress", "none"]);
        assert_eq!(next.code(), Some(0), "after kill {kill} at {:?}: {}", whole * kill / kills, next.shown());
        world.assert_nothing_left();
        world.assert_sound();
    }
}

/// The same in a stage that would run for ever and whose processes ignore signals.
#[test]
fn root_killed_in_a_stage() {
    let world = World::new();
    let slow = scripted("(sleep 1001 &); trap '' TERM INT HUP; sleep 1000");
    let mut run = world.build_command(&slow, &["--export", "tree"]).spawn().expect("started");
    world.wait_for_process("sleep 1000");
    run.kill().expect("killed");
    finish(run);
    world.assert_nothing_left();
    world.build(&good("a"), &["--export", "tree"]).succeeded();
    world.assert_sound();
    // Where device nodes were, the host has nothing but the empty directory.
    assert_eq!(names(std::path::Path::new("/run/osbuild/dev")), [""; 0]);
}
