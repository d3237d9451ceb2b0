//! What lies in a cache directory, and what of it must not lie there.
//!
//! The size that is accounted must be the sum of what the entries say, those of dead processes included: an entry
//! without a name counts by how far it got. What makes that exact at every instant is told in `kiln-store`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kiln_sys::lock::{self, Attempt, Kind};
use rustix::fs::OFlags;
use serde_json::Value;

const INFO: &str = "object.info";
const LOCK: &str = "object.lock";
const DATA: &str = "data";
/// A prepared `cache.size` with more in it: the entry is not accounted before it has been moved away.
const MORE: &str = "cache.size.more";
/// A prepared `cache.size` with less in it: the entry is accounted until it has been moved away.
const LESS: &str = "cache.size.less";
/// What `object.info` is called when its bytes are about to be given back.
const GONE: &str = "object.gone";
/// Marks an entry without a name that holds evicted ones.
const GRAVE: &str = "object.grave";

/// What a cache directory consists of.
const TOP: &[&str] = &[
    "CACHEDIR.TAG",
    "cache.info",
    "cache.lock",
    "cache.size",
    "kiln.count",
    "kiln.sources",
    "objects",
    "sources",
    "stage",
    "tmp",
];

/// What lies in a cache directory while nobody changes it.
#[derive(Debug, Default)]
pub struct Shape {
    /// What `cache.size` says.
    pub size: u64,
    /// The limit that `cache.info` says; none if there is none.
    pub maximum: Option<u64>,
    /// The committed entries and the bytes each says it takes.
    pub named: BTreeMap<String, u64>,
    /// What lies below `objects` without a name and below `stage`, and the bytes it is accounted with.
    pub anonymous: BTreeMap<String, u64>,
    /// What lies below `tmp`, the directory of the build locks and what is in it left out.
    pub temporary: Vec<String>,
    /// What is wrong whatever anybody does.
    pub faults: Vec<String>,
}

impl Shape {
    /// Looks at a cache directory, and changes nothing in it.
    pub fn read(cache: &Path) -> io::Result<Self> {
        let mut shape = Self { size: number(&cache.join("cache.size"))?, ..Self::default() };
        let info: Value = serde_json::from_slice(&fs::read(cache.join("cache.info"))?)?;
        shape.maximum = match &info["maximum-size"] {
            Value::Null => Some(0),
            other => other.as_u64(),
        };
        for name in names(cache)? {
            if !TOP.contains(&name.as_str()) {
                shape.faults.push(format!("`{name}` in the cache directory"));
            }
        }
        for name in names(&cache.join("stage"))? {
            let bytes = accounted(&cache.join("stage").join(&name))?;
            shape.anonymous.insert(format!("stage/{name}"), bytes);
        }
        shape.temporary = names(&cache.join("tmp"))?;
        shape.temporary.retain(|name| name != "locks");
        for name in names(&cache.join("objects"))? {
            let path = cache.join("objects").join(&name);
            if name.starts_with("uuid-") {
                shape.anonymous.insert(format!("objects/{name}"), accounted(&path)?);
            } else {
                match whole(&path) {
                    Ok(size) => {
                        shape.named.insert(name, size);
                    }
                    Err(fault) => shape.faults.push(format!("`objects/{name}` {fault}")),
                }
            }
        }
        Ok(shape)
    }

    /// The bytes that `cache.size` must say.
    pub fn accounted(&self) -> u64 {
        self.named.values().chain(self.anonymous.values()).sum()
    }

    /// What is wrong at any time: half an entry under a name, foreign files, a size that is not exact.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = self.faults.clone();
        if self.size != self.accounted() {
            wrong.push(format!(
                "`cache.size` says {}, but {} bytes are accounted: by name {}, without {:?}",
                self.size,
                self.accounted(),
                self.named.values().sum::<u64>(),
                self.anonymous
            ));
        }
        wrong
    }

    /// What is wrong when nobody works in the cache and what the dead left has been removed.
    pub fn wrong_at_rest(&self) -> Vec<String> {
        let mut wrong = self.wrong();
        wrong.extend(self.anonymous.keys().map(|path| format!("`{path}` was left")));
        wrong.extend(self.temporary.iter().map(|name| format!("`tmp/{name}` was left")));
        wrong
    }
}

/// The locks below a cache directory that somebody holds: files that cannot be write-locked.
pub fn held_locks(cache: &Path) -> io::Result<Vec<PathBuf>> {
    let mut candidates = vec![cache.join("cache.lock"), cache.join("cache.info"), cache.join("cache.size")];
    for name in names(&cache.join("objects"))? {
        candidates.push(cache.join("objects").join(name).join(LOCK));
    }
    let locks = cache.join("tmp/locks");
    if locks.exists() {
        candidates.extend(names(&locks)?.iter().map(|name| locks.join(name)));
    }
    let mut held = Vec::new();
    for path in candidates {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).custom_flags(OFlags::NOATIME.bits() as i32);
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if lock::try_lock(&file, Kind::Write)? == Attempt::Contended {
            held.push(path);
        }
    }
    Ok(held)
}

/// The size of a committed entry, or what it lacks.
fn whole(entry: &Path) -> Result<u64, String> {
    let mut found = names(entry).map_err(|error| format!("cannot be listed: {error}"))?;
    found.sort();
    if found != [DATA, INFO, LOCK] {
        return Err(format!("holds {found:?}"));
    }
    let mode = fs::symlink_metadata(entry.join(LOCK)).map_err(|error| error.to_string())?.mode();
    // The sticky bit says that the content may not be on disk yet.
    if mode & !0o1000 != 0o100_644 {
        return Err(format!("has a lock file of mode {mode:o}"));
    }
    let info = info(&entry.join(INFO)).map_err(|error| format!("`{INFO}` is not whole: {error}"))?;
    info["size"].as_u64().ok_or_else(|| format!("says no size: {info}"))
}

/// The bytes that an entry without a name is accounted with, whoever died at whatever point.
fn accounted(entry: &Path) -> io::Result<u64> {
    let has = |name: &str| entry.join(name).exists();
    if !fs::symlink_metadata(entry)?.is_dir() {
        return Ok(0);
    }
    let gone = has(GONE);
    if has(GRAVE) {
        return if gone && !has(LESS) { Ok(0) } else { graves(entry) };
    }
    Ok(match (has(INFO), gone) {
        (true, _) if has(MORE) => 0,
        // Half an `object.info` is no such: it is written before the accounting.
        (true, _) => info(&entry.join(INFO)).ok().and_then(|info| info["size"].as_u64()).unwrap_or(0),
        (false, true) if has(LESS) => info(&entry.join(GONE))?["size"].as_u64().unwrap_or(0),
        (false, _) => 0,
    })
}

/// The bytes of the evicted entries in a grave.
fn graves(grave: &Path) -> io::Result<u64> {
    let data = grave.join(DATA);
    let mut sum = 0;
    // Without content there is nothing left to be accounted.
    let victims = if data.exists() { names(&data)? } else { Vec::new() };
    for name in victims {
        sum += info(&data.join(name).join(INFO)).ok().and_then(|info| info["size"].as_u64()).unwrap_or(0);
    }
    Ok(sum)
}

fn info(path: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn number(path: &Path) -> io::Result<u64> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
