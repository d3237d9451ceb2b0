//! The state of the cache after a burst.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_store::cache::{Cache, CacheOptions, Progress, Unchecked, verify};
use kiln_testkit::fscache::content;
use kiln_testkit::fscache::shape::{Shape, held_locks};

use super::worker::LIMITS;
use super::{Kind, Place};
use crate::error::Error;

/// The files below a cache that this process has open.
fn open_files(cache: &Path) -> Result<Vec<PathBuf>, Error> {
    let path = Path::new("/proc/self/fd");
    let listed = fs::read_dir(path).map_err(Error::file("list", path))?;
    // What has been closed meanwhile, like the descriptor of the list, leads nowhere.
    let open = listed.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Ok(open.filter(|target| target.starts_with(cache)).collect())
}

/// What this process has kept open although it has closed the cache.
pub(super) fn leaked(place: &Place) -> Result<Vec<String>, Error> {
    let open = open_files(&place.cache)?;
    Ok(open.iter().map(|path| format!("`{}` is still open", path.display())).collect())
}

/// Says what is wrong with the cache now that all workers are dead.
pub(super) fn judge(place: &Place, kind: Kind, holder: Option<&Arc<Cache>>) -> Result<Vec<String>, Error> {
    let cache = &place.cache;
    // The reference leaves half entries and wrong numbers where it is killed. Kiln does not, not for an instant.
    if kind != Kind::Mixed {
        let wrong = Shape::read(cache).map_err(Error::file("read", cache))?.wrong();
        if !wrong.is_empty() {
            return Ok(labelled("before anything was reclaimed", wrong));
        }
    }
    // With a holder nobody has the cache alone, and each of both ways to reclaim must do.
    let second = Cache::open(cache, CacheOptions::default())?;
    second.wait_for_reclaim();
    if let Some(holder) = holder {
        holder.reclaim()?;
    }
    let shape = Shape::read(cache).map_err(Error::file("read", cache))?;
    drop(second);
    let mut wrong = shape.wrong_at_rest();
    let largest = LIMITS.iter().max().copied().unwrap_or_default();
    // The reference gives back more than it has accounted when it evicts.
    if kind != Kind::Mixed && shape.size > largest {
        wrong.push(format!("{} bytes are kept, more than any limit", shape.size));
    }
    wrong.extend(entries(cache, &shape)?);
    for path in held_locks(cache).map_err(Error::file("lock", cache))? {
        if holder.is_none() || !path.ends_with("cache.lock") {
            wrong.push(format!("`{}` is locked", path.display()));
        }
    }
    let mounts = Path::new("/proc/self/mounts");
    let text = fs::read_to_string(mounts).map_err(Error::file("read", mounts))?;
    let below = cache.to_string_lossy();
    wrong.extend(text.lines().filter(|line| line.contains(&*below)).map(|line| format!("mounted: {line}")));
    // What users ask must say the same.
    let report = verify(cache, false, &Progress::default(), &AtomicBool::new(false))?;
    wrong.extend(report.findings.iter().map(|finding| format!("verified: {finding:?}")));
    if holder.is_none() && report.unchecked.contains(&Unchecked::Accounting) {
        wrong.push("the sum cannot be verified although nobody else is there".to_owned());
    }
    Ok(labelled("after reclaiming", wrong))
}

/// What is wrong with the entries: each must be whole, and be found by its name.
fn entries(cache: &Path, shape: &Shape) -> Result<Vec<String>, Error> {
    let open = Cache::open(cache, CacheOptions { reclaim: false, ..CacheOptions::default() })?;
    let mut wrong = Vec::new();
    for name in shape.named.keys() {
        match open.load(name)? {
            None => wrong.push(format!("`{name}` is there, and still a miss")),
            Some(guard) => wrong.extend(content::check(&guard.data(), name).err()),
        }
    }
    Ok(wrong)
}

fn labelled(when: &str, wrong: Vec<String>) -> Vec<String> {
    wrong.into_iter().map(|text| format!("{when}: {text}")).collect()
}
