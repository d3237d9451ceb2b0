//! What goes, what stays, and that a rehearsal changes nothing.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use tempfile::TempDir;

use super::*;
use crate::cache::{CacheOptions, Commit, Hooks, LoadGuard, OBJECT_LOCK, Point};

const HOUR: u64 = 60 * 60;

struct Scene {
    directory: TempDir,
    cache: Arc<Cache>,
}

impl Scene {
    /// Objects `a`, `c` and a download `b` between them by age; `a` is the oldest.
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(directory.path(), CacheOptions::default()).expect("opened");
        cache.set_maximum_size(MaximumSize::Unlimited).expect("set");
        let scene = Self { directory, cache };
        for (name, hours) in [("a", 90), ("c", 30)] {
            let entry = scene.cache.store().expect("an entry");
            fs::write(entry.data().join("file"), vec![1; 8192]).expect("written");
            let Commit::Kept(guard) = entry.commit(name).expect("committed") else { panic!("not kept") };
            drop(guard);
            scene.used(&scene.directory.path().join("objects").join(name).join(OBJECT_LOCK), hours);
        }
        let sources = scene.directory.path().join("sources/org.osbuild.files");
        fs::create_dir_all(&sources).expect("made");
        let download = sources.join("sha256:b");
        fs::write(&download, vec![1; 8192]).expect("written");
        File::open(&download).expect("opened").sync_all().expect("synced");
        scene.used(&download, 60);
        scene
    }

    fn used(&self, path: &Path, hours_ago: u64) {
        let time = SystemTime::now() - Duration::from_secs(hours_ago * HOUR);
        let times = FileTimes::new().set_accessed(time).set_modified(UNIX_EPOCH);
        File::open(path).expect("opened").set_times(times).expect("set");
    }

    fn load(&self, name: &str) -> LoadGuard {
        self.cache.load(name).expect("loaded").expect("there")
    }

    fn prune(&self, target: PruneTarget, dry_run: bool) -> PruneReport {
        let options = PruneOptions { target, objects: true, downloads: true, dry_run };
        self.cache.prune(&options).expect("pruned")
    }

    /// Everything that is there, and its times.
    fn picture(&self) -> Vec<(PathBuf, SystemTime, SystemTime)> {
        let mut found = Vec::new();
        let mut todo = vec![self.directory.path().to_owned()];
        while let Some(path) = todo.pop() {
            let stat = fs::symlink_metadata(&path).expect("there");
            // A rehearsal may remember what it counted.
            if path.file_name().is_some_and(|name| name == "tmp" || name == "kiln.sources") {
                continue;
            }
            // The clocks of last use; all others may show that something was read.
            let is_clock = path.ends_with(OBJECT_LOCK) || path.starts_with(self.cache.sources());
            let accessed =
                if is_clock && !stat.is_dir() { stat.accessed().expect("a time") } else { UNIX_EPOCH };
            if stat.is_dir() {
                todo.extend(fs::read_dir(&path).expect("read").map(|entry| entry.expect("an entry").path()));
            }
            if path != self.directory.path() {
                found.push((path, accessed, stat.modified().expect("a time")));
            }
        }
        found.sort();
        found
    }
}

fn names(report: &PruneReport) -> Vec<&str> {
    report.removed.iter().map(|pruned| pruned.name.as_str()).collect()
}

#[test]
fn objects_and_downloads_go_by_one_clock() {
    let scene = Scene::new();
    let before = scene.cache.size().expect("size") + scene.cache.downloads_size().expect("size");
    let object = scene.cache.size().expect("size") / 2;
    let all = ["a", "org.osbuild.files/sha256:b", "c"];
    let cases = [
        (PruneTarget::Limit, 0),
        (PruneTarget::Size(before), 0),
        (PruneTarget::Size(before - 1), 1),
        (PruneTarget::Size(object + 8192), 1),
        (PruneTarget::Size(object + 8191), 2),
        (PruneTarget::Size(0), 3),
        (PruneTarget::Unused(Duration::from_secs(100 * HOUR)), 0),
        (PruneTarget::Unused(Duration::from_secs(80 * HOUR)), 1),
        (PruneTarget::Unused(Duration::from_secs(40 * HOUR)), 2),
        (PruneTarget::All, 3),
    ];
    for (target, expected) in cases {
        let picture = scene.picture();
        let rehearsed = scene.prune(target, true);
        assert_eq!(names(&rehearsed), all[..expected], "{target:?}");
        assert_eq!((rehearsed.before, rehearsed.missing), (before, 0), "{target:?}");
        assert_eq!(scene.picture(), picture, "a rehearsal changes nothing");

        let fresh = Scene::new();
        let done = fresh.prune(target, false);
        assert_eq!(names(&done), all[..expected], "{target:?}");
        assert_eq!(done.freed, rehearsed.freed, "{target:?}");
        let after = fresh.cache.size().expect("size") + fresh.cache.downloads_size().expect("size");
        assert_eq!(after, before - done.freed, "{target:?}");
        assert_eq!(fresh.cache.load("a").expect("asked").is_none(), expected > 0, "{target:?}");
        assert_eq!(fresh.cache.list().expect("listed").len(), 3 - expected, "{target:?}");
    }
}

/// Opening a cache flushes what a killed build has committed, and holds each entry for a moment.
#[test]
fn what_opening_the_cache_has_started_is_waited_for() {
    let Scene { directory, cache } = Scene::new();
    drop(cache);
    let lock = directory.path().join("objects/a").join(OBJECT_LOCK);
    fs::set_permissions(&lock, Permissions::from_mode(0o1644)).expect("marked");
    let (held, is_held) = channel();
    let hooks = Hooks::new(move |point| {
        if point == Point::Locked && std::thread::current().name() == Some("kiln-reclaim") {
            let _ = held.send(());
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let options = CacheOptions { hooks, ..CacheOptions::default() };
    let cache = Cache::open(directory.path(), options).expect("opened");
    is_held.recv_timeout(Duration::from_secs(10)).expect("held");
    let report = Scene { directory, cache }.prune(PruneTarget::All, false);
    assert_eq!(names(&report), ["a", "org.osbuild.files/sha256:b", "c"]);
}

#[test]
fn a_cache_is_pruned_to_its_limit() {
    let scene = Scene::new();
    let object = scene.cache.size().expect("size") / 2;
    scene.cache.set_maximum_size(MaximumSize::Bytes(object)).expect("set");
    let report = scene.prune(PruneTarget::Limit, false);
    assert_eq!(names(&report), ["a", "org.osbuild.files/sha256:b"]);
    assert_eq!(report.missing, 0);
}

/// As in the reference, where the limit is about objects.
#[test]
fn a_limit_of_zero_leaves_downloads_alone() {
    let scene = Scene::new();
    scene.cache.set_maximum_size(MaximumSize::Bytes(0)).expect("set");
    let report = scene.prune(PruneTarget::Limit, false);
    assert_eq!((names(&report), report.missing), (vec!["a", "c"], 0));
    assert_eq!(scene.cache.list().expect("listed").len(), 1);
}

#[test]
fn a_cache_without_a_limit_is_not_pruned() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), CacheOptions::default()).expect("opened");
    let sources = directory.path().join("sources/org.osbuild.files");
    fs::create_dir_all(&sources).expect("made");
    fs::write(sources.join("sha256:b"), vec![1; 8192]).expect("written");
    let options = PruneOptions { target: PruneTarget::Limit, objects: true, downloads: true, dry_run: false };
    assert!(cache.prune(&options).expect("pruned").removed.is_empty());
}

#[test]
fn what_is_in_use_stays_and_is_named() {
    let scene = Scene::new();
    let held = scene.load("a");
    let linked = scene.directory.path().join("input");
    fs::hard_link(scene.directory.path().join("sources/org.osbuild.files/sha256:b"), &linked)
        .expect("linked");
    for dry_run in [true, false] {
        let report = scene.prune(PruneTarget::All, dry_run);
        assert_eq!(names(&report), ["c"]);
        let kept: Vec<_> =
            report.kept.iter().map(|(pruned, because)| (pruned.name.as_str(), *because)).collect();
        // In the order of their last use, which loading has changed.
        assert_eq!(kept, [("org.osbuild.files/sha256:b", KeptBecause::Linked), ("a", KeptBecause::InUse)]);
        assert_eq!(report.missing, report.kept.iter().map(|(kept, _)| kept.size).sum::<u64>());
    }
    drop(held);
    fs::remove_file(linked).expect("removed");
    let session = scene.cache.begin_session().expect("begun");
    let report = scene.prune(PruneTarget::All, false);
    assert_eq!(names(&report), ["a"]);
    assert!(matches!(report.kept.as_slice(), [(_, KeptBecause::Build)]), "{report:?}");
    drop(session);
    assert_eq!(names(&scene.prune(PruneTarget::All, false)), ["org.osbuild.files/sha256:b"]);
    assert_eq!(scene.cache.size().expect("size"), 0);
}

#[test]
fn only_what_is_asked_for_goes() {
    let cases = [(true, false, vec!["a", "c"]), (false, true, vec!["org.osbuild.files/sha256:b"])];
    for (objects, downloads, expected) in cases {
        let scene = Scene::new();
        let options = PruneOptions { target: PruneTarget::All, objects, downloads, dry_run: false };
        let report = scene.cache.prune(&options).expect("pruned");
        assert_eq!(names(&report), expected);
        assert_eq!(scene.cache.list().expect("listed").len(), 3 - expected.len());
    }
}
