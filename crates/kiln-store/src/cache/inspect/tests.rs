//! What is seen of a cache, and that looking changes nothing.

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::cache::{CacheOptions, Commit, LoadGuard};

fn open(directory: &Path) -> Arc<Cache> {
    Cache::open(directory, CacheOptions::default()).expect("opened")
}

fn scene() -> (TempDir, Arc<Cache>) {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path());
    (directory, cache)
}

fn commit(cache: &Arc<Cache>, name: &str, notes: &[(&str, &str)]) -> LoadGuard {
    let mut entry = cache.store().expect("an entry");
    for (key, value) in notes {
        entry.note(key, *value);
    }
    fs::write(entry.data().join("file"), vec![1; 10_000]).expect("written");
    fs::hard_link(entry.data().join("file"), entry.data().join("same")).expect("linked");
    match entry.commit(name).expect("committed") {
        Commit::Kept(guard) => guard,
        other => panic!("{other:?}"),
    }
}

fn download(directory: &Path, name: &str) {
    let sources = directory.join("sources/org.osbuild.files");
    fs::create_dir_all(&sources).expect("made");
    fs::write(sources.join(name), vec![1; 4096]).expect("written");
}

#[test]
fn a_cache_at_a_glance() {
    let (directory, cache) = scene();
    let overview = cache.overview().expect("looked at");
    assert_eq!((overview.version, overview.maximum_size), (Some(1), None));
    assert_eq!((overview.objects, overview.objects_size), (0, 0));
    assert!(!cache.has_maximum_size().expect("asked"));

    cache.set_maximum_size(MaximumSize::Bytes(0)).expect("set");
    assert!(cache.has_maximum_size().expect("asked"));
    assert_eq!(cache.overview().expect("looked at").maximum_size, Some(MaximumSize::Bytes(0)));

    cache.set_maximum_size(MaximumSize::Unlimited).expect("set");
    drop(commit(&cache, "one", &[]));
    drop(commit(&cache, "two", &[]));
    download(directory.path(), "sha256:aa");
    let _filling = cache.stage().expect("staged");
    fs::create_dir(directory.path().join("stage/uuid-dead")).expect("made");
    fs::create_dir(directory.path().join("objects/uuid-dead")).expect("made");
    let overview = cache.overview().expect("looked at");
    assert_eq!((overview.objects, overview.active, overview.leftovers), (2, 1, 2));
    assert_eq!(overview.objects_size, cache.size().expect("size"));
    assert_eq!((overview.downloads.files, overview.downloads.bytes), (1, 4096));
    assert!(overview.place.free > 0);
}

#[test]
fn entries_are_listed_with_everything_that_is_known() {
    let (directory, cache) = scene();
    cache.set_maximum_size(MaximumSize::Unlimited).expect("set");
    let guard = commit(&cache, "one", &[("recipe", "abc"), ("pipeline", "tree")]);
    drop(commit(&cache, "two", &[]));
    download(directory.path(), "sha256:aa");
    let long_ago = SystemTime::now() - Duration::from_secs(1_000_000);
    let lock = File::open(directory.path().join("objects/two/object.lock")).expect("opened");
    lock.set_times(FileTimes::new().set_accessed(long_ago)).expect("set");
    let two_info = directory.path().join("objects/two/object.info");
    let info = fs::read_to_string(&two_info).expect("read");
    let other_boot = info.replace(&cache.boot_id, &"0".repeat(32));
    fs::write(&two_info, other_boot).expect("written");

    for _ in 0..2 {
        let mut list = cache.list().expect("listed");
        list.sort_by(|one, other| one.name.cmp(&other.name));
        let [one, download, two] = list.as_slice() else { panic!("{list:?}") };
        assert_eq!((one.name.as_str(), one.kind, one.in_use), ("one", EntryKind::Object, true));
        assert_eq!((one.this_boot, one.recipe()), (Some(true), Some("abc")));
        assert_eq!(one.notes.get("pipeline"), Some(&Value::from("tree")));
        assert!(one.size > 0 && one.created.is_some());
        assert_eq!((two.in_use, two.this_boot, two.recipe()), (false, Some(false), None));
        assert_eq!(two.last_used, long_ago, "looking is no use");
        assert_eq!(download.name, "org.osbuild.files/sha256:aa");
        assert_eq!((download.kind, download.in_use, download.size), (EntryKind::Download, false, 4096));
    }
    drop(guard);
    assert!(cache.list().expect("listed").iter().all(|entry| !entry.in_use));
}

#[test]
fn what_entries_take() {
    let (directory, cache) = scene();
    cache.set_maximum_size(MaximumSize::Unlimited).expect("set");
    drop(commit(&cache, "one", &[]));
    download(directory.path(), "sha256:aa");
    let progress = Progress::default();
    let never = AtomicBool::new(false);
    let report = cache.usage(&|_, _| true, &progress, &never).expect("measured");
    let [object, download] = report.entries.as_slice() else { panic!("{report:?}") };
    assert_eq!((object.name.as_str(), download.name.as_str()), ("one", "org.osbuild.files/sha256:aa"));
    // `data`, one file with two names, `object.info`, `object.lock`, and the directory.
    assert_eq!(object.files, 5);
    let info = fs::metadata(directory.path().join("objects/one/object.info")).expect("there").len();
    assert_eq!(object.apparent, 10_000 + info, "a file with two names counts once");
    assert_eq!((download.files, download.apparent, download.on_disk), (1, 4096, 4096));
    assert_eq!(progress.bytes.into_inner(), object.on_disk + download.on_disk);
    if let Some(occupied) = report.occupied {
        assert_eq!(occupied, object.on_disk + download.on_disk, "nothing is shared");
    }
    let some = cache.usage(&|kind, _| kind == EntryKind::Object, &Progress::default(), &never);
    assert_eq!(some.expect("measured").entries.len(), 1);
    let interrupted = cache.usage(&|_, _| true, &Progress::default(), &AtomicBool::new(true));
    assert!(matches!(interrupted, Err(CacheError::Interrupted)), "{interrupted:?}");
}
