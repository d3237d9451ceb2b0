//! `kiln tree`: trees compared, digested, measured, copied and removed.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use crate::world::World;

#[test]
fn a_tree_is_copied_measured_compared_and_removed() {
    let world = World::new();
    fs::create_dir_all(world.path("tree/etc")).expect("directory");
    let file = world.write("tree/etc/file", "content");
    symlink("etc/file", world.path("tree/link")).expect("link");
    fs::hard_link(&file, world.path("tree/other")).expect("link");
    let succeeds = |arguments: &[&str]| {
        let run = world.run(arguments);
        assert!(run.status.success(), "{arguments:?}: {}", run.shown());
        run.stdout
    };

    assert_eq!(succeeds(&["tree", "copy", "tree", "copy"]), "");
    assert_eq!(succeeds(&["tree", "diff", "tree", "copy"]), "");
    let digest = succeeds(&["tree", "digest", "tree"]);
    assert_eq!(digest.trim().len(), 64, "{digest}");
    assert_eq!(succeeds(&["tree", "digest", "copy"]), digest);
    let blocks: u64 = ["", "etc", "etc/file", "link", "other"]
        .map(|name| fs::symlink_metadata(world.path("tree").join(name)).expect(name).blocks())
        .iter()
        .sum();
    assert_eq!(succeeds(&["tree", "measure", "tree"]), format!("{}\n", blocks * 512));

    let again = world.run(&["tree", "copy", "tree", "copy"]);
    assert_eq!(again.status.code(), Some(3), "{}", again.shown());
    assert!(again.stderr.contains("cannot create directory `copy`"), "{}", again.shown());
    assert_eq!(succeeds(&["tree", "remove", "copy"]), "");
    assert!(!world.path("copy").exists());
    assert_eq!(succeeds(&["tree", "remove", "copy"]), "", "nothing there is fine too");
    assert!(file.exists());
}
