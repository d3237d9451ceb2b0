//! What is counted, remembered, protected and evicted.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::cache::CacheOptions;

const DAY: u64 = 24 * 60 * 60;
/// A page is the least that a file system with blocks takes.
const PAGE: u64 = 4096;

struct Scene {
    directory: TempDir,
    cache: Arc<Cache>,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = open(directory.path());
        // What it reclaims when it opens must not be what a test makes and reclaims itself.
        cache.wait_for_reclaim();
        Self { directory, cache }
    }

    fn content(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join("sources").join(FILES);
        fs::create_dir_all(&path).expect("made");
        path.join(name)
    }

    /// Makes a download of some pages that was last used so many seconds ago.
    fn download(&self, name: &str, pages: u64, ago: u64) -> PathBuf {
        let path = self.content(name);
        let length = usize::try_from(pages * PAGE).expect("small");
        fs::write(&path, vec![1; length]).expect("written");
        // So that no file system allocates later.
        File::open(&path).expect("opened").sync_all().expect("synced");
        used(&path, ago);
        path
    }

    /// Puts the time of the content directory back, so that what is counted can be remembered.
    fn settle(&self, ago: u64) {
        let time = SystemTime::now() - Duration::from_secs(ago);
        let directory = File::open(self.content("")).expect("opened");
        directory.set_times(FileTimes::new().set_modified(time)).expect("set");
    }

    /// Evicts what was used least recently until so many bytes are freed, if there are as many.
    fn evict(&self, bytes: u64) -> u64 {
        let mut downloads = self.cache.list_downloads().expect("listed");
        downloads.sort_unstable();
        let evictor = self.cache.evictor().expect("the right");
        let mut freed = 0;
        for download in &downloads {
            if freed < bytes {
                freed += evictor.evict(download).expect("evicted").unwrap_or(0);
            }
        }
        freed
    }

    fn record(&self) -> Option<String> {
        fs::read_to_string(self.directory.path().join(COUNTED)).ok()
    }
}

fn open(directory: &Path) -> Arc<Cache> {
    Cache::open(directory, CacheOptions::default()).expect("opened")
}

fn used(path: &Path, ago: u64) {
    let time = SystemTime::now() - Duration::from_secs(ago);
    let times = FileTimes::new().set_accessed(time).set_modified(SystemTime::UNIX_EPOCH);
    File::open(path).expect("opened").set_times(times).expect("set");
}

#[test]
fn everything_whole_is_counted() {
    let scene = Scene::new();
    assert_eq!(scene.cache.downloads().expect("counted"), Downloads::default());
    scene.download("sha256:aa", 1, 5);
    scene.download("sha256:bb", 3, 5);
    fs::create_dir(scene.content(".unverified-kiln-x")).expect("made");
    fs::write(scene.content(".unverified-kiln-x/part"), [1; 9000]).expect("written");
    fs::write(scene.content("tmp-download-y"), [1; 9000]).expect("written");
    assert_eq!(scene.cache.downloads().expect("counted"), Downloads { bytes: 4 * PAGE, files: 2 });
    let container = scene.directory.path().join("sources/org.osbuild.containers/sha256:cc");
    fs::create_dir_all(&container).expect("made");
    fs::write(container.join("image"), vec![1; 8192]).expect("written");
    let downloads = scene.cache.downloads().expect("counted");
    assert_eq!(downloads.files, 3);
    assert!(downloads.bytes >= 6 * PAGE, "{downloads:?}");
}

#[test]
fn what_has_arrived_of_a_file_counts_until_nobody_goes_on() {
    let scene = Scene::new();
    scene.download("sha256:aa", 1, 5);
    let young = scene.download(".partial-kiln-sha256:bb", 2, 6 * DAY);
    let busy = scene.download(".partial-kiln-sha256:cc", 4, 8 * DAY);
    let stale = scene.download(".partial-kiln-sha256:dd", 8, 8 * DAY);
    scene.settle(10);
    let lock = File::open(&busy).expect("opened");
    lock.lock().expect("locked");
    assert_eq!(scene.cache.downloads().expect("counted"), Downloads { bytes: 15 * PAGE, files: 4 });
    assert_eq!(scene.record(), None, "it grows without its directory changing");
    assert_eq!(scene.cache.reclaim_downloads(true).expect("reclaimed"), 8 * PAGE);
    assert!(young.exists() && busy.exists() && !stale.exists());

    // Somebody else has the cache open: a download would be too young.
    let _other = open(scene.directory.path());
    fs::write(&young, vec![1; 8192]).expect("written");
    assert_eq!(scene.evict(u64::MAX), 2 * PAGE);
    assert!(!young.exists() && busy.exists());
    drop(lock);
    assert_eq!(scene.evict(u64::MAX), 4 * PAGE);
    assert!(scene.content("sha256:aa").exists());
}

#[test]
fn what_was_counted_is_remembered_until_something_changes() {
    let scene = Scene::new();
    scene.download("sha256:aa", 1, 5);
    assert_eq!(scene.cache.downloads_size().expect("counted"), PAGE);
    assert_eq!(scene.record(), None, "it may have changed in the same tick");
    scene.settle(10);
    assert_eq!(scene.cache.downloads_size().expect("counted"), PAGE);
    let record = scene.record().expect("remembered");
    assert!(record.starts_with(r#"{"directories":{"org.osbuild.files":{"modified":""#), "{record}");

    // Only the record can say this.
    let changed = record.replace("\"bytes\":4096", "\"bytes\":77");
    fs::write(scene.directory.path().join(COUNTED), &changed).expect("written");
    assert_eq!(scene.cache.downloads_size().expect("counted"), 77);

    scene.download("sha256:bb", 1, 5);
    assert_eq!(scene.cache.downloads_size().expect("counted"), 2 * PAGE, "counted again");
    scene.settle(8);
    assert_eq!(scene.cache.downloads_size().expect("counted"), 2 * PAGE);
    fs::remove_file(scene.content("sha256:aa")).expect("removed");
    assert_eq!(scene.cache.downloads_size().expect("counted"), PAGE, "counted again");
    for nonsense in ["", "[", "{}", r#"{"directories": 3}"#] {
        fs::write(scene.directory.path().join(COUNTED), nonsense).expect("written");
        assert_eq!(scene.cache.downloads_size().expect("counted"), PAGE, "{nonsense}");
    }
}

#[test]
fn changes_deep_in_a_tree_are_seen() {
    let scene = Scene::new();
    let deep = scene.directory.path().join("sources/org.osbuild.ostree/repo/objects/ab");
    fs::create_dir_all(&deep).expect("made");
    let long_ago = SystemTime::now() - Duration::from_secs(100);
    let mut path = deep.clone();
    while !path.ends_with("sources") {
        File::open(&path).expect("opened").set_modified(long_ago).expect("set");
        path.pop();
    }
    let before = scene.cache.downloads_size().expect("counted");
    assert!(scene.record().is_some_and(|record| record.contains("org.osbuild.ostree")));
    fs::write(deep.join("object"), vec![1; 8192]).expect("written");
    assert!(scene.cache.downloads_size().expect("counted") >= before + 2 * PAGE);
}

#[test]
fn the_least_recently_used_goes_first_and_no_more_than_needed() {
    let scene = Scene::new();
    let newest = scene.download("sha256:aa", 1, 2 * DAY);
    let oldest = scene.download("sha256:bb", 1, 9 * DAY);
    let middle = scene.download("sha256:cc", 1, 5 * DAY);
    assert_eq!(scene.evict(PAGE + 1), 2 * PAGE);
    assert!(newest.exists() && !oldest.exists() && !middle.exists());
    assert_eq!(scene.evict(u64::MAX), PAGE);
    assert_eq!(scene.cache.downloads_size().expect("counted"), 0);
}

#[test]
fn what_was_used_lately_stays_while_others_have_the_cache_open() {
    let scene = Scene::new();
    let young = scene.download("sha256:aa", 1, DAY / 2);
    let old = scene.download("sha256:bb", 1, 2 * DAY);
    let tree = scene.directory.path().join("sources/org.osbuild.containers/sha256:cc");
    fs::create_dir_all(tree.join("image")).expect("made");
    used(&tree, 9 * DAY);
    let other = open(scene.directory.path());
    scene.evict(u64::MAX);
    assert!(young.exists() && tree.exists() && !old.exists());
    drop(other);
    scene.evict(u64::MAX);
    assert!(!young.exists() && !tree.exists());
    // The lock is shared again.
    open(scene.directory.path());
}

#[test]
fn sessions_protect_what_they_use() {
    let scene = Scene::new();
    let needed = scene.download("sha256:aa", 1, 9 * DAY);
    let other = scene.download("sha256:bb", 1, 9 * DAY);
    let linked = scene.download("sha256:cc", 1, 9 * DAY);
    fs::hard_link(&linked, scene.directory.path().join("input")).expect("linked");
    let session = scene.cache.begin_session().expect("begun");
    assert_eq!(scene.evict(u64::MAX), 0, "it is still looking");
    session.uses([needed.clone(), scene.content("sha256:missing")]).expect("marked");
    assert_eq!(scene.evict(u64::MAX), PAGE);
    assert!(needed.exists() && !other.exists() && linked.exists());
    // What arrives during the session is used by it.
    let arrived = scene.download("sha256:dd", 1, 0);
    assert_eq!(scene.evict(u64::MAX), 0);
    drop(session);
    fs::remove_file(scene.directory.path().join("input")).expect("removed");
    assert_eq!(scene.evict(u64::MAX), 3 * PAGE);
    assert!(!arrived.exists());
}

#[test]
fn dead_sessions_protect_nothing() {
    let scene = Scene::new();
    scene.download("sha256:aa", 1, 9 * DAY);
    fs::create_dir(scene.directory.path().join("tmp/kiln-session-dead")).expect("made");
    assert_eq!(scene.evict(u64::MAX), PAGE);
}

#[test]
fn unfinished_content_is_reclaimed_when_nobody_fills_it() {
    let scene = Scene::new();
    let dead = scene.content(".unverified-kiln-dead");
    let live = scene.content(".unverified-kiln-live");
    let foreign = [".unverified-abc", "osbuild-unverified-file-abc", "tmp-download-abc"];
    for path in [&dead, &live] {
        fs::create_dir(path).expect("made");
        fs::write(path.join("part"), vec![1; 8192]).expect("written");
    }
    for name in foreign {
        fs::create_dir(scene.content(name)).expect("made");
    }
    let lock = File::open(&live).expect("opened");
    lock.lock().expect("locked");
    let whole = scene.download("sha256:aa", 1, 9 * DAY);
    assert!(scene.cache.reclaim_downloads(false).expect("reclaimed") >= 2 * PAGE);
    assert!(!dead.exists() && live.exists() && whole.exists());
    assert!(foreign.iter().all(|name| scene.content(name).exists()), "others have no locks");
    scene.cache.reclaim_downloads(true).expect("reclaimed");
    assert!(live.exists() && whole.exists());
    assert!(foreign.iter().all(|name| !scene.content(name).exists()));
}

/// Whether somebody waits for the lock (`flock`) of a file.
fn is_waited_for(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = format!(":{} ", fs::metadata(path).expect("there").ino());
    let locks = fs::read_to_string("/proc/locks").expect("read");
    locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&inode))
}

#[test]
fn no_session_begins_in_the_middle_of_an_eviction() {
    let scene = Scene::new();
    scene.download("sha256:aa", 1, 9 * DAY);
    let sessions = || {
        let list = fs::read_dir(scene.directory.path().join("tmp")).expect("read");
        list.filter(|entry| {
            let name = entry.as_ref().expect("an entry").file_name();
            name.to_string_lossy().starts_with("kiln-session-")
        })
        .count()
    };
    let evictor = scene.cache.evictor().expect("the right");
    std::thread::scope(|scope| {
        let begun = scope.spawn(|| scene.cache.begin_session().expect("begun"));
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !is_waited_for(&scene.cache.sources()) {
            assert!(std::time::Instant::now() < deadline, "it does not wait");
            std::thread::yield_now();
        }
        assert_eq!(sessions(), 0);
        let [download] = scene.cache.list_downloads().expect("listed").try_into().expect("one");
        assert_eq!(evictor.evict(&download).expect("evicted"), Some(PAGE));
        drop(evictor);
        let session = begun.join().expect("no panic");
        assert_eq!(sessions(), 1);
        drop(session);
    });
}
