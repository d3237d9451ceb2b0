//! `cache.size`: the bytes that are accounted, under a lock of its own.

use std::fs::File;
use std::io::Read;

use kiln_sys::lock::Kind;

use super::files::Locked;
use super::{CACHE_SIZE, Cache, CacheError};

/// The number, held against change by others.
pub(super) struct Size {
    pub(super) bytes: u64,
    _lock: File,
}

impl Cache {
    /// The bytes that all committed entries are accounted with.
    pub fn size(&self) -> Result<u64, CacheError> {
        match self.root.read(CACHE_SIZE)?.and_then(|text| parse(&text)) {
            Some(size) => Ok(size),
            None => self.count(),
        }
    }

    /// Waits for the right to change the number.
    pub(super) fn lock_size(&self) -> Result<Size, CacheError> {
        loop {
            match self.root.open_locked(CACHE_SIZE, Kind::Write, true)? {
                Locked::Held(mut file, _) => {
                    let mut text = Vec::with_capacity(32);
                    file.read_to_end(&mut text).map_err(self.root.failed("read", CACHE_SIZE))?;
                    // A power failure can leave an empty file. Nobody else counts: the lock is held.
                    let bytes = parse(&text).map_or_else(|| self.count(), Ok)?;
                    return Ok(Size { bytes, _lock: file });
                }
                Locked::Contended => {}
                Locked::Missing => self.root.scaffold()?,
            }
        }
    }

    /// Replaces the number by what was counted while nobody else used the cache.
    pub(super) fn set_size(&self, counted: u64) -> Result<(), CacheError> {
        let size = self.lock_size()?;
        if size.bytes == counted { Ok(()) } else { self.root.replace(CACHE_SIZE, &counted.to_string()) }
    }
}

fn parse(text: &[u8]) -> Option<u64> {
    serde_json::from_slice(text).ok()
}
