//! Builds of format 1 under the name `osbuild`: nested build pipelines, assemblers, source aliases; the results are
//! those of the reference, where `KILN_REFERENCE` names a checkout of it.

use kiln_testkit::http::Reply;
use serde_json::{Value, json};

use crate::manifests::checksum;
use crate::world::{KILN, World, finish, names};

fn stage(name: &str, options: &Value) -> Value {
    json!({"name": format!("org.osbuild.{name}"), "options": options})
}

fn mkdir(path: &str) -> Value {
    stage("mkdir", &json!({"paths": [{"path": path, "parents": true}]}))
}

/// Without what only Kiln says (durations), what stages say in their own words, and what else runners say.
fn plain(mut result: Value) -> Value {
    fn visit(value: &mut Value) {
        if let Value::Object(members) = value {
            for own in ["duration", "durations", "output", "error", "exports"] {
                members.shift_remove(own);
            }
            members.values_mut().for_each(visit);
        } else if let Value::Array(items) = value {
            items.iter_mut().for_each(visit);
        }
    }
    visit(&mut result);
    result
}

/// A manifest, what is exported, the exit code, and what becomes of it.
fn cases() -> Vec<(&'static str, Value, &'static [&'static str], i32)> {
    let stages =
        [mkdir("/etc"), stage("hostname", &json!({"hostname": "kiln"})), stage("noop", &json!({"a": 1}))];
    // Without stages a build pipeline is the host.
    let nested = json!({
        "pipeline": {"build": {"pipeline": {"stages": []}, "runner": "org.osbuild.linux"}},
        "runner": "org.osbuild.linux",
    });
    let tar = stage("tar", &json!({"filename": "tree.tar"}));
    vec![
        ("stages", json!({"pipeline": {"stages": stages}}), &["tree"], 0),
        ("empty", json!({}), &[], 0),
        ("assembler", json!({"pipeline": {"stages": stages, "assembler": tar}}), &["assembler", "tree"], 0),
        (
            "nested",
            json!({"pipeline": {"build": nested, "stages": stages, "assembler": tar}}),
            &["assembler"],
            0,
        ),
        (
            "noop",
            json!({"pipeline": {"stages": stages, "assembler": {"name": "org.osbuild.noop"}}}),
            &["assembler"],
            0,
        ),
        (
            "failing assembler",
            json!({"pipeline": {"build": nested, "stages": stages, "assembler": {"name": "org.osbuild.error"}}}),
            &["assembler"],
            1,
        ),
        (
            "failing stage",
            json!({"pipeline": {"stages": [mkdir("/a"), stage("error", &json!({"returncode": 4}))], "assembler": tar}}),
            &["assembler"],
            1,
        ),
        (
            "failing stage with a build pipeline",
            json!({"pipeline": {"build": nested, "stages": [stage("error", &json!({}))]}}),
            &["tree"],
            1,
        ),
    ]
}

#[test]
fn root_results_and_trees_are_the_references() {
    for (name, manifest, exports, code) in cases() {
        let world = World::new();
        world.manifest(&manifest);
        let run = |cache: &'static str, output: &'static str| {
            let mut arguments = vec!["--json", "--cache", cache, "--output-directory", output];
            for export in exports {
                arguments.extend(["--export", export]);
            }
            arguments.push("manifest.json");
            arguments
        };
        let ours = world.osbuild(&run("cache", "ours"));
        assert_eq!(ours.code(), Some(code), "{name}: {}", ours.shown());
        assert_eq!(
            names(&world.path("ours")),
            if code == 0 { exports.to_vec() } else { Vec::new() },
            "{name}"
        );
        world.assert_nothing_left();
        let Some(theirs) = world.reference(&run("reference", "theirs")) else { continue };
        assert_eq!(theirs.code(), Some(code), "{name}: {}", theirs.shown());
        assert_eq!(plain(ours.json()), plain(theirs.json()), "{name}: {}\n{}", ours.shown(), theirs.shown());
        if code != 0 {
            continue;
        }
        for export in exports {
            let [ours, theirs] = ["ours", "theirs"].map(|side| world.path(side).join(export));
            assert_eq!(names(&ours), names(&theirs), "{name}");
            let script = "for side in ours theirs; do cd $side/$1 && if [ -e tree.tar ]; then \
                          mkdir content && tar -xpf tree.tar -C content && rm tree.tar; fi; cd ../..; done; \
                          exec \"$0\" tree diff ours/$1 theirs/$1";
            let diff = finish(world.program("sh", &["-c", script, KILN, export]).spawn().expect("started"));
            // Each has the times of its build.
            let differing = diff.stdout.lines().filter(|line| !line.contains(": mtime ")).count();
            assert_eq!((differing, diff.stderr.as_str()), (0, ""), "{name}: {export}: {}", diff.shown());
        }
    }
}

/// A file system in a file, which the assembler mounts inside the build root; and a container image.
#[test]
fn root_artefacts_have_the_content_of_the_references() {
    const UUID: &str = "5e1e9c5c-8b5b-4a53-9d0a-7c7f1f5a3c11";
    let tree = [mkdir("/etc"), stage("hostname", &json!({"hostname": "kiln"})), mkdir("/srv/deep")];
    let rawfs = stage("rawfs", &json!({"filename": "result", "root_fs_uuid": UUID, "size": 32 << 20}));
    let image = stage(
        "oci-archive",
        &json!({"filename": "result", "architecture": "amd64", "config": {"User": "1"}}),
    );
    let mounted = "mount -o loop,ro ours/assembler/result o && mount -o loop,ro theirs/assembler/result t && \
                   \"$0\" tree diff o t; code=$?; umount o t; exit $code";
    // The only blob that is compressed is the tree.
    let unpacked = "for side in ours:o theirs:t; do tar -xf ${side%:*}/assembler/result -C ${side#*:} || exit 9; \
                    cd ${side#*:}; for blob in blobs/sha256/*; do \
                    case $(head -c2 $blob | od -An -tx1) in *1f*8b*) gzip -dc < $blob | tar -x;; esac; done; \
                    rm -r blobs index.json oci-layout; cd ..; done; exec \"$0\" tree diff o t";
    for (name, assembler, script) in [("rawfs", rawfs, mounted), ("oci-archive", image, unpacked)] {
        let world = World::new();
        world.manifest(&json!({"pipeline": {"stages": tree, "assembler": assembler}}));
        let run = |cache: &'static str, output: &'static str| {
            [
                "--json",
                "--cache",
                cache,
                "--export",
                "assembler",
                "--output-directory",
                output,
                "manifest.json",
            ]
        };
        let ours = world.osbuild(&run("cache", "ours"));
        assert_eq!(ours.code(), Some(0), "{name}: {}", ours.shown());
        assert_eq!(names(&world.path("ours/assembler")), ["result"], "{name}");
        world.assert_nothing_left();
        let Some(theirs) = world.reference(&run("reference", "theirs")) else { return };
        assert_eq!(plain(ours.json()), plain(theirs.succeeded().json()), "{name}");
        for directory in ["o", "t"] {
            std::fs::create_dir(world.path(directory)).expect("made");
        }
        let diff =
            world.program("unshare", &["-m", "--", "sh", "-c", script, KILN]).spawn().expect("started");
        let diff = finish(diff);
        let differing: Vec<&str> = diff.stdout.lines().filter(|line| !line.contains(": mtime ")).collect();
        assert_eq!((differing, diff.stderr.as_str()), (Vec::new(), ""), "{name}: {}", diff.shown());
    }
}

/// The results' shape, recorded.
#[test]
fn root_an_assembler_is_in_the_result() {
    let world = World::new();
    let build = json!({"pipeline": {"stages": [mkdir("/usr")]}, "runner": "org.osbuild.linux"});
    let build = json!({"pipeline": {"build": build, "stages": [mkdir("/usr"), mkdir("/etc")]}, "runner": "org.osbuild.linux"});
    world.manifest(&json!({"pipeline": {
        "build": build, "stages": [mkdir("/a")], "assembler": {"name": "org.osbuild.noop", "options": {}},
    }}));
    let run = ["--json", "--cache", "cache", "--output-directory", "output", "--export", "assembler"];
    let result = world.osbuild(&[&run[..], &["manifest.json"]].concat()).succeeded().json();
    let ids = world.osbuild(&["--inspect", "manifest.json"]).succeeded().json();
    let stage = |value: &Value| json!({"id": value["id"], "type": value["type"], "success": value["success"], "error": value["error"]});
    let expected =
        |of: &Value, name: &str| json!({"id": of["id"], "type": name, "success": true, "error": null});
    let described = &ids["pipeline"];
    assert_eq!(stage(&result["assembler"]), expected(&described["assembler"], "org.osbuild.noop"));
    assert_eq!(result["assembler"]["output"], "Not doing anything with these options: {}\n");
    let (mut result, mut described) = (&result, described);
    for depth in [1, 2, 1] {
        let stages = described["stages"].as_array().expect("stages");
        assert_eq!(stages.len(), depth);
        for (index, told) in stages.iter().enumerate() {
            assert_eq!(stage(&result["stages"][index]), expected(told, "org.osbuild.mkdir"));
        }
        assert_eq!(result["success"], true);
        (result, described) = (&result["build"], &described["build"]["pipeline"]);
    }
    assert_eq!(names(&world.path("output/assembler")), [""; 0]);
}

/// `org.osbuild.files` is `org.osbuild.curl`.
#[test]
fn root_the_source_alias_is_fetched() {
    let world = World::new();
    world.server.serve("/file", Reply::ok("content"));
    let sum = checksum(b"content");
    world.manifest(&json!({
        "pipeline": {"stages": [mkdir("/a")]},
        "sources": {"org.osbuild.files": {"urls": {&sum: world.server.url("/file")}}},
    }));
    for (cache, as_reference) in [("cache", false), ("reference", true)] {
        let run = ["--json", "--cache", cache, "manifest.json"];
        let finished = if as_reference { world.reference(&run) } else { Some(world.osbuild(&run)) };
        let Some(finished) = finished else { return };
        assert_eq!(plain(finished.succeeded().json()), json!({"success": true}), "{cache}");
        assert_eq!(names(&world.path(cache).join("sources/org.osbuild.files")), [sum.as_str()], "{cache}");
    }
}
