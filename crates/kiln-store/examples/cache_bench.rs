//! What `cargo xtask bench cache` runs: does one thing in an open cache many times, and says how long that took.
//!
//! Arguments: the cache's directory, the operation, how often it is done, and a word that makes names unique. It says
//! `ready` on a line when the cache is open, waits for a byte, works, and says the nanoseconds that it took. Opening
//! and closing the cache are not counted.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kiln_store::cache::{Cache, CacheOptions, Commit, MaximumSize, PruneOptions, PruneTarget};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, operation, count, unique] = arguments.as_slice() else {
        return Err("DIRECTORY OPERATION COUNT WORD".into());
    };
    let count: u64 = count.parse()?;
    let cache = Cache::open(Path::new(directory), CacheOptions::default())?;
    cache.set_maximum_size(MaximumSize::Unlimited)?;
    if cache.load("a")?.is_none() {
        store(&cache, "a")?;
    }
    let mut stdout = std::io::stdout();
    stdout.write_all(b"ready\n")?;
    stdout.flush()?;
    std::io::stdin().read_exact(&mut [0])?;

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
    let time = started.elapsed();
    stdout.write_all(format!("{}\n", time.as_nanos()).as_bytes())?;
    Ok(())
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
