//! Every operation dies at every one of its system calls that may change anything.
//!
//! The test program starts itself as the process that is going to die. It waits, then does one thing in a cache; the
//! test stops it at each system call and kills it at the one that is due, so that the call is not made: at the first
//! one in the first run, at the second one in the second run, and so on until a run comes to its end. After each death
//! the cache must be exact as it lies there, before and after it is opened again; and the thing must then succeed.
//! Each point is tried twice: nobody else has the cache open, or somebody has had it open all the time.

mod operations;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kiln_store::cache::{Cache, CacheOptions};
use kiln_sys::trace::{Call, Tracer};
use kiln_testkit::fscache::content;
use kiln_testkit::fscache::shape::{Shape, held_locks};

use operations::{OBJECT, OPERATIONS, Operation};

const VARIABLE: &str = "KILN_STORE_CRASHPOINT";

/// So many system calls an operation has at least; fewer mean that the wrong ones were counted.
const FEWEST: usize = 8;

#[test]
#[ignore = "started by the other tests of this file"]
fn the_process_that_dies() {
    let Ok(value) = std::env::var(VARIABLE) else { return };
    let (name, directory) = value.split_once(':').expect("OPERATION:DIRECTORY");
    let operation = OPERATIONS.iter().find(|operation| operation.name == name).expect("an operation");
    let say = |text: &str| std::io::stdout().write_all(text.as_bytes()).expect("write");
    // A line, because standard output is written line by line.
    say("ready\n");
    std::io::stdin().read_exact(&mut [0]).expect("a byte to go on");
    (operation.act)(Path::new(directory));
    say("done\n");
}

/// Starts the process that dies, attached to and about to act.
fn start(operation: &Operation, directory: &Path) -> (Child, Tracer) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "crashpoint::the_process_that_dies", "--ignored", "--nocapture"])
        .env(VARIABLE, format!("{}:{}", operation.name, directory.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    let mut said = Vec::new();
    let stdout = child.stdout.as_mut().expect("stdout");
    while !said.ends_with(b"ready\n") {
        let mut byte = [0];
        assert_eq!(stdout.read(&mut byte).expect("read"), 1, "it ended: {}", String::from_utf8_lossy(&said));
        said.extend(byte);
    }
    let tracer = Tracer::attach(child.id()).expect("attach");
    child.stdin.take().expect("stdin").write_all(b"g").expect("write");
    (child, tracer)
}

/// Lets an operation die at its call of a number. None if it came to its end before.
fn die_at(operation: &Operation, directory: &Path, number: usize) -> Option<Call> {
    let (mut child, mut tracer) = start(operation, directory);
    let mut seen = 0;
    loop {
        let Some(call) = tracer.next_call().expect("a call") else {
            let mut errors = String::new();
            child.stderr.take().expect("stderr").read_to_string(&mut errors).expect("read");
            panic!("{}: it ended by itself: {errors}", operation.name);
        };
        // To die where nothing was changed since is to die at the call before.
        if call.only_looks() {
            continue;
        }
        let over = call.is_write_to(1);
        if over || seen == number {
            tracer.kill().expect("kill");
            return (!over).then_some(call);
        }
        seen += 1;
    }
}

fn open(directory: &Path, reclaim: bool) -> std::sync::Arc<Cache> {
    Cache::open(directory, CacheOptions { reclaim, ..CacheOptions::default() }).expect("open")
}

/// Checks the cache after a death.
fn recover(operation: &Operation, directory: &Path, held: bool, place: &str) {
    // Before the first file of a new cache is there, there is nothing to be right or wrong.
    if directory.join("cache.size").exists() {
        let wrong = Shape::read(directory).expect("shape").wrong();
        assert!(wrong.is_empty(), "{place}, as it lay there: {wrong:#?}");
    }
    let cache = open(directory, true);
    cache.wait_for_reclaim();
    let shape = Shape::read(directory).expect("shape");
    let wrong = shape.wrong_at_rest();
    assert!(wrong.is_empty(), "{place}, opened again: {wrong:#?}");
    for name in shape.named.keys() {
        let guard = cache.load(name).expect("load").unwrap_or_else(|| panic!("{place}: `{name}` is a miss"));
        let (data, tree) = (guard.data(), guard.data().join("tree"));
        let checked = if tree.exists() { content::check(&tree, OBJECT) } else { content::check(&data, name) };
        checked.unwrap_or_else(|text| panic!("{place}: {text}"));
    }
    for name in operation.stays {
        assert!(shape.named.contains_key(*name), "{place}: `{name}` has gone");
    }
    drop(cache);
    let locks = held_locks(directory).expect("locks");
    assert!(locks.iter().all(|path| held && path.ends_with("cache.lock")), "{place}: {locks:?}");
    (operation.act)(directory);
    let wrong = Shape::read(directory).expect("shape").wrong();
    assert!(wrong.is_empty(), "{place}, done again: {wrong:#?}");
}

/// Lets an operation die at every call of its, and says how many those are.
fn sweep(name: &str) {
    let operation = OPERATIONS.iter().find(|operation| operation.name == name).expect("an operation");
    for held in [false, true] {
        let mut number = 0;
        loop {
            let scratch = scratch();
            let directory = scratch.path().join("cache");
            (operation.given)(&directory);
            let holder = held.then(|| open(&directory, false));
            let Some(call) = die_at(operation, &directory, number) else { break };
            let place = format!(
                "{name}, {}, at call {number} ({})",
                if held { "held" } else { "alone" },
                call.number
            );
            recover(operation, &directory, held, &place);
            drop(holder);
            number += 1;
        }
        assert!(number >= FEWEST, "{name} makes {number} calls only");
        let text = format!("{name}, {}: {number} points\n", if held { "held" } else { "alone" });
        std::io::stderr().write_all(text.as_bytes()).expect("stderr");
    }
}

/// A directory in memory: flushing takes no time there.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("kiln-store-").tempdir_in(parent).expect("scratch directory")
}

/// One test for each operation, so that they run side by side.
macro_rules! sweeps {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { sweep($name); })*

        #[test]
        fn every_operation_is_swept() {
            let names: Vec<_> = OPERATIONS.iter().map(|operation| operation.name).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

sweeps! {
    opening_a_new_cache: "open new",
    opening_with_leftovers: "open with leftovers",
    opening_with_entries_not_flushed: "open unflushed",
    loading: "load",
    staging: "stage",
    committing: "commit",
    committing_flushed_before: "commit flushed",
    committing_what_exists: "commit existing",
    committing_a_copy: "commit copy",
    committing_with_eviction: "commit evicting",
    committing_another_recipe: "commit replacing",
    setting_a_limit: "set limit",
    reclaiming: "reclaim",
    pruning: "prune",
    pruning_many: "prune many",
    pruning_downloads: "prune downloads",
    making_an_object_with_a_checkpoint: "object",
    locking_a_build: "build lock",
    a_temporary_directory: "temporary directory",
}
