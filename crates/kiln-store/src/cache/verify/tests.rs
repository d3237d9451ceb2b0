//! Every kind of damage is found and repaired, and a sound cache has none.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::cache::{Commit, MaximumSize};

/// The checksum of `abc`.
const ABC: &str = "md5:900150983cd24fb0d6963f7d28e17f72";
static GO_ON: AtomicBool = AtomicBool::new(false);

/// A sound cache with an object and a download.
fn scene() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path());
    cache.set_maximum_size(MaximumSize::Unlimited).expect("set");
    let mut entry = cache.store().expect("an entry");
    entry.note("recipe", "0123abc");
    fs::create_dir(entry.data().join("tree")).expect("made");
    fs::write(entry.data().join("tree/file"), vec![1; 20_000]).expect("written");
    fs::create_dir(entry.data().join("meta")).expect("made");
    fs::write(entry.data().join("meta/info.json"), r#"{"created": 1}"#).expect("written");
    let Commit::Kept(_guard) = entry.commit("one").expect("committed") else { panic!("not kept") };
    let files = directory.path().join("sources/org.osbuild.files");
    fs::create_dir(&files).expect("made");
    fs::write(files.join(ABC), "abc").expect("written");
    let long_ago = SystemTime::now() - Duration::from_secs(1_000_000);
    let times = FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
    File::open(files.join(ABC)).expect("opened").set_times(times).expect("set");
    directory
}

fn open(directory: &Path) -> Arc<Cache> {
    let options = CacheOptions { reclaim: false, ..CacheOptions::default() };
    Cache::open(directory, options).expect("opened")
}

fn run(directory: &Path, repair: bool) -> VerifyReport {
    verify(directory, repair, &Progress::default(), &GO_ON).expect("verified")
}

/// Each finding as `path: word`.
fn found(report: &VerifyReport, directory: &Path) -> Vec<String> {
    let line = |finding: &Finding| {
        let path = finding.path.strip_prefix(directory).expect("below").display();
        format!("{path}: {}", finding.fault.word())
    };
    report.findings.iter().map(line).collect()
}

#[test]
fn a_sound_cache_is_sound_and_stays_as_it_is() {
    let scene = scene();
    let lock = scene.path().join("objects/one/object.lock");
    let used = fs::metadata(&lock).expect("there").accessed().expect("a time");
    for repair in [false, true] {
        let report = run(scene.path(), repair);
        assert_eq!(found(&report, scene.path()), [""; 0]);
        assert!(report.unchecked.is_empty(), "{report:?}");
        assert_eq!((report.objects, report.downloads, report.hashed), (1, 1, 3));
    }
    assert_eq!(fs::metadata(&lock).expect("there").accessed().expect("a time"), used);
    let download = scene.path().join("sources/org.osbuild.files").join(ABC);
    let age = fs::metadata(download).expect("there").accessed().expect("a time").elapsed().expect("past");
    assert!(age > Duration::from_secs(900_000), "hashing is no use");
}

/// What is planted, what is found, and whether a repair can make it right.
type Case = (&'static str, fn(&Path), &'static [&'static str], bool);

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(path, content).expect("written");
}

#[test]
fn each_kind_of_damage_is_found_and_repaired() {
    let cases: [Case; 27] = [
        (
            "no tag",
            |cache| fs::remove_file(cache.join("CACHEDIR.TAG")).expect("removed"),
            &["CACHEDIR.TAG: missing"],
            true,
        ),
        ("another tag", |cache| write(&cache.join("CACHEDIR.TAG"), "tag"), &["CACHEDIR.TAG: tag"], true),
        ("a foreign file", |cache| write(&cache.join("notes"), ""), &["notes: unknown"], false),
        (
            "another layout",
            |cache| write(&cache.join("cache.info"), r#"{"version": 7}"#),
            &["cache.info: version"],
            false,
        ),
        ("no JSON", |cache| write(&cache.join("cache.info"), "{"), &["cache.info: cache-info"], true),
        ("no object", |cache| write(&cache.join("cache.info"), "[]"), &["cache.info: cache-info"], true),
        ("no number", |cache| write(&cache.join("cache.size"), ""), &["cache.size: size"], true),
        ("another number", |cache| write(&cache.join("cache.size"), "7"), &["cache.size: accounting"], true),
        (
            "a dead build",
            |cache| write(&cache.join("stage/uuid-dead/data/x"), ""),
            &["stage/uuid-dead: leftover"],
            true,
        ),
        (
            "a dead commit",
            |cache| write(&cache.join("objects/uuid-dead/data/x"), ""),
            &["objects/uuid-dead: leftover"],
            true,
        ),
        (
            "a dead commit that was accounted",
            |cache| {
                write(&cache.join("objects/uuid-dead/object.info"), r#"{"size": 100}"#);
                write(&cache.join("objects/uuid-dead/object.lock"), "");
            },
            &["cache.size: accounting", "objects/uuid-dead: leftover"],
            true,
        ),
        (
            "a dead file",
            |cache| write(&cache.join("objects/uuid-file"), ""),
            &["objects/uuid-file: leftover"],
            true,
        ),
        ("a foreign stage", |cache| write(&cache.join("stage/mine/x"), ""), &["stage/mine: unknown"], false),
        (
            "dead temporary directories",
            |cache| {
                write(&cache.join("tmp/kiln-dead/x"), "");
                write(&cache.join("tmp/foreign/x"), "");
            },
            &["tmp/foreign: leftover", "tmp/kiln-dead: leftover"],
            true,
        ),
        (
            "half an object",
            |cache| fs::remove_file(cache.join("objects/one/object.info")).expect("removed"),
            &["cache.size: accounting", "objects/one: half"],
            true,
        ),
        (
            "no lock",
            |cache| fs::remove_file(cache.join("objects/one/object.lock")).expect("removed"),
            &["objects/one: no-lock"],
            true,
        ),
        (
            "no tree",
            |cache| fs::remove_dir_all(cache.join("objects/one/data")).expect("removed"),
            &["objects/one: no-tree"],
            true,
        ),
        (
            "no JSON object",
            |cache| write(&cache.join("objects/one/object.info"), "\"size\""),
            &["cache.size: accounting", "objects/one/object.info: object-info"],
            true,
        ),
        (
            "no size",
            |cache| write(&cache.join("objects/one/object.info"), "{}"),
            &["cache.size: accounting", "objects/one/object.info: no-size"],
            true,
        ),
        (
            "no recipe",
            |cache| {
                let path = cache.join("objects/one/object.info");
                let info = fs::read_to_string(&path).expect("read");
                fs::write(path, info.replace("0123abc", "soup")).expect("written");
            },
            &["objects/one/object.info: recipe"],
            true,
        ),
        (
            "another boot",
            |cache| {
                let path = cache.join("objects/one/object.info");
                let info: serde_json::Value =
                    serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
                let boot = info["creation-boot-id"].as_str().expect("an id");
                fs::write(&path, info.to_string().replace(boot, &"0".repeat(32))).expect("written");
                let lock = cache.join("objects/one/object.lock");
                fs::set_permissions(lock, Permissions::from_mode(0o1644)).expect("set");
            },
            &["objects/one: unflushed"],
            true,
        ),
        (
            "a changed tree",
            |cache| write(&cache.join("objects/one/data/tree/more"), &"x".repeat(200_000)),
            &["objects/one: changed"],
            true,
        ),
        (
            "broken metadata",
            |cache| write(&cache.join("objects/one/data/meta/info.json"), "{\"created\": 1"),
            &["objects/one/data/meta/info.json: metadata"],
            true,
        ),
        (
            "a dead journal",
            |cache| write(&cache.join("objects/one/cache.size.more"), ""),
            &["objects/one/cache.size.more: leftover"],
            true,
        ),
        (
            "another content",
            |cache| write(&cache.join("sources/org.osbuild.files").join(ABC), "abd"),
            &["sources/org.osbuild.files/md5:900150983cd24fb0d6963f7d28e17f72: checksum"],
            true,
        ),
        (
            "no download",
            |cache| write(&cache.join("sources/org.osbuild.files/sha256:12"), ""),
            &["sources/org.osbuild.files/sha256:12: download-name"],
            false,
        ),
        (
            "dead downloads",
            |cache| {
                write(&cache.join("sources/org.osbuild.files/.unverified-kiln-x/part"), "");
                write(&cache.join("sources/org.osbuild.files/tmp-download-y/part"), "");
            },
            &[
                "sources/org.osbuild.files/.unverified-kiln-x: leftover",
                "sources/org.osbuild.files/tmp-download-y: leftover",
            ],
            true,
        ),
    ];
    for (what, plant, expected, repairable) in cases {
        let scene = scene();
        plant(scene.path());
        let report = run(scene.path(), false);
        assert_eq!(found(&report, scene.path()), expected, "{what}");
        if expected != ["CACHEDIR.TAG: missing"] {
            assert!(!report.is_sound(), "{what}");
        }
        for finding in &report.findings {
            assert!(!finding.fault.to_string().is_empty() && !finding.fault.remedy().to_string().is_empty());
        }
        // Looking again finds the same, except for what opening the cache has made.
        if repairable && expected != ["CACHEDIR.TAG: missing"] {
            assert_eq!(found(&run(scene.path(), false), scene.path()), expected, "{what}");
        }
        let report = run(scene.path(), true);
        assert_eq!(report.is_sound(), repairable, "{what}: {report:?}");
        if repairable {
            let again = run(scene.path(), false);
            assert_eq!(found(&again, scene.path()), [""; 0], "{what}");
            let cache = open(scene.path());
            let removes = |line: &&str| {
                line.starts_with("objects/one") && !line.ends_with("leftover") && !line.ends_with("changed")
            };
            let removed = expected.iter().any(removes);
            assert_eq!(cache.load("one").expect("asked").is_none(), removed, "{what}");
        }
    }
}

#[test]
fn what_is_in_use_is_left_alone() {
    let scene = scene();
    let cache = open(scene.path());
    let guard = cache.load("one").expect("loaded").expect("there");
    fs::write(scene.path().join("objects/one/data/tree/more"), "x".repeat(200_000)).expect("written");
    fs::write(scene.path().join("objects/one/data/meta/info.json"), "{").expect("written");
    fs::write(scene.path().join("cache.size"), "7").expect("written");
    let filling = cache.stage().expect("staged");
    fs::create_dir_all(scene.path().join("stage/uuid-dead")).expect("made");
    let report = run(scene.path(), true);
    let outcomes: Vec<_> = report.findings.iter().map(|finding| finding.outcome).collect();
    assert_eq!(
        found(&report, scene.path()),
        ["objects/one: changed", "objects/one/data/meta/info.json: metadata", "stage/uuid-dead: leftover"]
    );
    assert_eq!(outcomes, [Repair::OthersHere, Repair::InUse, Repair::Done]);
    assert_eq!(report.unchecked, [Unchecked::Accounting]);
    assert!(!report.is_sound());
    assert!(filling.data().is_dir() && guard.data().is_dir());
    drop((guard, filling, cache));
    assert!(run(scene.path(), true).is_sound());
    assert!(run(scene.path(), false).findings.is_empty());
}

#[test]
fn content_without_checksums_is_named() {
    let scene = scene();
    fs::create_dir_all(scene.path().join("sources/org.osbuild.containers/sha256:aa/image")).expect("made");
    let report = run(scene.path(), false);
    assert!(report.findings.is_empty(), "{report:?}");
    let unchecked = Unchecked::Content { content_type: "org.osbuild.containers".to_owned(), items: 1 };
    assert_eq!((report.unchecked, report.downloads), (vec![unchecked], 2));
}

#[test]
fn every_algorithm_is_known() {
    let scene = scene();
    let files = scene.path().join("sources/org.osbuild.files");
    // Of nothing.
    let names = [
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
        "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
    ];
    for name in names {
        fs::write(files.join(name), "").expect("written");
    }
    assert_eq!(found(&run(scene.path(), false), scene.path()), [""; 0]);
    for name in names {
        fs::write(files.join(name), "x").expect("written");
    }
    let report = run(scene.path(), true);
    assert!(report.findings.iter().all(|finding| finding.fault.word() == "checksum"), "{report:?}");
    assert_eq!(report.findings.len(), names.len());
    assert_eq!(fs::read_dir(files).expect("read").count(), 1, "the sound one");
}
