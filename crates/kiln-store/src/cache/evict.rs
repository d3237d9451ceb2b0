//! Making room: what was used least recently goes first, and what is in use stays.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kiln_sys::lock::Kind;

use super::entry::{remove_entry, rename};
use super::files::{Locked, missing, open_locked};
use super::load::{accounted, read_info};
use super::{Cache, CacheError, OBJECT_INFO, OBJECT_LOCK, name};

/// So many entries lose their names before their trees are removed: bounds the locks that are open at once.
const BATCH: usize = 64;

/// More than what is asked for is freed, so that the next one need not do all of this again.
const GENEROSITY: u64 = 2;

/// An entry that has lost its name, and is not accounted any more.
struct Victim {
    directory: PathBuf,
    _lock: File,
}

impl Cache {
    /// Evicts entries until at least `bytes` are free of them, if there are as many, and says how many were freed.
    pub(super) fn make_room(&self, bytes: u64) -> Result<u64, CacheError> {
        let wanted = bytes.saturating_mul(GENEROSITY);
        let candidates = self.by_last_use()?;
        let mut candidates = candidates.into_iter();
        let mut freed = 0;
        while freed < wanted && candidates.len() > 0 {
            let mut victims = Vec::new();
            let mut given_back = 0;
            while freed + given_back < wanted && victims.len() < BATCH {
                let Some((last_used, directory)) = candidates.next() else { break };
                if let Some((victim, size)) = self.retire(&directory, Some(last_used))? {
                    given_back += size;
                    victims.push(victim);
                }
            }
            // In this order: the slow part comes last, so dying in it leaves no wrong number.
            self.give_back(given_back)?;
            freed += given_back;
            for victim in victims {
                remove_entry(&victim.directory)?;
            }
        }
        Ok(freed)
    }

    /// Removes what has a name without being an entry: a file, or the rest of a removal. False if it is one.
    pub(super) fn clear_name(&self, path: &Path) -> Result<bool, CacheError> {
        let stat = match std::fs::symlink_metadata(path) {
            Err(error) if missing(&error) => return Ok(true),
            other => other.map_err(CacheError::io("read attributes of", path))?,
        };
        if !stat.is_dir() {
            return self.clear_file(path);
        }
        if read_info(path)?.is_some() {
            return Ok(false);
        }
        match open_locked(&path.join(OBJECT_LOCK), Kind::Write, false)? {
            Locked::Contended => Ok(false),
            // Only what is empty goes; else there is something that nobody explained.
            Locked::Missing => Ok(std::fs::remove_dir(path).is_ok()),
            Locked::Held(_lock) if read_info(path)?.is_some() => Ok(false),
            Locked::Held(_lock) => remove_entry(path).map(|()| true),
        }
    }

    /// Removes a single file among the objects unless it is locked.
    pub(super) fn clear_file(&self, path: &Path) -> Result<bool, CacheError> {
        match open_locked(path, Kind::Write, false)? {
            Locked::Contended => Ok(false),
            Locked::Missing => Ok(true),
            Locked::Held(_lock) => match std::fs::remove_file(path) {
                Err(error) if !missing(&error) => Err(CacheError::io("remove", path)(error)),
                _ => Ok(true),
            },
        }
    }

    /// All entries with the time of their last use, the oldest first.
    fn by_last_use(&self) -> Result<Vec<(SystemTime, PathBuf)>, CacheError> {
        let objects = self.objects();
        let list = std::fs::read_dir(&objects).map_err(CacheError::io("read directory", &objects))?;
        let mut found = Vec::new();
        for entry in list {
            let directory = entry.map_err(CacheError::io("read directory", &objects))?.path();
            // A file, or an entry that has just gone or is just being made.
            if let Some(last_used) = last_use(&directory) {
                found.push((last_used, directory));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Takes an entry's name and what commits it, unless it is locked or was used since.
    fn retire(
        &self,
        directory: &Path,
        last_used: Option<SystemTime>,
    ) -> Result<Option<(Victim, u64)>, CacheError> {
        let Locked::Held(lock) = open_locked(&directory.join(OBJECT_LOCK), Kind::Write, false)? else {
            return Ok(None);
        };
        if last_used.is_some() && last_use(directory) != last_used {
            return Ok(None);
        }
        let size = read_info(directory)?.as_ref().map_or(0, accounted);
        // Nobody must find half an entry: the reference does not look whether it is committed.
        let nameless = self.objects().join(name::anonymous()?);
        rename(directory, &nameless).map_err(CacheError::io("remove", directory))?;
        match std::fs::remove_file(nameless.join(OBJECT_INFO)) {
            Err(error) if !missing(&error) => return Err(CacheError::io("remove", directory)(error)),
            _ => {}
        }
        Ok(Some((Victim { directory: nameless, _lock: lock }, size)))
    }
}

fn last_use(directory: &Path) -> Option<SystemTime> {
    std::fs::symlink_metadata(directory.join(OBJECT_LOCK)).and_then(|stat| stat.accessed()).ok()
}
