//! The rules of the cache directory: layout, locks, limits, eviction, cleaning up.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kiln_store::cache::{Cache, CacheError, CacheOptions, Commit, Entry, MaximumSize, Refusal};
use kiln_sys::lock::{self, Attempt, Kind};

use crate::common::{GO_ON, scratch};

fn open(directory: &Path) -> Arc<Cache> {
    Cache::open(directory, CacheOptions::default()).expect("open")
}

fn open_unlimited(directory: &Path) -> Arc<Cache> {
    let cache = open(directory);
    cache.set_maximum_size(MaximumSize::Unlimited).expect("maximum");
    cache
}

/// Fills an entry with so many bytes.
fn filled(cache: &Arc<Cache>, bytes: usize) -> Entry {
    let entry = cache.store().expect("entry");
    fs::write(entry.data().join("file"), vec![1; bytes]).expect("fill");
    entry
}

fn keep(cache: &Arc<Cache>, name: &str, bytes: usize) {
    let outcome = filled(cache, bytes).commit(name).expect("commit");
    assert!(matches!(outcome, Commit::Kept(_)), "{name}: {outcome:?}");
}

fn has(cache: &Arc<Cache>, name: &str) -> bool {
    cache.load(name).expect("load").is_some()
}

/// Names in a directory of the cache, sorted.
fn names(cache: &Path, directory: &str) -> Vec<String> {
    let list = fs::read_dir(cache.join(directory)).expect("list");
    let mut names: Vec<_> =
        list.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What the committed entries are accounted with, read off the directory.
fn counted(cache: &Path) -> u64 {
    let infos =
        names(cache, "objects").into_iter().map(|name| cache.join("objects").join(name).join("object.info"));
    infos
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| {
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["size"].as_u64().expect("size")
        })
        .sum()
}

/// Locks a file as another process would: by a description of its own.
fn lock_file(path: &Path, kind: Kind) -> fs::File {
    let file = fs::File::options().read(true).write(true).open(path).expect("open");
    assert_eq!(lock::try_lock(&file, kind).expect("lock"), Attempt::Acquired, "{}", path.display());
    file
}

fn is_locked(path: &Path, kind: Kind) -> bool {
    let file = fs::File::options().read(true).write(true).open(path).expect("open");
    lock::try_lock(&file, kind).expect("lock") == Attempt::Contended
}

#[test]
fn a_new_cache_has_the_layout_and_keeps_nothing() {
    let scratch = scratch();
    let directory = scratch.path().join("deep/cache");
    let cache = open(&directory);
    assert_eq!(fs::read_to_string(directory.join("cache.info")).expect("info"), r#"{"version": 1}"#);
    assert_eq!(fs::read_to_string(directory.join("cache.size")).expect("size"), "0");
    assert!(
        fs::read_to_string(directory.join("CACHEDIR.TAG"))
            .expect("tag")
            .starts_with("Signature: 8a477f597d28d172789f06886806bc55\n")
    );
    assert_eq!(
        names(&directory, "."),
        ["CACHEDIR.TAG", "cache.info", "cache.lock", "cache.size", "objects", "sources", "stage", "tmp"]
    );
    assert_eq!(names(&directory, "objects"), Vec::<String>::new());
    assert!(is_locked(&directory.join("cache.lock"), Kind::Write), "users hold the shared lock");
    assert!(!is_locked(&directory.join("cache.lock"), Kind::Read));
    let outcome = filled(&cache, 1).commit("a").expect("commit");
    assert!(matches!(outcome, Commit::Refused(_, Refusal::Disabled)), "{outcome:?}");
    drop(outcome);
    drop(cache);
    assert!(!is_locked(&directory.join("cache.lock"), Kind::Write));
}

#[test]
fn an_entry_is_accounted_named_and_held() {
    let scratch = scratch();
    let cache = open_unlimited(scratch.path());
    let mut entry = filled(&cache, 100_000);
    entry.note("recipe", "abc");
    let commit = entry.commit("a").expect("commit");
    let Commit::Kept(guard) = commit else { panic!("{commit:?}") };
    let object = scratch.path().join("objects/a");
    let blocks = |path: PathBuf| fs::metadata(path).expect("metadata").blocks() * 512;
    let expected = blocks(object.join("data")) + blocks(object.join("data/file"));
    assert_eq!(cache.size().expect("size"), expected);
    assert_eq!(guard.info()["size"].as_u64(), Some(expected));
    assert_eq!(guard.info()["recipe"], "abc");
    assert_eq!(guard.info()["creation-boot-id"].as_str().map(str::len), Some(32));
    let lock = object.join("object.lock");
    assert!(is_locked(&lock, Kind::Write) && !is_locked(&lock, Kind::Read), "held for reading");
    assert!(has(&cache, "a"));
    drop(guard);
    assert!(!is_locked(&lock, Kind::Write));

    let outcome = filled(&cache, 10).commit("a").expect("commit");
    assert!(matches!(outcome, Commit::Exists(_)), "{outcome:?}");
    drop(outcome);
    assert_eq!(cache.size().expect("size"), expected, "the loser's bytes are given back");
    assert_eq!(names(scratch.path(), "objects"), ["a"], "and its entry has gone");
    assert_eq!(fs::metadata(object.join("data/file")).expect("file").len(), 100_000);
}

#[test]
fn what_is_no_entry_is_a_miss() {
    let scratch = scratch();
    let cache = open_unlimited(scratch.path());
    keep(&cache, "written", 1);
    keep(&cache, "unmarked", 1);
    keep(&cache, "good", 1);
    let objects = scratch.path().join("objects");
    let _writer = lock_file(&objects.join("written/object.lock"), Kind::Write);
    fs::remove_file(objects.join("unmarked/object.info")).expect("remove");
    fs::write(objects.join("file"), "").expect("file");
    fs::create_dir(objects.join("bare")).expect("directory");
    let cases = [
        ("written", false),
        ("unmarked", false),
        ("file", false),
        ("bare", false),
        ("none", false),
        ("good", true),
    ];
    for (name, expected) in cases {
        assert_eq!(has(&cache, name), expected, "{name}");
    }
    for name in ["", "..", "a/b", "uuid-1"] {
        assert!(matches!(cache.load(name), Err(CacheError::Name { .. })), "{name}");
        assert!(matches!(filled(&cache, 1).commit(name), Err(CacheError::Name { .. })), "{name}");
    }
    // What only has a name makes way; what somebody holds does not.
    let cases = [("written", false), ("unmarked", true), ("file", true), ("bare", true)];
    for (name, kept) in cases {
        let outcome = filled(&cache, 1).commit(name).expect("commit");
        assert_eq!(matches!(outcome, Commit::Kept(_)), kept, "{name}: {outcome:?}");
    }
}

#[test]
fn other_versions_are_only_staged_in() {
    let scratch = scratch();
    drop(open_unlimited(scratch.path()));
    for info in [r#"{"version": 2, "maximum-size": "unlimited"}"#, "[]", "{}"] {
        fs::write(scratch.path().join("cache.info"), info).expect("info");
        fs::write(scratch.path().join("cache.size"), "12345").expect("size");
        let cache = open(scratch.path());
        let entry = filled(&cache, 1);
        assert!(entry.data().starts_with(scratch.path().join("stage")));
        let outcome = entry.commit("a").expect("commit");
        assert!(matches!(outcome, Commit::Refused(_, Refusal::Incompatible { .. })), "{outcome:?}");
        assert!(!has(&cache, "a"));
        cache.set_maximum_size(MaximumSize::Bytes(7)).expect("maximum");
        assert_eq!(fs::read_to_string(scratch.path().join("cache.info")).expect("info"), info, "left alone");
        assert_eq!(
            fs::read_to_string(scratch.path().join("cache.size")).expect("size"),
            "12345",
            "left alone"
        );
    }
}

#[test]
fn the_limit_is_stored_beside_what_is_not_understood() {
    let scratch = scratch();
    drop(open(scratch.path()));
    fs::write(scratch.path().join("cache.info"), r#"{"future": {"x": 1}, "version": 1}"#).expect("info");
    let cache = open(scratch.path());
    for (maximum, text) in [
        (MaximumSize::Bytes(1 << 40), r#"{"future": {"x": 1}, "version": 1, "maximum-size": 1099511627776}"#),
        (MaximumSize::Unlimited, r#"{"future": {"x": 1}, "version": 1, "maximum-size": "unlimited"}"#),
    ] {
        cache.set_maximum_size(maximum).expect("maximum");
        assert_eq!(cache.maximum_size(), maximum);
        assert_eq!(fs::read_to_string(scratch.path().join("cache.info")).expect("info"), text);
        assert_eq!(open(scratch.path()).maximum_size(), maximum);
    }
}

#[test]
fn room_is_made_by_last_use_and_never_from_what_is_held() {
    let scratch = scratch();
    let cache = open_unlimited(scratch.path());
    for (age, name) in ["oldest", "held", "older", "recent"].into_iter().enumerate() {
        keep(&cache, name, 100_000);
        let lock =
            fs::File::open(scratch.path().join("objects").join(name).join("object.lock")).expect("lock");
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000 + age as u64);
        lock.set_times(fs::FileTimes::new().set_accessed(time)).expect("access time");
    }
    let total = cache.size().expect("size");
    let one = total / 4;
    let _held = lock_file(&scratch.path().join("objects/held/object.lock"), Kind::Read);
    // Room for one more must be made: two are evicted, the oldest that may be.
    cache.set_maximum_size(MaximumSize::Bytes(total)).expect("maximum");
    keep(&cache, "new", 100_000);
    assert_eq!(names(scratch.path(), "objects"), ["held", "new", "recent"]);
    assert_eq!(cache.size().expect("size"), counted(scratch.path()));
    assert_eq!(cache.size().expect("size"), 3 * one);

    let outcome = filled(&cache, total as usize + 1).commit("huge").expect("commit");
    assert!(matches!(outcome, Commit::Refused(_, Refusal::TooLarge { .. })), "{outcome:?}");
    drop(outcome);
    assert_eq!(names(scratch.path(), "objects"), ["held", "new", "recent"], "nothing evicted in vain");

    let guards = [cache.load("new").expect("load"), cache.load("recent").expect("load")];
    let outcome = filled(&cache, 300_000).commit("more").expect("commit");
    assert!(matches!(outcome, Commit::Refused(_, Refusal::NoRoom { .. })), "{outcome:?}");
    drop((outcome, guards));
    keep(&cache, "more", 300_000);
    assert_eq!(names(scratch.path(), "objects"), ["held", "more"]);
    assert_eq!(cache.size().expect("size"), counted(scratch.path()));
}

#[test]
fn looking_at_an_entry_makes_it_recent() {
    let scratch = scratch();
    let cache = open_unlimited(scratch.path());
    keep(&cache, "a", 1);
    let path = scratch.path().join("objects/a/object.lock");
    let lock = fs::File::open(&path).expect("lock");
    lock.set_times(fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH)).expect("access time");
    let modified = fs::metadata(&path).expect("lock").mtime();
    assert!(has(&cache, "a"));
    let after = fs::metadata(&path).expect("lock");
    assert!(after.atime() > 1_000_000 && after.mtime() == modified);
}

#[test]
fn what_the_dead_left_is_removed_and_counted_again() {
    let scratch = scratch();
    let cache = open_unlimited(scratch.path());
    // What opening a new cache started must not meet what is left below.
    cache.wait_for_reclaim();
    keep(&cache, "good", 10_000);
    let size = cache.size().expect("size");
    let at = |path: &str| scratch.path().join(path);
    let leave = || {
        for directory in
            ["stage/uuid-1", "objects/uuid-2", "objects/uuid-3", "tmp/kiln-x1", "tmp/store-server-y"]
        {
            fs::create_dir_all(at(directory).join("data/tree")).expect("directory");
        }
        for file in
            ["stage/uuid-1/object.lock", "objects/uuid-2/object.lock", "objects/uuid-4", "tmp/kiln-x1/file"]
        {
            fs::write(at(file), "").expect("file");
        }
        fs::write(at("objects/uuid-2/object.info"), r#"{"size": 4096}"#).expect("info");
        fs::remove_dir_all(at("objects/uuid-3/data")).expect("remove");
    };
    // Others are there: only what can be judged by locks, and the accounted bytes of the nameless entry.
    leave();
    fs::write(at("cache.size"), (size + 4096).to_string()).expect("size");
    let staged = cache.stage().expect("stage");
    let temporary = cache.temporary_directory("z-").expect("temporary");
    let building = cache.build_lock("b", &GO_ON).expect("build lock");
    let second = open(scratch.path());
    second.wait_for_reclaim();
    assert_eq!(names(scratch.path(), "objects"), ["good"]);
    assert_eq!(names(scratch.path(), "stage").len(), 1);
    assert!(staged.data().is_dir() && temporary.path().is_dir(), "the living are left alone");
    assert!(second.try_build_lock("b").expect("try").is_none());
    assert_eq!(names(scratch.path(), "tmp").len(), 3, "the reference's directory cannot be judged yet");
    assert_eq!(second.size().expect("size"), size);
    drop((staged, temporary, building, cache, second));

    // Nobody else is there: everything, and a wrong number is put right.
    leave();
    fs::create_dir_all(at("objects/half/data")).expect("directory");
    fs::write(at("objects/half/object.lock"), "").expect("file");
    for wrong in ["999999", "", "null"] {
        fs::write(at("cache.size"), wrong).expect("size");
        let cache = open(scratch.path());
        assert_eq!(cache.size().expect("size"), size, "{wrong}");
        assert!(!is_locked(&at("cache.lock"), Kind::Read), "others may come in again");
        assert!(has(&cache, "good"));
        cache.wait_for_reclaim();
    }
    assert_eq!(names(scratch.path(), "objects"), ["good"]);
    assert_eq!(names(scratch.path(), "stage"), Vec::<String>::new());
    assert_eq!(names(scratch.path(), "tmp"), ["locks"]);
    assert_eq!(names(scratch.path(), "tmp/locks"), Vec::<String>::new());
}

#[test]
fn one_builds_and_the_others_wait() {
    let scratch = scratch();
    let cache = open_unlimited(scratch.path());
    let built = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = open(scratch.path());
                let _lock = cache.build_lock("a", &GO_ON).expect("lock");
                if !has(&cache, "a") {
                    built.fetch_add(1, Ordering::SeqCst);
                    keep(&cache, "a", 1000);
                }
            });
        }
    });
    assert_eq!(built.into_inner(), 1);
    let lock = cache.try_build_lock("a").expect("try").expect("free");
    let stop = AtomicBool::new(true);
    assert!(matches!(cache.build_lock("a", &stop), Err(CacheError::Interrupted)));
    drop(lock);
    assert!(cache.try_build_lock("a").expect("try").is_some());
}

#[test]
fn many_writers_and_readers_leave_exact_numbers() {
    let scratch = scratch();
    let cache = open_unlimited(scratch.path());
    keep(&cache, "seed", 50_000);
    let one = cache.size().expect("size");
    cache.set_maximum_size(MaximumSize::Bytes(5 * one)).expect("maximum");
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let directory = scratch.path();
            scope.spawn(move || {
                let cache = open(directory);
                for round in 0..25_usize {
                    let name = format!("n{}", (thread * 7 + round * 3) % 9);
                    match cache.load(&name).expect("load") {
                        Some(guard) => {
                            let length =
                                fs::metadata(guard.data().join("file")).expect("whole entries only").len();
                            assert_eq!(length, 50_000);
                        }
                        None => drop(filled(&cache, 50_000).commit(&name).expect("commit")),
                    }
                }
            });
        }
    });
    assert_eq!(cache.size().expect("size"), counted(scratch.path()));
    assert!(cache.size().expect("size") <= 5 * one);
    assert!(names(scratch.path(), "objects").iter().all(|name| !name.starts_with("uuid-")));
    assert_eq!(names(scratch.path(), "stage"), Vec::<String>::new());
}

#[test]
fn root_a_full_disk_is_an_error_and_leaves_nothing() {
    let scratch = scratch();
    let options = std::ffi::CString::new("size=1m").expect("no NUL");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("kiln-test", scratch.path(), "tmpfs", flags, Some(options.as_c_str()))
        .expect("mount");
    let directory = scratch.path().join("cache");
    let run = || {
        let cache = open_unlimited(&directory);
        keep(&cache, "good", 4096);
        let size = cache.size().expect("size");
        // Fill the disk to the last page, then try everything that writes.
        let filler = directory.join("filler");
        let written = fs::write(&filler, vec![0; 2 << 20]).expect_err("full");
        assert_eq!(written.kind(), std::io::ErrorKind::StorageFull);
        let results = [
            cache.stage().and_then(|entry| entry.commit("a").map(|_| ())),
            cache.set_maximum_size(MaximumSize::Bytes(1 << 30)),
            cache.temporary_directory("x").map(|_| ()),
        ];
        assert!(results[0].is_err() && results[1].is_err(), "{results:?}");
        assert_eq!(cache.size().expect("size"), size);
        assert!(has(&cache, "good"));
        drop(cache);
        let cache = open(&directory);
        assert_eq!(names(&directory, "objects"), ["good"]);
        assert_eq!(names(&directory, "stage"), Vec::<String>::new());
        fs::remove_file(&filler).expect("remove");
        keep(&cache, "more", 4096);
        assert_eq!(cache.size().expect("size"), counted(&directory));
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    rustix::mount::unmount(scratch.path(), rustix::mount::UnmountFlags::DETACH).expect("unmount");
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn root_a_staging_area_elsewhere_is_committed_by_copy() {
    let scratch = scratch();
    let cache = open_unlimited(scratch.path());
    let stage = scratch.path().join("stage");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("kiln-test", &stage, "tmpfs", flags, None).expect("mount");
    let entry = cache.stage().expect("stage");
    fs::write(entry.data().join("file"), "content").expect("fill");
    let outcome = entry.commit("a");
    let left = names(scratch.path(), "stage");
    rustix::mount::unmount(&stage, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    assert!(matches!(outcome, Ok(Commit::Kept(_))), "{outcome:?}");
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(fs::read_to_string(scratch.path().join("objects/a/data/file")).expect("file"), "content");
    assert_eq!(cache.size().expect("size"), counted(scratch.path()));
}

#[test]
fn root_a_mount_left_behind_neither_keeps_the_cache_closed_nor_is_removed_through() {
    let scratch = scratch();
    let cache = open(scratch.path());
    // As above: it would hold the entry's lock, or remove the entry before anything is mounted there.
    cache.wait_for_reclaim();
    let stale = scratch.path().join("stage/uuid-1");
    let mounted = stale.join("data/tree/usr");
    fs::create_dir_all(&mounted).expect("directory");
    fs::write(stale.join("object.lock"), "").expect("lock");
    let host = scratch.path().join("host");
    fs::create_dir(&host).expect("directory");
    fs::write(host.join("precious"), "x").expect("file");
    rustix::mount::mount_bind(&host, &mounted).expect("bind mount");
    let results = [cache.reclaim(), Cache::open(scratch.path(), CacheOptions::default()).map(drop), {
        drop(cache);
        Cache::open(scratch.path(), CacheOptions::default()).map(drop)
    }];
    let left = names(scratch.path(), "stage");
    rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(left, ["uuid-1"], "not moved either");
    assert!(host.join("precious").exists());
    drop(open(scratch.path()));
    assert_eq!(names(scratch.path(), "stage"), Vec::<String>::new(), "gone as soon as it can");
}
