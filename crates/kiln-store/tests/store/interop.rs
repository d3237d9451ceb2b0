//! One directory with the reference at the same time.
//!
//! `KILN_REFERENCE` names a checkout of the reference; without it nothing is tested here, and that is said.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use kiln_store::cache::{Cache, CacheOptions, Commit, MaximumSize};
use kiln_store::object::{ObjectStore, Outcome, StoreOptions};

use crate::common::scratch;

/// Reads lines of Python and executes them; `say(...)` answers with one line.
const LOOP: &str = "
import sys, os, json, contextlib
from osbuild.util.fscache import FsCache, FsCacheInfo
from osbuild.util import linux
def say(*what):
    print(*what, flush=True)
names = dict(globals())
for line in sys.stdin:
    exec(json.loads(line), names)
";

struct Reference {
    child: Child,
    input: ChildStdin,
    output: std::io::BufReader<ChildStdout>,
}

impl Reference {
    /// Starts the reference's module with `path` set to a cache directory.
    fn start(directory: &Path) -> Option<Self> {
        let Some(checkout) = std::env::var_os("KILN_REFERENCE").map(PathBuf::from) else {
            let text = "SKIPPED: KILN_REFERENCE is not set; nothing was checked against the reference\n";
            std::io::stderr().write_all(text.as_bytes()).expect("stderr");
            return None;
        };
        let mut child = Command::new("python3")
            .args(["-c", LOOP])
            .env("PYTHONPATH", checkout)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let input = child.stdin.take().expect("stdin");
        let output = std::io::BufReader::new(child.stdout.take().expect("stdout"));
        let mut reference = Self { child, input, output };
        let start = format!(
            "path = {:?}\ncache = FsCache('osbuild', path)\ncache.__enter__()\nsay('ready')",
            directory
        );
        assert_eq!(reference.ask(&start), "ready");
        Some(reference)
    }

    fn ask(&mut self, code: &str) -> String {
        use std::io::BufRead;
        let line = serde_json::to_string(code).expect("JSON");
        writeln!(self.input, "{line}").expect("write");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("read");
        assert!(!answer.is_empty(), "the reference has died on: {code}");
        answer.trim_end().to_owned()
    }

    fn has(&mut self, name: &str) -> bool {
        let code = format!(
            "try:\n  with cache.load({name:?}) as p: say(os.path.isdir(os.path.join(path, p)))\nexcept FsCache.MissError: say('miss')"
        );
        self.ask(&code) == "True"
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // Best effort: it may have died already, which its answers have shown.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open(directory: &Path) -> Arc<Cache> {
    let cache = Cache::open(directory, CacheOptions::default()).expect("open");
    cache.set_maximum_size(MaximumSize::Unlimited).expect("maximum");
    cache
}

fn keep(cache: &Arc<Cache>, name: &str, bytes: usize) {
    let entry = cache.stage().expect("stage");
    fs::write(entry.data().join("file"), vec![1; bytes]).expect("fill");
    let commit = entry.commit(name).expect("commit");
    assert!(matches!(commit, Commit::Kept(_)), "{name}: {commit:?}");
}

#[test]
fn each_reads_what_the_other_writes() {
    let scratch = scratch();
    let Some(mut reference) = Reference::start(scratch.path()) else { return };
    let cache = open(scratch.path());
    reference.ask("cache._load_cache_info(); say(cache.info)");
    keep(&cache, "ours", 5000);
    assert!(reference.has("ours"));
    assert!(!reference.has("none"));

    let before = cache.size().expect("size");
    let stored = reference.ask(
        "with cache.store('theirs') as p:\n  with open(os.path.join(path, p, 'file'), 'w') as f: f.write('x' * 9000)\nsay('stored')",
    );
    assert_eq!(stored, "stored");
    let guard = cache.load("theirs").expect("load").expect("there");
    assert_eq!(fs::metadata(guard.data().join("file")).expect("file").len(), 9000);
    let added = guard.info()["size"].as_u64().expect("size");
    assert_eq!(cache.size().expect("size"), before + added);
    let measured = kiln_store::tree::measure(&guard.data(), &crate::common::GO_ON).expect("measure");
    assert_eq!(measured, added, "both measure the same");

    // The boot id is the same one, and the files are what the other one would have written.
    let ours = cache.load("ours").expect("load").expect("there");
    assert_eq!(ours.info()["creation-boot-id"], guard.info()["creation-boot-id"]);
    assert_eq!(ours.info()["creation-boot-id"], reference.ask("say(cache._bootid)"));
    let text = fs::read_to_string(scratch.path().join("objects/ours/object.info")).expect("info");
    assert_eq!(reference.ask(&format!("say(json.dumps(json.loads({text:?})))")), text);
}

#[test]
fn each_respects_the_locks_of_the_other() {
    let scratch = scratch();
    let Some(mut reference) = Reference::start(scratch.path()) else { return };
    let cache = open(scratch.path());
    reference.ask("cache._load_cache_info(); say()");
    for name in ["held", "free"] {
        keep(&cache, name, 50_000);
    }
    let size = cache.size().expect("size");

    // They hold an entry, and stage one: neither is evicted nor reclaimed.
    reference.ask("es = contextlib.ExitStack(); es.enter_context(cache.load('held')); s = es.enter_context(cache.stage()); say()");
    cache.set_maximum_size(MaximumSize::Bytes(size)).expect("maximum");
    keep(&cache, "new", 50_000);
    cache.reclaim().expect("reclaim");
    let second = Cache::open(scratch.path(), CacheOptions::default()).expect("open");
    assert!(cache.load("held").expect("load").is_some());
    assert!(cache.load("free").expect("load").is_none());
    assert_eq!(reference.ask("say(os.path.isdir(os.path.join(path, s)))"), "True");
    reference.ask("es.close(); say()");
    drop(second);

    // We hold an entry and stage one: their eviction leaves it alone.
    let held = cache.load("held").expect("load").expect("there");
    let staged = cache.stage().expect("stage");
    reference.ask("cache._load_cache_info(); cache._remove_lru(10**9); say()");
    assert!(reference.has("held") && held.data().join("file").exists());
    assert!(!reference.has("new"));
    assert!(staged.data().is_dir());
    // An entry that is being written is a miss for them, and a name that is taken stays ours.
    let stored = reference.ask(
        "with cache.store('held') as p:\n  with open(os.path.join(path, p, 'file'), 'w') as f: f.write('x')\nsay('done')",
    );
    assert_eq!(stored, "done");
    assert_eq!(fs::metadata(held.data().join("file")).expect("file").len(), 50_000);
}

#[test]
fn what_a_killed_reference_leaves_is_reclaimed() {
    let scratch = scratch();
    let Some(mut reference) = Reference::start(scratch.path()) else { return };
    let cache = open(scratch.path());
    reference.ask("cache._load_cache_info(); s = cache.stage(); s.__enter__(); t = cache.store('x'); t.__enter__(); say()");
    cache.reclaim().expect("reclaim");
    assert_eq!(fs::read_dir(scratch.path().join("stage")).expect("list").count(), 1);
    drop(reference);
    cache.reclaim().expect("reclaim");
    for directory in ["stage", "objects"] {
        assert_eq!(fs::read_dir(scratch.path().join(directory)).expect("list").count(), 0, "{directory}");
    }
}

#[test]
fn objects_are_the_same_to_both() {
    let scratch = scratch();
    let Some(mut reference) = Reference::start(scratch.path()) else { return };
    let store = ObjectStore::open(scratch.path(), StoreOptions::default()).expect("open");
    store.set_maximum_size(MaximumSize::Unlimited).expect("maximum");
    let new = store.new_object("ours", None).expect("new");
    fs::write(new.tree().join("file"), "x").expect("file");
    fs::write(new.metadata_path("ours").expect("metadata"), r#"{"a": 1}"#).expect("metadata");
    let created = new.created();
    let (_, outcome) = new.finish(true).expect("finish");
    assert_eq!(outcome, Outcome::Kept);
    let read = "from osbuild.objectstore import ObjectStore\nstore = ObjectStore(path)\nstore.__enter__()\n\
                o = store.get('ours')\nsay(o.created, json.dumps(o.meta.get('ours')), os.listdir(o.tree))";
    assert_eq!(reference.ask(read), format!("{created} {{\"a\": 1}} ['file']"));

    let write = "n = store.new('theirs')\nopen(os.path.join(n.tree, 'other'), 'w').close()\n\
                 n.meta.set('theirs', [2])\nn.finalize()\nstore.commit(n, 'theirs')\nsay(n.created)";
    reference.ask(write);
    let theirs = store.get("theirs").expect("get").expect("there");
    assert!(theirs.tree().join("other").exists());
    assert_eq!(theirs.metadata("theirs").expect("metadata"), Some(serde_json::json!([2])));
    assert!(theirs.metadata("info").expect("metadata").is_some_and(|info| info["created"].is_i64()));
}
