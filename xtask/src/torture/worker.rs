//! The process that works in the cache until it is killed.
//!
//! It does one thing after the other without a pause, at random, and checks what it gets. Before each thing it writes
//! the thing's letter to its standard output, and a full stop after it: what is counted, and where a kill struck.
//! What must not be goes to its standard error, and it ends.

use std::fs::{self, FileTimes, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use clap::Args;
use kiln_store::cache::{
    Cache, CacheError, CacheOptions, Commit, Durability, Entry, MaximumSize, PruneOptions, PruneTarget,
};
use kiln_sys::lock::{self, Attempt, Kind};
use kiln_testkit::fscache::{Dice, content};

use crate::error::{Error, chain};

/// So many names are used: few enough that everybody meets everybody.
pub(super) const NAMES: u64 = 24;
/// The limits that are set, in bytes: room for some of the names.
pub(super) const LIMITS: [u64; 3] = [600_000, 800_000, 1_000_000];

/// So many downloads are used.
const DOWNLOADS: u64 = 12;

/// What entries are made by.
const RECIPES: [Option<&str>; 4] = [None, None, Some("one"), Some("two")];

/// The byte that says that the worker starts to work.
pub(super) const READY: u8 = b'!';
/// The byte that says that what was begun is done.
pub(super) const DONE: u8 = b'.';

/// The arguments of the worker.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The directory of the cache
    cache: PathBuf,
    /// The directory for locks that prove that only one has a build lock
    proof: PathBuf,
    /// What makes it do what it does
    seed: u64,
}

/// Works until it is killed or finds what must not be.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let mut worker = Worker { arguments, dice: Dice::new(arguments.seed), cache: None };
    say(READY).map_err(|error| Error::Found(format!("standard output: {error}")))?;
    loop {
        worker.step().map_err(|text| Error::Found(format!("worker {}: {text}", arguments.seed)))?;
    }
}

struct Worker<'a> {
    arguments: &'a Arguments,
    dice: Dice,
    cache: Option<Arc<Cache>>,
}

fn say(byte: u8) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&[byte])?;
    stdout.flush()
}

fn failed(what: &str) -> impl FnOnce(CacheError) -> String {
    move |error| format!("{what}: {}", chain(&error))
}

/// A thing that a worker does.
type Act<'a> = fn(&mut Worker<'a>, &Arc<Cache>) -> Result<(), String>;

impl<'a> Worker<'a> {
    fn step(&mut self) -> Result<(), String> {
        let (letter, act): (u8, Act<'a>) = match self.dice.below(100) {
            _ if self.cache.is_none() => (b'o', |_, _| Ok(())),
            0..25 => (b'l', Self::load),
            25..61 => (b'c', Self::commit),
            61..65 => (b'd', Self::download),
            65..72 => (b's', Self::stage),
            72..80 => (b'b', Self::build),
            80..86 => (b't', Self::temporary),
            86..90 => (b'm', Self::set_limit),
            90..94 => (b'r', |_, cache| cache.reclaim().map_err(failed("reclaim"))),
            94..96 => (b'f', Self::copy),
            96..98 => (b'p', Self::prune),
            _ => (b'O', |worker, _| {
                worker.cache = None;
                Ok(())
            }),
        };
        say(letter).map_err(|error| error.to_string())?;
        let cache = match &self.cache {
            Some(cache) => Arc::clone(cache),
            None => {
                let cache = Cache::open(&self.arguments.cache, self.options()).map_err(failed("open"))?;
                Arc::clone(self.cache.insert(cache))
            }
        };
        act(self, &cache)?;
        drop(cache);
        say(DONE).map_err(|error| error.to_string())
    }

    fn name(&mut self) -> String {
        format!("n{}", self.dice.below(NAMES))
    }

    /// Stays in the middle of something for a while, mostly not at all.
    fn linger(&mut self) {
        if self.dice.once_in(4) {
            std::thread::sleep(Duration::from_micros(self.dice.below(2000)));
        }
    }

    fn options(&mut self) -> CacheOptions {
        let durability = match self.dice.below(8) {
            0 => Durability::Before,
            1..4 => Durability::Off,
            _ => Durability::Deferred,
        };
        CacheOptions { durability, ..CacheOptions::default() }
    }

    /// What an entry was made by: something of its own, or nothing that anybody cares about.
    fn recipe(&mut self) -> Option<&'static str> {
        let index = usize::try_from(self.dice.below(RECIPES.len() as u64)).unwrap_or_default();
        RECIPES.get(index).copied().flatten()
    }

    /// Loads an entry, which must be whole, and stay so while it is held.
    fn load(&mut self, cache: &Arc<Cache>) -> Result<(), String> {
        let name = self.name();
        let wanted = self.recipe();
        let guard = match wanted {
            Some(recipe) => cache.load_made_by(&name, recipe),
            None => cache.load(&name),
        };
        let Some(guard) = guard.map_err(failed("load"))? else { return Ok(()) };
        content::check(&guard.data(), &name).map_err(|text| format!("loaded: {text}"))?;
        let made_by = content::recipe(&guard.data());
        if guard.info().get("recipe").and_then(|value| value.as_str()) != made_by.as_deref() {
            return Err(format!("`{name}` says {:?}, and its content was made by {made_by:?}", guard.info()));
        }
        if wanted.is_some() && made_by.is_some() && wanted != made_by.as_deref() {
            return Err(format!("`{name}` was made by {made_by:?}, and {wanted:?} was asked for"));
        }
        if self.dice.once_in(3) {
            self.linger();
            content::check(&guard.data(), &name).map_err(|text| format!("while held: {text}"))?;
        }
        Ok(())
    }

    fn filled(&mut self, cache: &Arc<Cache>, name: &str) -> Result<Entry, String> {
        let entry =
            if self.dice.once_in(2) { cache.stage() } else { cache.store() }.map_err(failed("entry"))?;
        content::fill(&entry.data(), name, self.dice.roll()).map_err(|error| format!("fill: {error}"))?;
        Ok(entry)
    }

    /// Makes an entry and commits it; whoever has the name must have it whole.
    fn commit(&mut self, cache: &Arc<Cache>) -> Result<(), String> {
        let name = self.name();
        let entry = self.filled(cache, &name)?;
        self.linger();
        match entry.commit(&name).map_err(failed("commit"))? {
            Commit::Kept(guard) => {
                content::check(&guard.data(), &name).map_err(|text| format!("committed: {text}"))
            }
            Commit::Exists(entry) | Commit::Refused(entry, _) => {
                content::check(&entry.data(), &name).map_err(|text| format!("not committed: {text}"))?;
                entry.discard().map_err(failed("discard"))
            }
        }
    }

    /// Makes an entry that is dropped; nobody may take it for left behind meanwhile.
    fn stage(&mut self, cache: &Arc<Cache>) -> Result<(), String> {
        let name = self.name();
        let entry = self.filled(cache, &name)?;
        self.linger();
        content::check(&entry.data(), &name).map_err(|text| format!("staged: {text}"))
    }

    /// Builds an entry alone: nobody else may have the lock, and then it is there or refused.
    fn build(&mut self, cache: &Arc<Cache>) -> Result<(), String> {
        let name = self.name();
        let lock = if self.dice.once_in(2) {
            cache.try_build_lock(&name).map_err(failed("build lock"))?
        } else {
            // Interrupted before the first pause: whoever dies in it must not keep the others.
            match cache.build_lock(&name, &AtomicBool::new(true)) {
                Ok(lock) => Some(lock),
                Err(CacheError::Interrupted) => None,
                Err(error) => return Err(failed("build lock")(error)),
            }
        };
        let Some(lock) = lock else { return Ok(()) };
        let path = self.arguments.proof.join(&name);
        let proof = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let proof = proof.map_err(|error| format!("`{}`: {error}", path.display()))?;
        if lock::try_lock(&proof, Kind::Write).map_err(|error| error.to_string())? == Attempt::Contended {
            return Err(format!("two have the build lock of `{name}`"));
        }
        if cache.load(&name).map_err(failed("load"))?.is_none() {
            self.commit(cache)?;
        }
        drop(proof);
        drop(lock);
        Ok(())
    }

    fn temporary(&mut self, cache: &Arc<Cache>) -> Result<(), String> {
        let directory = cache.temporary_directory("torture-").map_err(failed("temporary directory"))?;
        content::fill(directory.path(), "t", self.dice.roll()).map_err(|error| format!("fill: {error}"))?;
        self.linger();
        content::check(directory.path(), "t").map_err(|text| format!("temporary: {text}"))?;
        directory.close().map_err(failed("close"))
    }

    fn set_limit(&mut self, cache: &Arc<Cache>) -> Result<(), String> {
        let index = usize::try_from(self.dice.below(LIMITS.len() as u64)).unwrap_or_default();
        let maximum = LIMITS.get(index).copied().unwrap_or_default();
        cache.set_maximum_size(MaximumSize::Bytes(maximum)).map_err(failed("set limit"))
    }

    /// Uses a download as a build does: what is there once a session has begun stays until it ends.
    fn download(&mut self, cache: &Arc<Cache>) -> Result<(), String> {
        let bytes = vec![b'd'; 1000 + usize::try_from(self.dice.below(DOWNLOADS)).unwrap_or_default() * 3000];
        let directory = cache.sources().join("org.osbuild.files");
        let path = directory.join(format!("sha256:{}", content::digest(&bytes)));
        let at = |error: std::io::Error| format!("`{}`: {error}", path.display());
        let session = cache.begin_session().map_err(failed("session"))?;
        if !path.exists() {
            fs::create_dir_all(&directory).map_err(at)?;
            let unnamed = self.arguments.proof.join(format!("download-{}", self.dice.roll()));
            let file = fs::File::create(&unnamed).map_err(at)?;
            (&file).write_all(&bytes).map_err(at)?;
            // Not used for long, so that it may be evicted as soon as the session ends.
            let old = SystemTime::now() - Duration::from_secs(1_000_000);
            file.set_times(FileTimes::new().set_accessed(old).set_modified(old)).map_err(at)?;
            fs::rename(&unnamed, &path).map_err(at)?;
        }
        session.uses([path.clone()]).map_err(failed("uses"))?;
        self.linger();
        if fs::read(&path).map_err(at)? != bytes {
            return Err(format!("`{}` has other content", path.display()));
        }
        Ok(())
    }

    fn prune(&mut self, cache: &Arc<Cache>) -> Result<(), String> {
        let target = match self.dice.below(3) {
            0 => PruneTarget::Unused(Duration::from_millis(20)),
            _ => PruneTarget::Size(self.dice.below(LIMITS[0])),
        };
        let options = PruneOptions { target, objects: true, downloads: true, dry_run: false };
        cache.prune(&options).map(|_| ()).map_err(failed("prune"))
    }

    /// Starts from a copy of an entry, as a build does that goes on from a checkpoint.
    fn copy(&mut self, cache: &Arc<Cache>) -> Result<(), String> {
        let name = self.name();
        let Some(guard) = cache.load(&name).map_err(failed("load"))? else { return Ok(()) };
        let entry = cache.stage().map_err(failed("stage"))?;
        entry
            .fill_from(&guard.data(), &AtomicBool::new(false))
            .map_err(|error| format!("copy: {}", chain(&error)))?;
        content::check(&entry.data(), &name).map_err(|text| format!("copied: {text}"))
    }
}
