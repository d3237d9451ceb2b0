//! Tests with the real `tar`.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::{Value, json};

use super::*;
use crate::schema_agreement::{Agreement, reference};
use crate::stage_fixture::Fixture;

#[test]
fn schema_agrees() {
    Agreement::stage::<Tar>()
        .accepts([
            json!({"filename": "a.tar"}),
            json!({"filename": "a", "root-node": "omit", "format": "v7", "compression": "xz"}),
            json!({"filename": "", "paths": ["a"], "format": "oldgnu", "compression": "auto"}),
            json!({
                "filename": "a", "acls": false, "selinux": false, "xattrs": false, "sparse": true,
                "transform": "s/a/b/", "numeric-owner": true, "format": "posix", "compression": "zstd",
            }),
        ])
        .refuses([
            json!({}),
            json!({"filename": "a", "paths": [], "root-node": "omit"}),
            json!({"filename": "a", "root-node": "skip"}),
            json!({"filename": "a", "compression": "bzip2"}),
            json!({"filename": "a", "format": "pax"}),
            json!({"filename": "a", "numeric_owner": true}),
        ]);
    Agreement::stage::<Tar>().member("inputs").accepts([json!({"tree": {"type": "x"}})]).refuses([
        json!({}),
        json!({"tree": {}, "other": {}}),
        json!({"file": {}}),
    ]);
}

fn prepare(fixture: &mut Fixture) {
    let input = fixture.input("tree", &[("b/file", "content"), ("a", "one"), ("c/deep/er", "two")]);
    symlink("a", input.join("link")).expect("a link");
    fs::hard_link(input.join("a"), input.join("b/same")).expect("a hard link");
    rustix::fs::setxattr(input.join("a"), "user.kiln", b"value", rustix::fs::XattrFlags::empty())
        .expect("xattr");
    fs::File::create(input.join("hole")).and_then(|file| file.set_len(1 << 20)).expect("a file with a hole");
    for path in ["b/file", "a", "c/deep/er", "hole", "c/deep", "c", "b", "."] {
        let file = fs::File::open(input.join(path)).expect(path);
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000)).expect("a time");
    }
}

fn pack(options: &Value) -> (Fixture, Vec<u8>) {
    let mut fixture = Fixture::new();
    prepare(&mut fixture);
    fixture.run::<Tar>(options.clone()).expect("packed");
    let name = options["filename"].as_str().expect("a name").trim_start_matches('/');
    let archive = fs::read(fixture.tree().join(name)).expect("it is there");
    (fixture, archive)
}

/// What `tar` lists, sorted: the reference packs in the order of the directory.
fn list(fixture: &Fixture, name: &str) -> Vec<String> {
    let archive = fixture.tree().join(name);
    let output = Command::new("tar").args(["--xattrs", "-tvvf"]).arg(archive).output().expect("tar runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    // Which of two names is the link depends on the order, and the link's own time is now.
    let linked = |line: &str| line.ends_with(" a") || line.ends_with("/a") || line.contains("same");
    lines.retain(|line| !line.contains("link") && !linked(line));
    lines.sort();
    lines
}

fn names(fixture: &Fixture, name: &str) -> Vec<String> {
    let archive = fixture.tree().join(name);
    let output = Command::new("tar").arg("-tf").arg(archive).output().expect("tar runs");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn entries_are_sorted_and_as_asked_for() {
    let (fixture, archive) = pack(&json!({"filename": "/out.tar"}));
    let expected =
        ["./", "./a", "./b/", "./b/file", "./b/same", "./c/", "./c/deep/", "./c/deep/er", "./hole", "./link"];
    assert_eq!(names(&fixture, "out.tar"), expected);
    assert!(archive.len() > 1 << 20, "the hole is not kept");

    let (fixture, archive) = pack(&json!({"filename": "out.tar", "root-node": "omit", "sparse": true}));
    assert_eq!(
        names(&fixture, "out.tar"),
        ["a", "b/", "b/file", "b/same", "c/", "c/deep/", "c/deep/er", "hole", "link"]
    );
    assert!(archive.len() < 1 << 17, "the hole is kept");

    let (fixture, _) = pack(&json!({"filename": "out.tar", "paths": ["c", "a"], "transform": "s,^c,d,"}));
    assert_eq!(names(&fixture, "out.tar"), ["d/", "d/deep/", "d/deep/er", "a"]);
}

#[test]
fn compression_goes_by_option_or_suffix() {
    for (filename, compression, magic) in [
        ("out.tar.gz", "auto", &[0x1f, 0x8b][..]),
        ("out.tar.xz", "auto", b"\xfd7zXZ"),
        ("out.tar.zst", "auto", &[0x28, 0xb5, 0x2f, 0xfd]),
        ("out.tar", "gzip", &[0x1f, 0x8b]),
        ("out", "xz", b"\xfd7zXZ"),
        ("out.xz", "zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
    ] {
        let (_, archive) = pack(&json!({"filename": filename, "compression": compression}));
        assert!(archive.starts_with(magic), "{filename} {compression}");
    }
}

#[test]
fn equal_trees_give_equal_archives() {
    for format in ["gnu", "oldgnu", "posix", "ustar", "v7"] {
        for attributes in [false, true] {
            let options = json!({
                "filename": "out.tar", "format": format,
                // A link cannot be given a time with what std has.
                "paths": ["a", "b", "c", "hole"],
                "acls": attributes, "selinux": attributes, "xattrs": attributes,
            });
            let (one, other) = (pack(&options).1, pack(&options).1);
            assert!(one == other, "{format}, attributes {attributes}");
        }
    }
}

#[test]
fn archives_equal_the_reference_but_for_the_order() {
    for options in [
        json!({"filename": "out.tar"}),
        json!({"filename": "out.tar.gz", "root-node": "omit"}),
        json!({"filename": "out.tar", "format": "posix", "xattrs": false, "acls": false, "selinux": false}),
        json!({"filename": "out.tar", "format": "posix"}),
        json!({"filename": "out.tar", "format": "ustar"}),
        json!({"filename": "out.tar", "paths": ["c", "a"], "transform": "s,^c,d,", "numeric-owner": true}),
        json!({"filename": "out.tar", "paths": ["missing"]}),
        json!({"filename": "missing/out.tar"}),
    ] {
        if reference("tar").is_none() {
            return;
        }
        let mut other = Fixture::new();
        prepare(&mut other);
        let (succeeded, said) = other.run_reference(Tar::NAME, options.clone()).expect("a reference");
        let mut one = Fixture::new();
        prepare(&mut one);
        let result = one.run::<Tar>(options.clone());
        assert_eq!(result.is_ok(), succeeded, "{options}: {result:?}, {said}");
        if succeeded {
            let name = options["filename"].as_str().expect("a name");
            assert_eq!(list(&one, name), list(&other, name), "{options}");
        }
    }
}
