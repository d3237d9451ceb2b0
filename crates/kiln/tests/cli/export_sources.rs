//! `kiln cache export-sources`: a cache is filled from another one, and a build there needs no network.

use std::fs;

use kiln_testkit::http::Reply;
use serde_json::{Value, json};

use crate::manifests::{add_inline, add_url, checksum, copy_files, pipeline};
use crate::world::{World, names};

const ONE: &[u8] = b"one";
const TWO: &[u8] = b"two";
const INLINE: &[u8] = b"inline";

/// Two pipelines, each with a file of the server, one of them with a file of the manifest too.
fn manifest(world: &World) -> Value {
    let [one, two] = [checksum(ONE), checksum(TWO)];
    let mut manifest = json!({"version": "2", "pipelines": [], "sources": {}});
    add_url(&mut manifest, &one, &world.server.url("/one"));
    add_url(&mut manifest, &two, &world.server.url("/two"));
    let inline = add_inline(&mut manifest, INLINE);
    manifest["pipelines"] = json!([
        pipeline("first", &[copy_files(&[(&one, "/one"), (&inline, "/inline")])]),
        pipeline("second", &[copy_files(&[(&two, "/two")])]),
    ]);
    manifest
}

fn world() -> (World, Value) {
    let world = World::new();
    world.server.serve("/one", Reply::ok(ONE));
    world.server.serve("/two", Reply::ok(TWO));
    let manifest = manifest(&world);
    world.write("manifest.json", manifest.to_string());
    (world, manifest)
}

fn copied(world: &World) -> Vec<String> {
    names(&world.path("other/sources/org.osbuild.files"))
}

fn sorted(content: &[&[u8]]) -> Vec<String> {
    let mut names: Vec<_> = content.iter().map(|content| checksum(content)).collect();
    names.sort();
    names
}

#[test]
fn root_a_build_elsewhere_needs_no_network() {
    let (world, manifest) = world();
    world.build(&manifest, &["--export", "second", "--prefetch"]).succeeded();
    let export = ["cache", "export-sources", "manifest.json", "other", "--cache", "cache"];
    let finished = world.run(&export).succeeded();
    assert_eq!(finished.stdout.trim(), "3 items copied to other");
    assert_eq!(copied(&world), sorted(&[ONE, TWO, INLINE]));
    let again = world.run(&export).succeeded();
    assert_eq!(again.stdout.trim(), "0 items copied to other, 3 there already");

    let requests = world.server.requests().len();
    let arguments = ["build", "manifest.json", "--cache", "other", "--output-directory", "out"];
    world.run(&[&arguments[..], &["--export", "first", "--export", "second"]].concat()).succeeded();
    assert_eq!(world.server.requests().len(), requests, "everything was there");
}

#[test]
fn root_only_what_an_export_needs() {
    let (world, manifest) = world();
    world.build(&manifest, &["--export", "first", "--export", "second"]).succeeded();
    let finished = world
        .run(&[
            "cache",
            "export-sources",
            "manifest.json",
            "other",
            "--export",
            "first",
            "--json",
            "--cache",
            "cache",
        ])
        .succeeded();
    assert_eq!(finished.json(), json!({"directory": "other", "copied": 2, "present": 0, "failed": []}));
    assert_eq!(copied(&world), sorted(&[ONE, INLINE]));
}

#[test]
fn root_what_is_missing_or_wrong_is_named() {
    let (world, manifest) = world();
    world.build(&manifest, &["--export", "first"]).succeeded();
    let broken = world.cache().join("sources/org.osbuild.files").join(checksum(INLINE));
    fs::write(broken, "broken").expect("written");
    let export = ["cache", "export-sources", "manifest.json", "other", "--cache", "cache"];
    let finished = world.run(&export);
    assert_eq!(finished.code(), Some(1));
    let shown = finished.shown();
    for expected in ["2 items could not be copied", "cannot open", "another checksum", "--prefetch"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert_eq!(copied(&world), sorted(&[ONE]), "nothing wrong got there, and what is right did");

    let json = world.run(&[&export[..], &["--json"]].concat());
    assert_eq!(json.code(), Some(1));
    assert_eq!(json.json()["failed"].as_array().map(Vec::len), Some(2));
}

#[test]
fn root_mistakes_are_explained() {
    let (world, manifest) = world();
    let export = |arguments: &[&str]| {
        let finished = world.run(&[&["cache", "export-sources", "manifest.json"], arguments].concat());
        assert_eq!(finished.code(), Some(2), "{}", finished.shown());
        finished.shown()
    };
    assert!(export(&["other", "--cache", "nowhere"]).contains("there is no cache in `nowhere`"));
    assert!(!world.path("nowhere").exists());
    world.build(&manifest, &["--export", "first"]).succeeded();
    assert!(export(&["cache", "--cache", "cache"]).contains("is the cache itself"));
    let unknown = world.run(&[
        "cache",
        "export-sources",
        "manifest.json",
        "other",
        "--export",
        "frist",
        "--cache",
        "cache",
    ]);
    assert!(unknown.shown().contains("did you mean `first`"), "{}", unknown.shown());
}
