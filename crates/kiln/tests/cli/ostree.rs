//! Commits of OSTree repositories, from a server to a tree; and what is left of pulls that are killed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kiln_testkit::host::{Need, provided};
use kiln_testkit::http::Reply;
use serde_json::{Value, json};

use crate::manifests::{manifest, pipeline};
use crate::world::{World, finish, kill_after, names};

const OSTREE: Need = Need { program: "ostree", package: "ostree" };

/// So many files make a pull last long enough to be killed in it.
const FILES: usize = 300;

fn ostree(repository: &Path, arguments: &[&str]) -> Result<String, String> {
    let repository = format!("--repo={}", repository.display());
    let output = Command::new("ostree").args(arguments).arg(repository).output().expect("run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Makes a repository with a commit, serves it, and returns the commit.
fn serve(world: &World) -> String {
    let (content, repository) = (world.path("content"), world.path("remote"));
    fs::create_dir_all(content.join("usr")).expect("made");
    for number in 0..FILES {
        fs::write(content.join(format!("usr/{number}")), format!("{number}")).expect("written");
    }
    ostree(&repository, &["init", "--mode=archive"]).expect("made");
    let content = content.to_str().expect("UTF-8");
    let arguments = ["commit", "--branch=b", "--owner-uid=0", "--owner-gid=0", "--fsync=false", content];
    let commit = ostree(&repository, &arguments).expect("committed");
    let mut waiting = vec![repository.clone()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(names(&path).into_iter().map(|name| path.join(name)));
        } else {
            let name = path.strip_prefix(&repository).expect("below").display().to_string();
            world.server.serve(&format!("/{name}"), Reply::ok(fs::read(&path).expect("read")));
        }
    }
    commit
}

/// A tree that has the files of a commit, and a stage that is handed a repository with it.
fn with_commit(world: &World, commit: &str) -> Value {
    let input = |kind: &str, references: Value| json!({"type": kind, "origin": "org.osbuild.source", "references": references});
    let from = format!("input://commits/{commit}/");
    let copy = json!({
        "type": "org.osbuild.copy",
        "inputs": {
            "commits": input("org.osbuild.ostree.checkout", json!([commit])),
            "repository": input("org.osbuild.ostree", json!({commit: {"ref": "os/stable"}})),
        },
        "options": {"paths": [
            {"from": from, "to": "tree:///"},
            {"from": "input://repository/refs/heads/os", "to": "tree:///os"},
        ]},
    });
    let mut manifest = manifest(&[pipeline("tree", &[copy])]);
    let url = world.server.url("");
    manifest["sources"]["org.osbuild.ostree"] =
        json!({"items": {commit: {"remote": {"url": url.trim_end_matches('/')}}}});
    manifest
}

#[test]
fn root_a_commit_becomes_a_tree() {
    if !provided("root_a_commit_becomes_a_tree", &[OSTREE]) {
        return;
    }
    let world = World::new();
    let commit = serve(&world);
    let manifest = with_commit(&world, &commit);
    let arguments = ["--export", "tree", "--output-directory", "output"];
    world.build(&manifest, &arguments).succeeded();
    let tree = world.path("output/tree");
    assert_eq!(names(&tree.join("usr")).len(), FILES);
    assert_eq!(fs::read_to_string(tree.join("usr/7")).expect("read"), "7");
    let named = fs::read_to_string(tree.join("os/stable")).expect("read");
    assert_eq!(named.trim(), commit);

    // From the cache, without the server, and without the tool.
    let asked = world.server.requests().len();
    fs::remove_dir_all(world.cache().join("objects")).expect("removed");
    fs::create_dir(world.cache().join("objects")).expect("made");
    fs::remove_file(world.cache().join("cache.size")).expect("removed");
    let mut again = world.build_command(&manifest, &arguments);
    fs::create_dir(world.path("bin")).expect("made");
    finish(again.env("PATH", world.path("bin")).spawn().expect("started")).succeeded();
    assert_eq!(world.server.requests().len(), asked);
    world.assert_nothing_left();
}

#[test]
fn root_a_pull_that_is_killed_leaves_a_sound_repository() {
    /// At so many moments of a build.
    const MOMENTS: u32 = 10;
    if !provided("root_a_pull_that_is_killed_leaves_a_sound_repository", &[OSTREE]) {
        return;
    }
    let world = World::new();
    let commit = serve(&world);
    let manifest = with_commit(&world, &commit);
    let arguments = ["--export", "tree", "--output-directory", "output"];
    let start = Instant::now();
    world.build(&manifest, &arguments).succeeded();
    let whole = start.elapsed();

    for moment in 0..MOMENTS {
        if world.cache().exists() {
            fs::remove_dir_all(world.cache()).expect("removed");
        }
        let run = world.build_command(&manifest, &arguments).spawn().expect("started");
        kill_after(run, whole * moment / MOMENTS + Duration::from_millis(5));
        world.assert_nothing_left();
        assert_repository_is_sound(&world, &commit);
    }
    world.build(&manifest, &arguments).succeeded();
    assert_eq!(names(&world.cache().join("sources/org.osbuild.ostree")), ["repo"]);
    assert_repository_is_sound(&world, &commit);
}

/// If there is a repository, all in it is whole, it knows no remote, and has the commit wholly or not at all.
fn assert_repository_is_sound(world: &World, commit: &str) {
    let repository = world.cache().join("sources/org.osbuild.ostree/repo");
    if !repository.join("config").exists() {
        return;
    }
    assert_eq!(ostree(&repository, &["remote", "list"]).expect("readable"), "");
    ostree(&repository, &["fsck"]).expect("sound");
    let (folder, rest) = commit.split_at(2);
    if repository.join(format!("objects/{folder}/{rest}.commit")).exists() {
        let listed = ostree(&repository, &["ls", "-R", "-C", commit]).expect("whole");
        assert!(listed.lines().count() > FILES, "{listed}");
    }
}
