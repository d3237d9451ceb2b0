//! The cache on every kind of file system that it may live on.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kiln_store::cache::{
    Cache, CacheOptions, Commit, Durability, Entry, LoadGuard, MaximumSize, PruneOptions, PruneTarget,
};
use kiln_sys::command::Run;
use kiln_testkit::fscache::content;
use kiln_testkit::fscache::shape::{Shape, held_locks};
use kiln_testkit::host;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{UnmountFlags, unmount};

use crate::common::{GO_ON, scratch, set_time};
use crate::crash::{kill, start};
use crate::tree_disk::{Disk, Kind};

const SEED: u64 = 5;

/// How often two processes are killed at the same time.
const KILLS: u64 = 8;

fn open(directory: &Path) -> Arc<Cache> {
    let cache = Cache::open(directory, CacheOptions::default()).expect("open");
    cache.wait_for_reclaim();
    cache
}

fn filled(entry: Entry, name: &str, recipe: Option<&str>) -> Entry {
    let mut entry = entry;
    if let Some(recipe) = recipe {
        entry.note_recipe(recipe);
    }
    content::fill_made_by(&entry.data(), name, SEED, recipe).expect("fill");
    entry
}

fn keep(entry: Entry, name: &str, recipe: Option<&str>) -> LoadGuard {
    match filled(entry, name, recipe).commit(name).expect("commit") {
        Commit::Kept(guard) => guard,
        other => panic!("{name}: {other:?}"),
    }
}

fn names(shape: &Shape) -> Vec<&str> {
    shape.named.keys().map(String::as_str).collect()
}

/// The shape of a cache in which nothing is left behind and everything is exact.
fn at_rest(directory: &Path) -> Shape {
    let shape = Shape::read(directory).expect("shape");
    assert_eq!(shape.wrong_at_rest(), Vec::<String>::new());
    shape
}

fn works_on(kind: Kind) {
    let Some(disk) = Disk::new(kind) else { return };
    works_in(&disk.root().join("cache"));
}

fn works_in(directory: &Path) {
    stores_and_loads(directory);
    evicts_what_was_used_least_recently(directory);
    keeps_what_is_held(directory);
    reclaims_what_the_dead_left(directory);
    survives_kills(directory);
    prunes_everything(directory);
}

fn stores_and_loads(directory: &Path) {
    let cache = open(directory);
    cache.set_maximum_size(MaximumSize::Unlimited).expect("maximum");
    drop(keep(cache.store().expect("store"), "a", None));
    drop(keep(cache.stage().expect("stage"), "b", Some("one")));
    let exists = filled(cache.stage().expect("stage"), "a", None).commit("a").expect("commit");
    assert!(matches!(exists, Commit::Exists(_)), "{exists:?}");
    drop(exists);
    // Another recipe takes the place of the first one in one step.
    drop(keep(cache.stage().expect("stage"), "b", Some("two")));
    assert!(cache.load_made_by("b", "one").expect("load").is_none());
    let guard = cache.load_made_by("b", "two").expect("load").expect("a hit");
    content::check(&guard.data(), "b").expect("whole");
    // A copy that goes on changing does not change what it was made from.
    let copy = cache.stage().expect("stage");
    copy.fill_from(&guard.data(), &GO_ON).expect("copy");
    content::check(&copy.data(), "b").expect("whole");
    fs::write(copy.data().join("about"), "changed").expect("change");
    content::check(&guard.data(), "b").expect("unchanged");
    copy.discard().expect("discard");
    drop((guard, cache));
    assert_eq!(names(&at_rest(directory)), ["a", "b"]);

    let before = CacheOptions { durability: Durability::Before, ..CacheOptions::default() };
    let cache = Cache::open(directory, before).expect("open");
    drop(keep(cache.store().expect("store"), "c", None));
    drop(cache);
    assert_eq!(names(&at_rest(directory)), ["a", "b", "c"]);
}

fn evicts_what_was_used_least_recently(directory: &Path) {
    let cache = open(directory);
    let size = cache.size().expect("size");
    cache.set_maximum_size(MaximumSize::Bytes(size)).expect("maximum");
    // Loads that follow each other at once may have the same time.
    for (index, name) in ["b", "c"].into_iter().enumerate() {
        set_time(&directory.join("objects").join(name).join("object.lock"), 1_000_000_000 + index as i64, 0);
    }
    drop(cache.load("a").expect("load").expect("a hit"));
    drop(keep(cache.stage().expect("stage"), "d", None));
    drop(cache);
    let shape = at_rest(directory);
    assert_eq!(names(&shape), ["a", "d"], "twice as much is evicted as is needed");
    assert!(shape.size <= size, "{shape:?}");
}

fn keeps_what_is_held(directory: &Path) {
    let (cache, other) = (open(directory), open(directory));
    let guard = cache.load("a").expect("load").expect("a hit");
    let entry = filled(other.stage().expect("stage"), "e", None);
    assert_eq!(prune(&cache), ["d"], "neither what is read nor what is written");
    content::check(&guard.data(), "a").expect("whole");
    content::check(&entry.data(), "e").expect("whole");
    cache.reclaim().expect("reclaim");
    content::check(&entry.data(), "e").expect("whole");
    let lock = cache.try_build_lock("x").expect("try").expect("free");
    assert!(other.try_build_lock("x").expect("try").is_none());
    drop((lock, guard, entry, cache, other));
    assert_eq!(names(&at_rest(directory)), ["a"]);
}

fn reclaims_what_the_dead_left(directory: &Path) {
    for held in [false, true] {
        let holder = held.then(|| open(directory));
        kill(start(directory, "fill"));
        assert!(
            !Shape::read(directory).expect("shape").wrong_at_rest().is_empty(),
            "there is something left"
        );
        drop(open(directory));
        drop(holder);
        assert_eq!(names(&at_rest(directory)), ["a"]);
    }
    assert_eq!(held_locks(directory).expect("locks"), Vec::<std::path::PathBuf>::new());
}

fn survives_kills(directory: &Path) {
    prune(&open(directory));
    let cache = open(directory);
    // Room for some of the entries that the processes make.
    cache.set_maximum_size(MaximumSize::Bytes(200_000)).expect("maximum");
    for round in 0..KILLS {
        let workers = [start(directory, "churn"), start(directory, "churn")];
        std::thread::sleep(Duration::from_micros(300 + round * 2300));
        workers.into_iter().for_each(kill);
        assert_eq!(Shape::read(directory).expect("shape").wrong(), Vec::<String>::new(), "round {round}");
        drop(open(directory));
        let shape = at_rest(directory);
        assert!(shape.size <= 200_000, "{shape:?}");
        for name in shape.named.keys() {
            let guard = cache.load(name).expect("load").expect("a hit");
            assert_eq!(fs::metadata(guard.data().join("file")).expect("whole").len(), 40_000);
        }
    }
}

fn prunes_everything(directory: &Path) {
    let cache = open(directory);
    prune(&cache);
    drop(cache);
    let shape = at_rest(directory);
    assert_eq!((names(&shape), shape.size), (Vec::new(), 0));
}

fn prune(cache: &Arc<Cache>) -> Vec<String> {
    let options = PruneOptions { target: PruneTarget::All, objects: true, downloads: true, dry_run: false };
    let report = cache.prune(&options).expect("prune");
    report.removed.into_iter().map(|pruned| pruned.name).collect()
}

/// A container's image may come with a cache: on an overlay, directories of the lower layer cannot be renamed.
#[test]
fn root_entries_of_an_overlay_s_lower_layer_are_loaded_replaced_and_evicted() {
    let Some(lower) = Disk::new(Kind::Tmpfs) else { return };
    let directory = lower.root().join("lower/cache");
    for part in ["lower", "upper", "work", "merged"] {
        fs::create_dir(lower.root().join(part)).expect("directory");
    }
    let cache = open(&directory);
    cache.set_maximum_size(MaximumSize::Unlimited).expect("maximum");
    for (name, recipe) in [("a", None), ("b", None), ("r", Some("one"))] {
        drop(keep(cache.store().expect("store"), name, recipe));
    }
    drop(cache);

    let at = |part: &str| lower.root().join(part).display().to_string();
    let data = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    let data = std::ffi::CString::new(data).expect("no NUL");
    let merged = lower.root().join("merged");
    let flags = rustix::mount::MountFlags::empty();
    if let Err(error) = rustix::mount::mount("overlay", &merged, "overlay", flags, Some(data.as_c_str())) {
        return host::skip(&format!("no overlay on tmpfs: {error}"));
    }
    let result = std::panic::catch_unwind(|| {
        let directory = merged.join("cache");
        let (cache, other) = (open(&directory), open(&directory));
        for (index, name) in ["a", "b", "r"].into_iter().enumerate() {
            set_time(
                &directory.join("objects").join(name).join("object.lock"),
                1_000_000_000 + index as i64,
                0,
            );
        }
        let guard = cache.load("b").expect("load").expect("a hit");
        content::check(&guard.data(), "b").expect("whole");
        drop(keep(cache.store().expect("store"), "r", Some("two")));
        assert!(other.load_made_by("r", "two").expect("load").is_some());
        let size = cache.size().expect("size");
        cache.set_maximum_size(MaximumSize::Bytes(size)).expect("maximum");
        // There is no room for another one: twice as much goes, but not what is held.
        drop(keep(cache.store().expect("store"), "d", None));
        assert_eq!(Shape::read(&directory).expect("shape").wrong(), Vec::<String>::new());
        assert_eq!(names(&at_rest(&directory)), ["b", "d"]);
        drop(guard);
        prune(&other);
        drop((cache, other));
        assert_eq!(at_rest(&directory).size, 0);
    });
    unmount(&merged, UnmountFlags::DETACH).expect("unmount");
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// What containers without root use: a file system in user space, without files that have no name (`O_TMPFILE`).
#[test]
fn root_the_cache_works_on_fuse_overlayfs() {
    let mut needs = host::TESTS.iter().copied();
    let need = needs.find(|need| need.program == "fuse-overlayfs").expect("it is in the list");
    if !host::provided("an overlay in user space", &[need]) {
        return;
    }
    let scratch = scratch();
    let at = |part: &str| scratch.path().join(part);
    for part in ["lower", "upper", "work", "merged"] {
        fs::create_dir(at(part)).expect("directory");
    }
    let [lower, upper, work] = ["lower", "upper", "work"].map(|part| at(part).display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    Run::new("fuse-overlayfs").args(["-o", &options]).arg(at("merged")).output().expect("mount");
    let unnamed = rustix::fs::open(at("merged"), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR);
    let result = std::panic::catch_unwind(|| {
        assert!(unnamed.is_err(), "another file system must be found to test how the cache does without");
        works_in(&at("merged/cache"));
    });
    unmount(at("merged"), UnmountFlags::DETACH).expect("unmount");
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn root_the_cache_works_on_btrfs() {
    works_on(Kind::Btrfs);
}

#[test]
fn root_the_cache_works_on_ext4() {
    works_on(Kind::Ext4);
}

#[test]
fn root_the_cache_works_on_overlay() {
    works_on(Kind::Overlay);
}

#[test]
fn root_the_cache_works_on_tmpfs() {
    works_on(Kind::Tmpfs);
}

#[test]
fn root_the_cache_works_on_xfs() {
    works_on(Kind::Xfs);
}
