//! What the cache keeps of a build: by what it is found again, and when it reaches the disk.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use crate::manifests::{good, manifest, pipeline};
use crate::world::World;

/// Makes an ext4 file system at an offset of a file. The options of a device that nothing is mounted from are not part
/// of the id.
fn file_system_at(start: u64) -> Value {
    let size = json!({"type": "org.osbuild.truncate", "options": {"filename": "disk", "size": "8M"}});
    let mkfs = json!({
        "type": "org.osbuild.mkfs.ext4",
        "options": {"uuid": "156f0420-627b-4151-ae6f-fda298097515"},
        "devices": {"device": {
            "type": "org.osbuild.loopback", "options": {"filename": "disk", "start": start, "size": 8192},
        }},
    });
    manifest(&[pipeline("disk", &[size, mkfs])])
}

#[test]
fn root_what_ids_leave_out_is_built_again() {
    let world = World::new();
    // The magic number of ext4 lies 0x438 bytes after the start.
    let magic_at = |start: usize| {
        let disk = fs::read(world.path("output/disk/disk")).expect("the disk");
        disk.get(start * 512 + 0x438..start * 512 + 0x43a).map(<[u8]>::to_vec) == Some(vec![0x53, 0xef])
    };
    let id = |start| {
        world.write("manifest.json", file_system_at(start).to_string());
        let inspected = world.run(&["inspect", "manifest.json"]);
        serde_json::from_str::<Value>(&inspected.stdout).expect("JSON")["pipelines"][0]["stages"][1]["id"]
            .clone()
    };
    assert_eq!(id(0), id(4096), "the ids are the same, as in the reference");
    for (start, stages) in [(0, 2), (4096, 1), (4096, 0)] {
        let _ = fs::remove_dir_all(world.path("output"));
        let built =
            world.build(&file_system_at(start as u64), &["--export", "disk", "--checkpoint", "*", "--json"]);
        assert!(built.status.success(), "{}", built.stderr);
        let result: Value = serde_json::from_str(&built.stdout).expect("JSON");
        let ran = result["log"]["disk"].as_array().map_or(0, Vec::len);
        assert_eq!(ran, stages, "{start}: {}", built.stderr);
        assert!(magic_at(start), "{start}");
    }
    assert_eq!(
        fs::read_dir(world.cache().join("objects")).expect("objects").count(),
        2,
        "the old one was replaced"
    );
}

#[test]
fn root_results_reach_the_disk_when_it_was_asked_for() {
    let world = World::new();
    for (way, marked) in [("deferred", false), ("before", false), ("off", false)] {
        let built = world.build(&good(way), &["--cache-sync", way]);
        assert!(built.status.success(), "{}", built.stderr);
        let objects: Vec<_> =
            fs::read_dir(world.cache().join("objects")).expect("objects").flatten().collect();
        for object in objects {
            let lock = fs::metadata(object.path().join("object.lock")).expect("lock");
            assert_eq!(lock.mode() & 0o1000 != 0, marked, "after the run nothing waits: {way}");
        }
    }
    let refused = world.build(&good("x"), &["--cache-sync", "sometimes"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stderr.contains("expected `deferred`, `before` or `off`"), "{}", refused.stderr);
    let mut command = world.build_command(&good("x"), &[]);
    command.env("KILN_CACHE_SYNC", "never");
    let refused = crate::world::finish(command.spawn().expect("started"));
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stderr.contains("`never` of the variable `KILN_CACHE_SYNC`"), "{}", refused.stderr);
}
