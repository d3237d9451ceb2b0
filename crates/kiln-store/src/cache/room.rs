//! Room on the disk: a part of the file system that stays free, whatever the cache's limit is.
//!
//! A full disk is everybody's trouble, so it is asked before something large is written, and what was not used for
//! longest is evicted first. What others write meanwhile is not foreseen.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::inspect::Place;
use super::{Cache, CacheError};

/// There is too little room on the file system of the cache, and nothing more to evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFull {
    /// The bytes that are free.
    pub free: u64,
    /// The bytes that have to stay free.
    pub minimum: u64,
    /// The bytes that are about to be written, as far as that is known.
    pub wanted: u64,
}

impl fmt::Display for DiskFull {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes are free on the file system of the cache", self.free)?;
        if self.wanted > 0 {
            write!(formatter, ", {} are to be written", self.wanted)?;
        }
        write!(formatter, ", and {} have to stay free", self.minimum)
    }
}

impl Cache {
    /// Sets how many bytes of the file system have to stay free while this is open; none unless this is called.
    pub fn set_minimum_free(&self, bytes: u64) {
        self.minimum_free.store(bytes, Ordering::Relaxed);
    }

    /// Makes sure that so many bytes can be written, and evicts for that what was not used for longest. Nothing is
    /// asked for unless something has to stay free.
    pub fn make_free(self: &Arc<Self>, wanted: u64) -> Result<Option<DiskFull>, CacheError> {
        let minimum = self.minimum_free.load(Ordering::Relaxed);
        if minimum == 0 {
            return Ok(None);
        }
        let needed = minimum.saturating_add(wanted);
        loop {
            let free = Place::room(self.directory())?.free;
            let missing = needed.saturating_sub(free);
            if missing == 0 {
                return Ok(None);
            }
            // At worst until there is nothing left to evict: what is evicted may share its blocks with what stays.
            if self.make_room(missing)? == 0 {
                return Ok(Some(DiskFull { free, minimum, wanted }));
            }
            // Some file systems show what was freed only when it is written down.
            self.root.flush()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::cache::{CacheOptions, Commit, MaximumSize, Refusal};

    fn keep(cache: &Arc<Cache>, name: &str) -> Commit {
        let entry = cache.store().expect("an entry");
        fs::write(entry.data().join("file"), vec![1; 100_000]).expect("written");
        entry.commit(name).expect("committed")
    }

    fn open(directory: &Path) -> Arc<Cache> {
        let cache = Cache::open(directory, CacheOptions::default()).expect("opened");
        cache.set_maximum_size(MaximumSize::Unlimited).expect("set");
        cache
    }

    #[test]
    fn what_must_stay_free_stays_free() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = open(directory.path());
        let Commit::Kept(held) = keep(&cache, "held") else { panic!("not kept") };
        drop(keep(&cache, "idle"));
        assert_eq!(cache.make_free(u64::MAX / 2).expect("asked"), None, "nothing has to stay free");

        // More than any disk has.
        cache.set_minimum_free(u64::MAX / 2);
        let full = cache.make_free(7).expect("asked").expect("full");
        assert_eq!((full.minimum, full.wanted), (u64::MAX / 2, 7));
        let free = full.free;
        assert_eq!(
            full.to_string(),
            format!(
                "{free} bytes are free on the file system of the cache, 7 are to be written, \
                 and 9223372036854775807 have to stay free"
            )
        );
        assert!(cache.load("idle").expect("asked").is_none(), "it was evicted");
        assert!(cache.load("held").expect("asked").is_some());
        assert!(matches!(keep(&cache, "more"), Commit::Refused(_, Refusal::DiskFull(_))));
        drop(held);

        cache.set_minimum_free(1);
        assert_eq!(cache.make_free(7).expect("asked"), None);
        assert!(matches!(keep(&cache, "more"), Commit::Kept(_)));
        assert!(cache.load("held").expect("asked").is_some());
    }
}
