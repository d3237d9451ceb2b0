//! What `cargo xtask bench cache` and `trees` run: does one thing in an open cache many times, and says how long that took.
//!
//! Arguments: the cache's directory, the operation, how often it is done, and a word that makes names unique. It says
//! `ready` on a line when the cache is open, waits for a byte, works, and says the nanoseconds that it took. Opening
//! and closing the cache are not counted.
//!
//! The operations that keep a whole tree have its path as their word. They copy it into the cache first, which does not
//! count either: `commit` gives it its name, `finish` does all that finishing an object takes, and `deferred`,
//! `before` and `off` commit it and close the cache with that durability.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use kiln_store::cache::{Cache, CacheOptions, Commit, Durability, MaximumSize, PruneOptions, PruneTarget};
use kiln_store::object::{ObjectStore, Outcome, StoreOptions};
use kiln_store::tree::{self, CopyOptions};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, operation, count, unique] = arguments.as_slice() else {
        return Err("DIRECTORY OPERATION COUNT WORD".into());
    };
    let count: u64 = count.parse()?;
    if let Some(operation) = Keep::parse(operation) {
        return keep(Path::new(directory), operation, Path::new(unique));
    }
    let cache = Cache::open(Path::new(directory), CacheOptions::default())?;
    cache.set_maximum_size(MaximumSize::Unlimited)?;
    if cache.load("a")?.is_none() {
        store(&cache, "a")?;
    }
    wait()?;
    let started = Instant::now();
    for number in 0..count {
        let name = || format!("{unique}-{number}");
        match operation.as_str() {
            "load" => drop(cache.load("a")?.ok_or("a miss")?),
            "stage" => drop(cache.stage()?),
            "store" => store(&cache, &name())?,
            // What builds do side by side: look whether something is there, and make it if not.
            "mixed" => {
                drop(cache.load("a")?.ok_or("a miss")?);
                drop(cache.stage()?);
                store(&cache, &name())?;
            }
            "prune" => {
                let target = PruneTarget::Size(cache.size()? / 2);
                cache.prune(&PruneOptions { target, objects: true, downloads: true, dry_run: false })?;
            }
            other => return Err(format!("no operation `{other}`").into()),
        }
    }
    say(started)
}

/// Says that everything is ready, and waits for the byte.
fn wait() -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    stdout.write_all(b"ready\n")?;
    stdout.flush()?;
    Ok(std::io::stdin().read_exact(&mut [0])?)
}

fn say(started: Instant) -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(format!("{}\n", started.elapsed().as_nanos()).as_bytes())?)
}

/// How a whole tree is kept.
#[derive(Clone, Copy)]
enum Keep {
    Commit,
    Finish,
    Durable(Durability),
}

impl Keep {
    fn parse(operation: &str) -> Option<Self> {
        Some(match operation {
            "commit" => Self::Commit,
            "finish" => Self::Finish,
            "deferred" => Self::Durable(Durability::Deferred),
            "before" => Self::Durable(Durability::Before),
            "off" => Self::Durable(Durability::Off),
            _ => return None,
        })
    }
}

fn keep(directory: &Path, operation: Keep, tree: &Path) -> Result<(), Failure> {
    let durability = if let Keep::Durable(durability) = operation { durability } else { Durability::Off };
    let cache = CacheOptions { durability, ..CacheOptions::default() };
    let store = ObjectStore::open(directory, StoreOptions { cache, ..StoreOptions::default() })?;
    store.set_maximum_size(MaximumSize::Unlimited)?;
    wait()?;
    if matches!(operation, Keep::Finish) {
        let new = store.new_object("tree", None)?;
        tree::copy(tree, new.tree(), CopyOptions::default(), &AtomicBool::new(false))?;
        let started = Instant::now();
        let (_object, outcome) = new.finish(true)?;
        return if outcome == Outcome::Kept { say(started) } else { Err("not kept".into()) };
    }
    let entry = store.cache().stage()?;
    tree::copy(tree, &entry.data(), CopyOptions::default(), &AtomicBool::new(false))?;
    let size = tree::measure(&entry.data(), &AtomicBool::new(false))?;
    let started = Instant::now();
    let Commit::Kept(guard) = entry.commit_measured("tree", size)? else { return Err("not kept".into()) };
    if matches!(operation, Keep::Durable(_)) {
        drop((guard, store));
    }
    say(started)
}

/// Commits a new entry with one small file.
fn store(cache: &Arc<Cache>, name: &str) -> Result<(), Failure> {
    let entry = cache.store()?;
    std::fs::write(entry.data().join("file"), "x")?;
    match entry.commit(name)? {
        // Another process has made the entry that all load.
        Commit::Kept(_) | Commit::Exists(_) => Ok(()),
        Commit::Refused(_, refusal) => Err(refusal.to_string().into()),
    }
}
