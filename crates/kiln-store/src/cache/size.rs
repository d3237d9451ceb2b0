//! `cache.size`: the bytes that are accounted, under a lock of its own.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use kiln_sys::lock::Kind;

use super::files::{Locked, open_locked};
use super::{CACHE_SIZE, Cache, CacheError, MaximumSize};

impl Cache {
    /// The bytes that all committed entries are accounted with.
    pub fn size(&self) -> Result<u64, CacheError> {
        let path = self.directory.join(CACHE_SIZE);
        let mut file = File::open(&path).map_err(CacheError::io("open", &path))?;
        match read(&path, &mut file)? {
            Some(size) => Ok(size),
            None => self.count(),
        }
    }

    /// Adds bytes to what is accounted, unless that would go beyond the limit.
    pub(super) fn reserve(&self, bytes: u64) -> Result<bool, CacheError> {
        let maximum = self.maximum_size();
        self.update(|size| match (size.checked_add(bytes), maximum) {
            (Some(sum), MaximumSize::Unlimited) => Some(sum),
            (Some(sum), MaximumSize::Bytes(maximum)) if sum <= maximum => Some(sum),
            _ => None,
        })
    }

    /// Takes bytes off what is accounted; it never goes below zero.
    pub(super) fn give_back(&self, bytes: u64) -> Result<(), CacheError> {
        self.update(|size| Some(size.saturating_sub(bytes))).map(|_| ())
    }

    /// Replaces what is accounted by what was counted.
    pub(super) fn set_size(&self, counted: u64) -> Result<(), CacheError> {
        self.update(|size| (size != counted).then_some(counted)).map(|_| ())
    }

    fn update(&self, change: impl Fn(u64) -> Option<u64>) -> Result<bool, CacheError> {
        let path = self.directory.join(CACHE_SIZE);
        loop {
            let mut file = match open_locked(&path, Kind::Write, true)? {
                Locked::Held(file) => file,
                Locked::Contended => continue,
                Locked::Missing => {
                    super::files::scaffold(&self.directory)?;
                    continue;
                }
            };
            let size = match read(&path, &mut file)? {
                Some(size) => size,
                // A power failure can leave an empty file. Nobody else counts: the lock is held.
                None => self.count()?,
            };
            let Some(size) = change(size) else { return Ok(false) };
            self.replace_file(CACHE_SIZE, &size.to_string())?;
            return Ok(true);
        }
    }
}

/// Reads the number; none if the file does not hold one.
fn read(path: &Path, file: &mut File) -> Result<Option<u64>, CacheError> {
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(CacheError::io("read", path))?;
    Ok(serde_json::from_slice(&text).ok())
}
