//! What reaches the disk when, and what is not trusted after a crash of the machine.
//!
//! A crash cannot be made here; what it leaves is: an entry of another boot that still carries its mark, and a record of
//! downloads of another boot.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kiln_store::cache::{Cache, CacheOptions, Commit, Durability, MaximumSize};
use sha2::{Digest, Sha256};

use crate::common::scratch;

const OTHER_BOOT: &str = "0123456789abcdef0123456789abcdef";

fn open(directory: &Path, durability: Durability) -> Arc<Cache> {
    let options = CacheOptions { durability, ..CacheOptions::default() };
    let cache = Cache::open(directory, options).expect("open");
    cache.set_maximum_size(MaximumSize::Unlimited).expect("maximum");
    cache
}

fn keep(cache: &Arc<Cache>, name: &str) {
    let entry = cache.store().expect("entry");
    fs::write(entry.data().join("file"), name).expect("fill");
    assert!(matches!(entry.commit(name).expect("commit"), Commit::Kept(_)), "{name}");
}

fn is_marked(directory: &Path, name: &str) -> bool {
    let lock = directory.join("objects").join(name).join("object.lock");
    fs::metadata(lock).expect("lock").mode() & 0o1000 != 0
}

#[test]
fn an_entry_is_marked_until_it_was_flushed() {
    let scratch = scratch();
    let cache = open(scratch.path(), Durability::Deferred);
    keep(&cache, "a");
    assert!(is_marked(scratch.path(), "a"));
    assert!(cache.load("a").expect("load").is_some(), "in this boot it is whole");
    cache.flush().expect("flush");
    assert!(!is_marked(scratch.path(), "a"));
    keep(&cache, "b");
    drop(cache);
    assert!(!is_marked(scratch.path(), "b"), "closing flushes");

    for durability in [Durability::Before, Durability::Off] {
        let cache = open(scratch.path(), durability);
        keep(&cache, &durability.to_string());
        assert!(!is_marked(scratch.path(), &durability.to_string()), "{durability}");
        assert!(cache.load(&durability.to_string()).expect("load").is_some());
    }
}

#[test]
fn what_a_killed_run_did_not_flush_the_next_one_does() {
    let scratch = scratch();
    keep(&open(scratch.path(), Durability::Deferred), "a");
    let lock = scratch.path().join("objects/a/object.lock");
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o1644)).expect("mark");
    let cache = open(scratch.path(), Durability::Deferred);
    cache.wait_for_reclaim();
    assert!(!is_marked(scratch.path(), "a"));
    assert!(cache.load("a").expect("load").is_some());
}

/// Makes an entry look like one that was committed in another boot, and never flushed if it is marked.
fn of_another_boot(directory: &Path, name: &str, marked: bool) {
    let entry = directory.join("objects").join(name);
    let text = fs::read_to_string(entry.join("object.info")).expect("info");
    let mut info: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    info["creation-boot-id"] = OTHER_BOOT.into();
    fs::write(entry.join("object.info"), info.to_string()).expect("info");
    let mode = if marked { 0o1644 } else { 0o644 };
    fs::set_permissions(entry.join("object.lock"), fs::Permissions::from_mode(mode)).expect("mark");
}

#[test]
fn after_a_reboot_only_what_was_flushed_is_trusted() {
    let scratch = scratch();
    let cache = open(scratch.path(), Durability::Deferred);
    for name in ["flushed", "lost", "again"] {
        keep(&cache, name);
    }
    cache.flush().expect("flush");
    let size = cache.size().expect("size");
    of_another_boot(scratch.path(), "flushed", false);
    of_another_boot(scratch.path(), "lost", true);
    of_another_boot(scratch.path(), "again", true);
    // While others have the cache open, it is a miss, and a new entry takes its place.
    for (name, found) in [("flushed", true), ("lost", false), ("again", false)] {
        assert_eq!(cache.load(name).expect("load").is_some(), found, "{name}");
    }
    keep(&cache, "again");
    assert!(cache.load("again").expect("load").is_some());
    assert_eq!(cache.size().expect("size"), size, "the bytes of the old one were given back");
    drop(cache);
    // Whoever has it alone removes it.
    let cache = open(scratch.path(), Durability::Deferred);
    cache.wait_for_reclaim();
    assert!(!scratch.path().join("objects/lost").exists());
    assert!(cache.load("flushed").expect("load").is_some() && cache.load("again").expect("load").is_some());
    assert_eq!(cache.size().expect("size"), size / 3 * 2);
}

fn checksum(content: &str) -> String {
    let digest = Sha256::digest(content);
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The type of content that proves itself.
const FILES: Option<&str> = Some("org.osbuild.files");

#[test]
fn downloads_that_may_be_incomplete_are_checked_after_a_reboot() {
    let scratch = scratch();
    let at = |path: &str| scratch.path().join(path);
    let cache = open(scratch.path(), Durability::Deferred);
    keep(&cache, "a");
    let boot = cache.load("a").expect("load").expect("there").info()["creation-boot-id"].clone();
    drop(cache);
    fs::create_dir_all(at("sources/org.osbuild.files")).expect("directory");
    fs::create_dir_all(at("kiln.unflushed")).expect("directory");
    let whole = at("sources/org.osbuild.files").join(checksum("whole"));
    let torn = at("sources/org.osbuild.files").join(checksum("torn"));
    fs::write(&whole, "whole").expect("whole");

    // Records of another boot, of a time after the downloads, and of one before; of this boot, as killed runs leave them.
    let boot = boot.as_str().expect("text");
    for (records, kept) in [
        (vec![format!("{OTHER_BOOT}-9999999999-x")], true),
        (vec![format!("{OTHER_BOOT}-1-x"), format!("{OTHER_BOOT}-9999999999-y")], false),
        (vec![OTHER_BOOT.to_owned()], false),
        (vec![format!("{boot}-1-x")], true),
    ] {
        fs::write(&torn, "to").expect("torn");
        for record in &records {
            fs::write(at("kiln.unflushed").join(record), "").expect("record");
        }
        drop(open(scratch.path(), Durability::Deferred));
        let left = fs::read_dir(at("kiln.unflushed")).map_or(0, Iterator::count);
        assert_eq!((whole.exists(), torn.exists()), (true, kept), "{records:?}");
        assert_eq!(left, usize::from(records[0].starts_with(boot)), "{records:?}");
    }
}

#[test]
fn only_downloads_that_prove_nothing_are_flushed_at_the_end() {
    for (durability, expected, object, left) in [
        (Durability::Deferred, &[FILES, FILES][..], false, 1),
        (Durability::Deferred, &[FILES], true, 0),
        (Durability::Deferred, &[Some("org.osbuild.containers")], false, 0),
        (Durability::Deferred, &[FILES, None], false, 0),
        (Durability::Before, &[FILES], false, 0),
    ] {
        let scratch = scratch();
        let records = || fs::read_dir(scratch.path().join("kiln.unflushed")).map_or(0, Iterator::count);
        let cache = open(scratch.path(), durability);
        for content_type in expected {
            cache.expect_downloads(*content_type).expect("record");
        }
        assert_eq!(records(), 1, "one is enough");
        let record = fs::read_dir(scratch.path().join("kiln.unflushed")).expect("list").next();
        let modified =
            record.expect("one").expect("entry").metadata().expect("there").modified().expect("time");
        assert_eq!(modified == SystemTime::UNIX_EPOCH, left == 0 && !object, "{durability:?} {expected:?}");
        cache.flush().expect("flush");
        if object {
            keep(&cache, "a");
        }
        assert_eq!(records(), 1, "more may come");
        drop(cache);
        assert_eq!(records(), left, "{durability:?} {expected:?} {object}");
    }
    let scratch = scratch();
    open(scratch.path(), Durability::Off).expect_downloads(FILES).expect("nothing");
    assert!(!scratch.path().join("kiln.unflushed").exists());
}

#[test]
fn what_ended_runs_have_downloaded_is_flushed_with_other_things_or_when_it_is_there_anyway() {
    let scratch = scratch();
    let records = || {
        let list = fs::read_dir(scratch.path().join("kiln.unflushed")).expect("directory");
        list.map(|entry| entry.expect("entry").path()).collect::<Vec<_>>()
    };
    let download = || {
        open(scratch.path(), Durability::Deferred).expect_downloads(FILES).expect("record");
        records().len()
    };
    assert_eq!((download(), download()), (1, 2), "nobody waits for the disk");
    let living = open(scratch.path(), Durability::Deferred);
    living.expect_downloads(FILES).expect("record");
    let cache = open(scratch.path(), Durability::Deferred);
    keep(&cache, "a");
    drop(cache);
    assert_eq!(records().len(), 1, "the living one's stays");
    drop(living);

    let past = SystemTime::now() - Duration::from_secs(61);
    for (age, left) in [(None, 1), (Some(past), 0)] {
        if let Some(time) = age {
            let record = File::options().write(true).open(&records()[0]).expect("record");
            record.set_modified(time).expect("time");
        }
        let cache = open(scratch.path(), Durability::Deferred);
        cache.wait_for_reclaim();
        drop(cache);
        assert_eq!(records().len(), left, "{age:?}");
    }
}
