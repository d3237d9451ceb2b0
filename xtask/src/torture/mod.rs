//! `cargo xtask torture`: many processes in one cache directory, killed wherever they are.
//!
//! The run is a row of bursts. In a burst some slots each start a worker, let it work for some microseconds up to some
//! tens of milliseconds, kill it with SIGKILL, and start the next one. After a burst nobody works any more, and the
//! cache must be what it was promised to be. Three kinds of bursts take turns:
//!
//! - *held*: Kiln only, while this process keeps the cache open: nobody ever has the cache alone;
//! - *free*: Kiln only, and whoever opens the cache first has it alone;
//! - *mixed*: half of the workers are the reference's own module, which leaves wrong numbers where it is killed:
//!   everything must be exact once Kiln had the cache alone.
//!
//! The reference is an osbuild checkout: `--reference DIRECTORY` or `KILN_REFERENCE`; without one no burst is mixed,
//! and that is said. What the workers do depends on the seed; where they are killed depends on the machine, too.

mod burst;
mod judge;
mod process;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use kiln_store::cache::{Cache, CacheOptions, MaximumSize};
use kiln_testkit::fscache::Dice;

use crate::error::Error;
use crate::text;
use burst::Tally;
use process::{Nursery, Reference};
pub(crate) use worker::Arguments as WorkerArguments;

/// How long a burst lasts, in milliseconds: the shortest and the longest.
const BURST: (u64, u64) = (150, 1200);
/// How many findings of one burst are printed.
const SHOWN: usize = 10;

/// The arguments of the verb.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How long to go on
    #[arg(long, default_value_t = 2.0, value_name = "N")]
    minutes: f64,
    /// How many processes work at the same time
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    processes: u32,
    /// A checkout of osbuild whose cache module works in the same directory, by default `KILN_REFERENCE`
    #[arg(long, value_name = "DIRECTORY")]
    reference: Option<PathBuf>,
    /// What decides what the processes do, random by default
    #[arg(long)]
    seed: Option<u64>,
    /// Where the cache is made, a temporary directory by default; it must be empty or not be there
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// The one kind of bursts to run, all in turns by default
    #[arg(long, value_enum, value_name = "KIND")]
    only: Option<Kind>,
}

/// Which workers take part in a burst, and who else has the cache open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Kiln only, while the cache is kept open
    Held,
    /// Kiln only
    Free,
    /// Kiln and the reference
    Mixed,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Free => "free",
            Self::Mixed => "mixed",
        }
    }
}

/// Where a run takes place.
struct Place {
    /// The cache.
    cache: PathBuf,
    /// Locks outside the cache, which prove that a build lock excludes.
    proof: PathBuf,
}

/// Works until it is killed or finds what must not be.
pub(crate) fn work(arguments: &WorkerArguments) -> Result<(), Error> {
    worker::run(arguments)
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let seed = arguments.seed.unwrap_or_else(random);
    let from_environment = || std::env::var_os("KILN_REFERENCE").map(PathBuf::from);
    let reference = match arguments.reference.clone().or_else(from_environment) {
        Some(checkout) => Some(Reference::new(checkout)?),
        None => {
            eprintln!(
                "SKIPPED: no checkout of the reference (--reference or KILN_REFERENCE): Kiln works alone"
            );
            None
        }
    };
    let temporary = tempfile::Builder::new()
        .prefix("kiln-torture-")
        .tempdir()
        .map_err(Error::file("create", Path::new("a temporary directory")))?;
    let top = arguments.directory.clone().unwrap_or_else(|| temporary.path().to_owned());
    let place = Place { cache: top.join("cache"), proof: top.join("proof") };
    std::fs::create_dir_all(&place.proof).map_err(Error::file("create", &place.proof))?;
    println!("seed {seed}, {} processes, in `{}`", arguments.processes, place.cache.display());

    let until = Instant::now() + Duration::try_from_secs_f64(arguments.minutes * 60.0).unwrap_or_default();
    let mut total = Tally::default();
    let nursery = Nursery::default();
    let found = std::thread::scope(|scope| {
        if let Some(reference) = &reference {
            scope.spawn(|| nursery.raise(reference, &place));
        }
        let found =
            bursts(arguments, &place, reference.is_some().then_some(&nursery), seed, until, &mut total);
        nursery.close();
        found
    })?;
    total.print();
    if found.is_empty() {
        println!("nothing was found");
        return Ok(());
    }
    // What was found is worth a look.
    let kept = if arguments.directory.is_none() { temporary.keep() } else { top };
    for text in found.iter().take(SHOWN) {
        println!("FOUND: {text}");
    }
    let (count, kept) = (found.len(), kept.display());
    Err(Error::Found(format!("{count} findings with seed {seed}; the cache is left in `{kept}`")))
}

/// Runs bursts until the time is over or something is found.
fn bursts(
    arguments: &Arguments,
    place: &Place,
    nursery: Option<&Nursery>,
    seed: u64,
    until: Instant,
    total: &mut Tally,
) -> Result<Vec<String>, Error> {
    let mut dice = Dice::new(seed);
    let open = || Cache::open(&place.cache, CacheOptions::default());
    let [maximum, ..] = worker::LIMITS;
    open().and_then(|cache| cache.set_maximum_size(MaximumSize::Bytes(maximum)))?;
    let mut number = 0;
    while number == 0 || Instant::now() < until {
        let kind = match (arguments.only, dice.below(if nursery.is_some() { 4 } else { 2 })) {
            (Some(kind), _) => kind,
            (None, 0) => Kind::Held,
            (None, 1) => Kind::Free,
            (None, _) => Kind::Mixed,
        };
        let length = Duration::from_millis(BURST.0 + dice.below(BURST.1 - BURST.0));
        let started = Instant::now();
        let holder: Option<Arc<Cache>> = if kind == Kind::Held { Some(open()?) } else { None };
        if let Some(holder) = &holder {
            holder.wait_for_reclaim();
        }
        let references = if kind == Kind::Mixed { nursery } else { None };
        let tally = burst::run(place, arguments.processes, references, length, &mut dice)?;
        let mut found = tally.found.clone();
        if found.is_empty() {
            // No process may be on its way from fork to exec, with a copy of each lock.
            let _quiet = nursery.map(Nursery::quiet);
            found = judge::judge(place, kind, holder.as_ref())?;
            drop(holder);
            found.extend(judge::leaked(place)?);
        }
        number += 1;
        eprintln!(
            "{number:>4} {:<5} {:>5} kills, {:>6} operations, {:>8}: {}",
            kind.name(),
            tally.kills(),
            tally.operations(),
            text::duration(started.elapsed()),
            if found.is_empty() { "as it must be" } else { "FOUND" }
        );
        total.add(&tally);
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
