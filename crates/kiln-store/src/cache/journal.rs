//! Accounting that survives being killed between any two steps.
//!
//! The bytes of an entry are added to `cache.size` before it gets its name, and taken off after it has lost it;
//! both while nobody else knows the entry. What was done so far can be read off the entry's directory, because
//! the file that becomes the next `cache.size` is made *there* and moved out by the rename that accounts:
//!
//! | files of an entry without a name | it is accounted with |
//! |---|---|
//! | `object.info`, `cache.size.more` | nothing yet |
//! | `object.info` | its size |
//! | `object.info`, `cache.size.less` | its size |
//! | `object.gone`, `cache.size.less` | its size |
//! | `object.gone` | nothing any more |
//! | none of them | nothing |
//!
//! `object.gone` is `object.info` under another name. A *grave* (`object.grave`) holds entries that were evicted,
//! as `data/0`, `data/1`, …; it is accounted with the sum of their sizes unless there is `object.gone` without
//! `cache.size.less`. Whoever finds an entry of a dead process knows thus what to give back, gives it back by the
//! same steps, and may die in them too.
//!
//! The reference does not look at these files; it removes them with the entry.

use std::io::{ErrorKind, Write};

use super::files::Root;
use super::hooks::Point;
use super::info::{accounted, parse_info};
use super::size::Size;
use super::{CACHE_SIZE, Cache, CacheError, DATA, MaximumSize, OBJECT_INFO};

/// The next `cache.size` of an entry that is being accounted.
pub(super) const MORE: &str = "cache.size.more";
/// The next `cache.size` of an entry whose bytes are being given back.
pub(super) const LESS: &str = "cache.size.less";
/// What is left of `object.info` when the bytes are given back.
pub(super) const GONE: &str = "object.gone";
/// Marks an entry that holds evicted ones.
pub(super) const GRAVE: &str = "object.grave";

impl Cache {
    /// Writes what commits an entry and adds its bytes to what is accounted, unless that would go beyond the
    /// limit: then the entry is what it was.
    pub(super) fn account(&self, entry: &str, info: &str, bytes: u64) -> Result<bool, CacheError> {
        let more = format!("{entry}/{MORE}");
        let done = self.try_account(entry, info, bytes, &more);
        if !matches!(done, Ok(true)) {
            // The order matters: without `object.info` the other one means nothing. Best effort: what stays is
            // the same to whoever finds it.
            let _ = self.root.unlink(&format!("{entry}/{OBJECT_INFO}")).and_then(|_| self.root.unlink(&more));
        }
        done
    }

    fn try_account(&self, entry: &str, info: &str, bytes: u64, more: &str) -> Result<bool, CacheError> {
        let mut file = self.root.create_empty(more)?;
        drop(self.root.create(&format!("{entry}/{OBJECT_INFO}"), info)?);
        self.root.at(Point::InfoWritten);
        // Listed before the lock is taken: one limit covers both.
        let downloads = match self.maximum_size() {
            MaximumSize::Unlimited => 0,
            MaximumSize::Bytes(_) => self.downloads_size()?,
        };
        let size = self.lock_size()?;
        let Some(sum) = self.within_limit(&size, bytes, downloads) else { return Ok(false) };
        file.write_all(sum.to_string().as_bytes()).map_err(self.root.failed("write", more))?;
        self.root.rename_over(more, CACHE_SIZE)?;
        drop(size);
        self.root.at(Point::Accounted);
        Ok(true)
    }

    fn within_limit(&self, size: &Size, bytes: u64, downloads: u64) -> Option<u64> {
        let sum = size.bytes.checked_add(bytes)?;
        match self.maximum_size() {
            MaximumSize::Unlimited => Some(sum),
            MaximumSize::Bytes(maximum) => (sum.saturating_add(downloads) <= maximum).then_some(sum),
        }
    }

    /// Takes the bytes of an entry without a name off what is accounted, if they are still in it.
    pub(super) fn give_back(&self, entry: &str) -> Result<(), CacheError> {
        self.give_back_bytes(entry, owed(&self.root, entry)?)
    }

    /// Takes as many bytes as an entry without a name is accounted with off what is accounted.
    pub(super) fn give_back_bytes(&self, entry: &str, bytes: u64) -> Result<(), CacheError> {
        if bytes == 0 {
            return Ok(());
        }
        let (less, gone) = (format!("{entry}/{LESS}"), format!("{entry}/{GONE}"));
        let mut file = self.root.create_empty(&less)?;
        match self.root.rename_over(&format!("{entry}/{OBJECT_INFO}"), &gone) {
            // A grave, or one that somebody died giving back.
            Err(CacheError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                if !self.root.is_there(&gone)? {
                    drop(self.root.create(&gone, "")?);
                }
            }
            other => other?,
        }
        let size = self.lock_size()?;
        // The reference gives back more than it accounts; below zero there is nothing.
        let rest = size.bytes.saturating_sub(bytes);
        file.write_all(rest.to_string().as_bytes()).map_err(self.root.failed("write", &less))?;
        self.root.rename_over(&less, CACHE_SIZE)?;
        drop(size);
        self.root.at(Point::GivenBack);
        Ok(())
    }
}

/// The bytes that an entry without a name is accounted with.
pub(super) fn owed(root: &Root, entry: &str) -> Result<u64, CacheError> {
    let file = |name: &str| format!("{entry}/{name}");
    let size = |name: &str| -> Result<Option<u64>, CacheError> {
        Ok(root.read(&file(name))?.map(|text| parse_info(&text).as_ref().map_or(0, accounted)))
    };
    if root.is_there(&file(GRAVE))? {
        if root.is_there(&file(GONE))? && !root.is_there(&file(LESS))? {
            return Ok(0);
        }
        let data = file(DATA);
        let mut sum = 0;
        for victim in root.list(&data)? {
            sum += size(&format!("{DATA}/{victim}/{OBJECT_INFO}"))?.unwrap_or(0);
        }
        return Ok(sum);
    }
    if let Some(bytes) = size(OBJECT_INFO)? {
        return Ok(if root.is_there(&file(MORE))? { 0 } else { bytes });
    }
    match size(GONE)? {
        Some(bytes) if root.is_there(&file(LESS))? => Ok(bytes),
        _ => Ok(0),
    }
}
