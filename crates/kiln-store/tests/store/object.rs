//! The object store: making, committing, floating and exporting objects.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use kiln_store::cache::{MaximumSize, Refusal};
use kiln_store::object::{ExportOptions, Exported, ObjectStore, Outcome, StoreOptions};
use kiln_store::tree;
use serde_json::json;

use crate::common::{GO_ON, rich_tree, scratch, set_time};

fn open(directory: &Path, maximum: MaximumSize) -> ObjectStore {
    let store = ObjectStore::open(directory, StoreOptions::default()).expect("open");
    store.set_maximum_size(maximum).expect("maximum");
    store
}

fn stage_count(directory: &Path) -> usize {
    fs::read_dir(directory.join("stage")).expect("stage").count()
}

#[test]
fn an_object_is_committed_by_rename_and_found_again() {
    let scratch = scratch();
    let store = open(scratch.path(), MaximumSize::Unlimited);
    let new = store.new_object("a1", None).expect("new");
    fs::write(new.tree().join("file"), "content").expect("file");
    let inode = fs::metadata(new.tree().join("file")).expect("file").ino();
    fs::write(new.metadata_path("a1").expect("metadata"), r#"{"answer": 42}"#).expect("metadata");
    new.metadata_path("silent").expect("metadata");
    assert_eq!(fs::metadata(new.tree()).expect("tree").permissions().mode() & 0o7777, 0o755);
    let (object, outcome) = new.finish(true).expect("finish");
    assert_eq!(outcome, Outcome::Kept);
    assert_eq!(object.tree(), scratch.path().join("objects/a1/data/tree"));
    assert_eq!(fs::metadata(object.tree().join("file")).expect("file").ino(), inode, "nothing was copied");
    assert_eq!(stage_count(scratch.path()), 0);
    drop((object, store));

    let store = open(scratch.path(), MaximumSize::Unlimited);
    assert!(store.contains("a1").expect("contains"));
    assert!(!store.contains("b2").expect("contains"));
    let object = store.get("a1").expect("get").expect("there");
    assert_eq!(object.metadata("a1").expect("metadata"), Some(json!({"answer": 42})));
    assert_eq!(object.metadata("silent").expect("metadata"), None);
    assert!(!scratch.path().join("objects/a1/data/meta/silent.json").exists());
    let info = fs::read_to_string(scratch.path().join("objects/a1/data/meta/info.json")).expect("info");
    assert!(info.starts_with("{\n  \"created\": ") && info.ends_with("\n}"), "{info}");
    for name in ["info", "a1"] {
        let metadata =
            fs::metadata(scratch.path().join(format!("objects/a1/data/meta/{name}.json"))).expect("there");
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600, "{name}: as the reference has it");
    }
}

#[test]
fn what_the_cache_refuses_floats() {
    let scratch = scratch();
    let store = ObjectStore::open(scratch.path(), StoreOptions::default()).expect("open");
    let new = store.new_object("a1", None).expect("new");
    fs::write(new.tree().join("file"), "content").expect("file");
    assert_eq!(new.checkpoint("c1").expect("checkpoint"), Outcome::Refused(Refusal::Disabled));
    let (object, outcome) = new.finish(true).expect("finish");
    assert_eq!(outcome, Outcome::Refused(Refusal::Disabled));
    assert!(object.is_floating());
    let found = store.get("a1").expect("get").expect("floating");
    assert!(Arc::ptr_eq(&found, &object));
    drop(found);

    let dependent = thread_reads(&store, "a1");
    assert_eq!(dependent, "content");
    store.forget("a1");
    assert!(!store.contains("a1").expect("contains"));
    assert!(object.tree().join("file").exists(), "held objects stay");
    drop(object);
    assert_eq!(stage_count(scratch.path()), 0);
    assert_eq!(fs::read_dir(scratch.path().join("objects")).expect("objects").count(), 0);
}

fn thread_reads(store: &ObjectStore, id: &str) -> String {
    let store = store.clone();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let object = store.get(id).expect("get").expect("there");
            fs::read_to_string(object.tree().join("file")).expect("read")
        });
        reading.join().expect("no panic")
    })
}

#[test]
fn root_a_checkpoint_is_a_clone_that_a_later_object_starts_from() {
    let scratch = scratch();
    let store = open(&scratch.path().join("cache"), MaximumSize::Unlimited);
    let mut new = store.new_object("pipeline", None).expect("new");
    let base = store.new_object("base", None).expect("new");
    let tree = rich_tree(scratch.path());
    tree::copy(&tree, base.tree(), tree::CopyOptions::default(), &GO_ON).expect("copy");
    let info = base.metadata_path("base").expect("metadata");
    fs::write(info, "[1]").expect("metadata");
    let (base, _) = base.finish(false).expect("finish");
    new.init_from(&base).expect("clone");
    assert_eq!(tree::compare(new.tree(), &tree, &GO_ON).expect("compare"), []);
    assert_eq!(new.metadata("base").expect("metadata"), Some(json!([1])));

    assert_eq!(new.checkpoint("c1").expect("checkpoint"), Outcome::Kept);
    assert_eq!(new.checkpoint("c1").expect("checkpoint"), Outcome::Exists);
    fs::write(new.tree().join("later"), "").expect("file");
    let kept = store.get("c1").expect("get").expect("kept");
    assert_eq!(tree::compare(kept.tree(), &tree, &GO_ON).expect("compare"), []);
    drop(new);
    assert!(!store.contains("pipeline").expect("contains"));
}

#[test]
fn new_times_are_clamped_to_the_source_epoch() {
    let scratch = scratch();
    let store = open(scratch.path(), MaximumSize::Unlimited);
    let first = store.new_object("a1", Some(1_000_000_000)).expect("new");
    fs::write(first.tree().join("new"), "").expect("file");
    fs::write(first.tree().join("old"), "").expect("file");
    set_time(&first.tree().join("old"), 77, 5);
    let (first, _) = first.finish(true).expect("finish");
    let time = |path: &Path| {
        let stat = fs::metadata(path).expect("metadata");
        (stat.mtime(), stat.mtime_nsec())
    };
    assert_eq!(time(&first.tree().join("new")), (1_000_000_000, 0));
    assert_eq!(time(&first.tree().join("old")), (77, 5));
    assert_eq!(time(first.tree()), (1_000_000_000, 0));

    // What starts from it counts from when it was begun.
    let created = fs::read_to_string(scratch.path().join("objects/a1/data/meta/info.json")).expect("info");
    let mut second = store.new_object("b2", Some(2_000_000_000)).expect("new");
    second.init_from(&first).expect("clone");
    let expected: serde_json::Value = serde_json::from_str(&created).expect("JSON");
    assert_eq!(Some(second.created()), expected["created"].as_i64());
}

#[test]
fn root_exports_are_copies_or_moves() {
    let scratch = scratch();
    let store = open(&scratch.path().join("cache"), MaximumSize::Unlimited);
    let tree = rich_tree(scratch.path());
    let make = |id: &str, keep| {
        let new = store.new_object(id, None).expect("new");
        tree::copy(&tree, new.tree(), tree::CopyOptions::default(), &GO_ON).expect("copy");
        new.finish(keep).expect("finish").0
    };
    let cases = [
        ("kept", true, false, Exported::Copied),
        ("floating", false, false, Exported::Moved),
        ("shared", false, true, Exported::Copied),
    ];
    for (id, keep, shared, expected) in cases {
        let object = make(id, keep);
        let other = shared.then(|| Arc::clone(&object));
        let target = scratch.path().join("out").join(id);
        fs::create_dir_all(target.parent().expect("parent")).expect("directory");
        let exported = store.export_by_rename(object, &target, ExportOptions::default()).expect("export");
        assert_eq!(exported, expected, "{id}");
        assert_eq!(tree::compare(&target, &tree, &GO_ON).expect("compare"), [], "{id}");
        assert_eq!(store.contains(id).expect("contains"), expected == Exported::Copied, "{id}");
        drop(other);
    }
    // A name that is taken: merged by copying, and the object stays.
    let target = scratch.path().join("out/merged");
    fs::create_dir_all(target.join("etc")).expect("directory");
    fs::write(target.join("etc/other"), "").expect("file");
    let object = make("merged", false);
    let exported = store.export_by_rename(object, &target, ExportOptions::default()).expect("export");
    assert_eq!(exported, Exported::Copied);
    let found: Vec<_> = tree::compare(&tree, &target, &GO_ON).expect("compare");
    assert_eq!(
        found.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["etc/other: only in the second tree (file)"]
    );
    assert!(store.contains("merged").expect("contains"));
}

#[test]
fn an_object_of_another_recipe_is_a_miss_and_replaced() {
    let scratch = scratch();
    let store = open(scratch.path(), MaximumSize::Unlimited);
    let make = |recipe: &str, content: &str| {
        let new = store.new_object(("a1", recipe), None).expect("new");
        fs::write(new.tree().join("file"), content).expect("file");
        new.finish(true).expect("finish")
    };
    let (first, outcome) = make("one", "first");
    assert_eq!(outcome, Outcome::Kept);
    let finds = |store: &ObjectStore, recipe: &str| store.contains(("a1", recipe)).expect("contains");
    assert!(finds(&store, "one") && !finds(&store, "two") && store.contains("a1").expect("contains"));

    // While somebody holds the first, the second floats, and each is found by its own recipe.
    let (second, outcome) = make("two", "second");
    assert_eq!(outcome, Outcome::Refused(Refusal::InUse));
    for (recipe, content) in [("one", "first"), ("two", "second")] {
        let found = store.get(("a1", recipe)).expect("get").expect("there");
        assert_eq!(fs::read_to_string(found.tree().join("file")).expect("file"), content);
    }
    drop((first, second, store));

    let store = open(scratch.path(), MaximumSize::Unlimited);
    assert!(finds(&store, "one") && !finds(&store, "two"));
    let new = store.new_object(("a1", "two"), None).expect("new");
    fs::write(new.tree().join("file"), "second").expect("file");
    let (object, outcome) = new.finish(true).expect("finish");
    assert_eq!(outcome, Outcome::Kept);
    assert!(object.tree().starts_with(scratch.path().join("objects/a1")));
    drop((object, store));
    let store = open(scratch.path(), MaximumSize::Unlimited);
    assert!(!finds(&store, "one") && finds(&store, "two"));
    let found = store.get(("a1", "two")).expect("get").expect("there");
    assert_eq!(fs::read_to_string(found.tree().join("file")).expect("file"), "second");
    let sizes = [
        store.cache().size().expect("size"),
        tree::measure(&scratch.path().join("objects/a1/data"), &GO_ON).expect("measure"),
    ];
    assert_eq!(sizes[0], sizes[1], "the bytes of the first were given back");
    assert_eq!(fs::read_dir(scratch.path().join("objects")).expect("list").count(), 1);
    assert_eq!(fs::read_dir(scratch.path().join("stage")).expect("list").count(), 0);
}

#[test]
fn an_object_without_a_recipe_is_taken_as_it_is() {
    let scratch = scratch();
    let store = open(scratch.path(), MaximumSize::Unlimited);
    drop(store.new_object("a1", None).expect("new").finish(true).expect("finish"));
    drop(store);
    let store = open(scratch.path(), MaximumSize::Unlimited);
    assert!(store.get(("a1", "any")).expect("get").is_some());
    let (_, outcome) = store.new_object(("a1", "any"), None).expect("new").finish(true).expect("finish");
    assert_eq!(outcome, Outcome::Exists);
}
