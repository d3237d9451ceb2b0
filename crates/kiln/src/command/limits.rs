//! How much a cache may take, how much of its file system stays free, and what is not evicted meanwhile.

use std::sync::Arc;

use kiln_engine::plan::{Plan, bytes};
use kiln_modules::MODULES;
use kiln_store::cache::{Cache, DiskFull, MaximumSize, Place, Session};
use kiln_store::object::ObjectStore;

use super::size::Share;
use crate::error::{CliError, CliResult, Kind};
use crate::present;

/// The cache of the `kiln` command keeps this much at most, unless it is told otherwise.
const DEFAULT_LIMIT: u64 = 20 << 30;
/// And never more than this part of the file system.
const DEFAULT_SHARE: u64 = 4;

/// Sets the cache's limit: what was asked for, else a sensible default where none was ever set, not even 0.
pub(super) fn set_limit(store: &ObjectStore, asked: Option<MaximumSize>) -> CliResult {
    let failed = |error| CliError::from_error(Kind::Environment, &error);
    let cache = store.cache();
    let limit = match (asked, cache.has_maximum_size().map_err(failed)?) {
        (Some(limit), _) => limit,
        (None, false) => {
            let share = Place::of(cache.directory()).map_err(failed)?.size / DEFAULT_SHARE;
            MaximumSize::Bytes(DEFAULT_LIMIT.min(share))
        }
        (None, true) => return Ok(()),
    };
    cache.set_maximum_size(limit).map_err(failed)
}

/// Sets what has to stay free, and does not begin without it.
pub(super) fn keep_free(cache: &Arc<Cache>, asked: Option<Share>) -> CliResult {
    let failed = |error| CliError::from_error(Kind::Environment, &error);
    let Some(share) = asked else { return Ok(()) };
    let place = Place::of(cache.directory()).map_err(failed)?;
    cache.set_minimum_free(share.of(place.size));
    match cache.make_free(0).map_err(failed)? {
        Some(full) => Err(disk_full(&full)),
        None => Ok(()),
    }
}

/// The error for a disk that is too full.
pub(super) fn disk_full(full: &DiskFull) -> CliError {
    let message = format!(
        "too little room on the file system of the cache: {} of the {} that have to stay free",
        bytes(full.free),
        bytes(full.minimum)
    );
    let error = CliError::new(Kind::Environment, message);
    let error = if full.wanted > 0 {
        error.place(format!("{} are to be written", bytes(full.wanted)))
    } else {
        error
    };
    error
        .place("nothing more can be evicted: what the cache holds is in use")
        .hint(present::MAKE_ROOM)
        .hint("`--min-free` says how much has to stay free; `kiln cache prune` says what is in use")
}

/// Tells the cache what downloads a plan uses, so that nobody evicts them as long as the session lives.
pub(super) fn protect(session: &Session, cache: &Cache, plan: &Plan) -> CliResult {
    let sources = cache.sources();
    session
        .uses(plan.present(&MODULES).map(|path| sources.join(path)))
        .map_err(|error| CliError::from_error(Kind::Environment, &error))
}
