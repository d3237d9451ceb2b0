//! Making room: what was used least recently goes first, and what is in use stays.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_sys::lock::Kind;
use rustix::fs::{FileType, Stat};
use serde_json::{Map, Value};

use super::downloads::Download;
use super::entry::{Entry, Refusal, Tried, remove_entry};
use super::files::{Locked, Root};
use super::hooks::Point;
use super::info::{accounted, parse_info};
use super::journal::{GRAVE, owed};
use super::{CACHE_SIZE, Cache, CacheError, DATA, OBJECT_INFO, OBJECT_LOCK, OBJECTS, UNINTERRUPTED, name};
use crate::tree;

/// More than what is asked for is freed, so that the next one need not do all of this again.
const GENEROSITY: u64 = 2;

/// When something was last used: seconds and nanoseconds since the epoch.
pub(super) type LastUse = (i64, i64);

/// What can be evicted. Objects and downloads go by one clock.
enum Candidate {
    Object(String),
    Download(Download),
}

/// Evicts objects: they are moved into one entry without a name, a grave, whose bytes are given back in one step when
/// it is closed, and which is removed then.
///
/// While further ones are moved, a thread removes the data of those that are in the grave. What says how much is to be
/// given back for them stays until then.
#[derive(Debug)]
pub(super) struct Burial<'a> {
    cache: &'a Arc<Cache>,
    grave: Option<Entry>,
    buried: usize,
    /// The bytes to be given back.
    owed: u64,
    undertaker: Option<Undertaker>,
}

/// For fewer entries than this no thread is started.
const WORTH_A_THREAD: usize = 8;

/// Removes the data of evicted entries, as far as it gets.
#[derive(Debug)]
struct Undertaker {
    places: Sender<PathBuf>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Undertaker {
    fn start() -> Option<Self> {
        let (places, received) = channel::<PathBuf>();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            for place in received {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Whatever stays is removed, or reported, when the grave is.
                let _ = tree::remove(&place.join(DATA), &stopped);
                let _ = std::fs::remove_file(place.join(OBJECT_LOCK));
            }
        };
        let thread = std::thread::Builder::new().name("kiln-evict".to_owned()).spawn(work).ok()?;
        Some(Self { places, stop, thread })
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.places);
        // It has nothing to say; a panic in it was printed.
        let _ = self.thread.join();
    }
}

impl<'a> Burial<'a> {
    pub(super) const fn new(cache: &'a Arc<Cache>) -> Self {
        Self { cache, grave: None, buried: 0, owed: 0, undertaker: None }
    }

    /// Evicts an object unless it is locked or was used since it was looked at; says how many bytes it was accounted
    /// with.
    pub(super) fn take(&mut self, name: &str, last_used: LastUse) -> Result<Option<u64>, CacheError> {
        let root = &self.cache.root;
        if self.grave.is_none() {
            self.grave = match self.cache.grave() {
                // There is no room even for a grave; what is evicted without one makes it.
                Err(error) if is_full(&error) => None,
                made => Some(made?),
            };
        }
        root.at(Point::Chosen);
        let victim = format!("{OBJECTS}/{name}");
        let Locked::Held(lock, stat) =
            root.open_locked(&format!("{victim}/{OBJECT_LOCK}"), Kind::Write, false)?
        else {
            return Ok(None);
        };
        if last_use(&stat) != last_used {
            return Ok(None);
        }
        let size = size_of(root, name)?;
        let place = self.grave.as_ref().map(|grave| grave.file(&format!("{DATA}/{}", self.buried)));
        let moved = place.as_ref().map_or(Ok(false), |place| match root.rename_over(&victim, place) {
            Err(error) if is_full(&error) || is_elsewhere(&error) => Ok(false),
            moved => moved.map(|()| true),
        })?;
        let (Some(place), true) = (place, moved) else {
            self.cache.evict_alone(&victim)?;
            return Ok(Some(size));
        };
        self.buried += 1;
        self.owed += size;
        // Who opened its lock file before finds that its name leads nowhere.
        drop(lock);
        root.at(Point::Retired);
        if self.buried == WORTH_A_THREAD {
            self.undertaker = Undertaker::start();
        }
        if let Some(undertaker) = &self.undertaker {
            // One that has died has panicked, which was printed.
            let _ = undertaker.places.send(root.path().join(place));
        }
        Ok(Some(size))
    }

    /// Gives the bytes back and removes what was evicted.
    pub(super) fn close(self) -> Result<(), CacheError> {
        if let Some(undertaker) = self.undertaker {
            undertaker.finish();
        }
        let Some(mut grave) = self.grave else { return Ok(()) };
        if self.cache.give_back_bytes(&grave.entry, self.owed).is_ok() {
            grave.mark_given_back();
        }
        // Else it is tried again, with all that can be done to make room for it.
        grave.discard()
    }
}

impl Cache {
    /// Evicts what was used least recently until at least `bytes` are free of it, if there is as much, and says how
    /// many were freed.
    pub(super) fn make_room(self: &Arc<Self>, bytes: u64) -> Result<u64, CacheError> {
        let wanted = bytes.saturating_mul(GENEROSITY);
        let mut candidates: Vec<(LastUse, Candidate)> = by_last_use(&self.root)?
            .into_iter()
            .map(|(last_used, name)| (last_used, Candidate::Object(name)))
            .collect();
        for download in self.list_downloads()? {
            candidates.push((since_epoch(download.last_used), Candidate::Download(download)));
        }
        candidates.sort_by_key(|(last_used, _)| *last_used);
        let mut burial = Burial::new(self);
        let mut evictor = None;
        let mut freed = 0;
        for (last_used, candidate) in candidates {
            if freed >= wanted {
                break;
            }
            freed += match candidate {
                Candidate::Object(name) => burial.take(&name, last_used)?,
                Candidate::Download(download) => {
                    let evictor = match &evictor {
                        Some(evictor) => evictor,
                        None => evictor.insert(self.evictor()?),
                    };
                    evictor.evict(&download)?
                }
            }
            .unwrap_or(0);
        }
        drop(evictor);
        burial.close()?;
        Ok(freed)
    }

    /// Removes an entry whose lock is held, in more steps and with less room than a grave takes.
    fn evict_alone(&self, entry: &str) -> Result<(), CacheError> {
        let nameless = format!("{OBJECTS}/{}", name::anonymous()?);
        // Without its name first: whoever dies here leaves nothing that looks like an entry.
        match self.root.rename_new(entry, &nameless).map_err(self.root.failed("remove", entry)) {
            Err(error) if is_elsewhere(&error) => return self.evict_in_place(entry),
            renamed => renamed?,
        }
        self.give_back_on_full_disk(&nameless)?;
        remove_entry(&self.root, &nameless, &UNINTERRUPTED)
    }

    /// Removes an entry whose lock is held and that cannot be renamed: it lies in a lower layer of an overlay. Whoever
    /// dies here leaves too large a size, until somebody has the cache alone.
    fn evict_in_place(&self, entry: &str) -> Result<(), CacheError> {
        let info = self.root.read(&format!("{entry}/{OBJECT_INFO}"))?;
        let bytes = info.as_deref().and_then(parse_info).as_ref().map_or(0, accounted);
        remove_entry(&self.root, entry, &UNINTERRUPTED)?;
        let size = self.lock_size()?;
        self.root.replace(CACHE_SIZE, &size.bytes.saturating_sub(bytes).to_string())
    }

    /// Makes an entry for evicted ones.
    pub(super) fn grave(self: &Arc<Self>) -> Result<Entry, CacheError> {
        let mut grave = self.entry(OBJECTS)?;
        self.root.create_empty(&grave.file(GRAVE))?;
        grave.mark_accounted();
        Ok(grave)
    }

    /// Gives the bytes of an entry without a name back, and makes the room on the disk for that if need be.
    pub(super) fn give_back_on_full_disk(&self, entry: &str) -> Result<(), CacheError> {
        match self.give_back(entry) {
            Err(error) if is_full(&error) => {}
            other => return other,
        }
        // What says how much it is must stay.
        let data = format!("{entry}/{DATA}");
        let mut trees = vec![data.clone()];
        if self.root.is_there(&format!("{entry}/{GRAVE}"))? {
            let victims = self.root.list(&data)?;
            trees = victims.iter().map(|victim| format!("{data}/{victim}/{DATA}")).collect();
        }
        for tree in trees {
            tree::remove(&self.root.path().join(tree), &UNINTERRUPTED)?;
        }
        self.give_back(entry)
    }

    /// Puts an entry in the place of another one in one step, and removes that. None if the other one has gone
    /// meanwhile: then the name is free, or has an entry that must be looked at.
    pub(super) fn replace_entry(&self, entry: &str, target: &str) -> Result<Option<Tried>, CacheError> {
        let old = match self.root.open_locked(&format!("{target}/{OBJECT_LOCK}"), Kind::Write, false)? {
            Locked::Held(lock, _) => lock,
            Locked::Contended => return Ok(Some(Tried::Refused(Refusal::InUse))),
            Locked::Missing => return Ok(None),
        };
        let removed = match self.root.exchange(entry, target) {
            Ok(()) => entry.to_owned(),
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                self.evict_in_place(target)?;
                self.root.rename_new(entry, target).map_err(self.root.failed("commit", target))?;
                return Ok(Some(Tried::Kept));
            }
            // The file system cannot: for a moment there is no entry of that name.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                let nameless = format!("{OBJECTS}/{}", name::anonymous()?);
                self.root.rename_new(target, &nameless).map_err(self.root.failed("replace", target))?;
                self.root.rename_new(entry, target).map_err(self.root.failed("commit", target))?;
                nameless
            }
            Err(error) => return Err(self.root.failed("commit", target)(error)),
        };
        // Best effort: the new one is there, and whoever opens the cache next removes the rest of the old one.
        let _ = self
            .give_back_on_full_disk(&removed)
            .and_then(|()| remove_entry(&self.root, &removed, &UNINTERRUPTED));
        drop(old);
        Ok(Some(Tried::Kept))
    }

    /// What commits the entry that has a name. None if the name is free now: something that is no entry (a file,
    /// the rest of a removal, the victim of a power failure) was removed.
    pub(super) fn occupant(&self, path: &str) -> Result<Option<Map<String, Value>>, CacheError> {
        // An entry that cannot be looked at is in somebody's hands, and so it is one.
        let unknown = || Ok(Some(Map::new()));
        let Some(stat) = self.root.stat(path)? else { return Ok(None) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return if self.clear_file(path)? { Ok(None) } else { unknown() };
        }
        if let Some(info) = self.committed_info(path)? {
            return Ok(Some(info));
        }
        match self.root.open_locked(&format!("{path}/{OBJECT_LOCK}"), Kind::Write, false)? {
            Locked::Contended => unknown(),
            // Only what is empty goes; else there is something that nobody explained.
            Locked::Missing => {
                if self.root.remove_directory(path).is_ok() || self.root.stat(path)?.is_none() {
                    Ok(None)
                } else {
                    unknown()
                }
            }
            Locked::Held(..) => {
                if let Some(info) = self.committed_info(path)? {
                    return Ok(Some(info));
                }
                self.evict_alone(path)?;
                Ok(None)
            }
        }
    }

    /// Removes a single file among the objects unless it is locked.
    pub(super) fn clear_file(&self, path: &str) -> Result<bool, CacheError> {
        match self.root.open_locked(path, Kind::Write, false)? {
            Locked::Contended => Ok(false),
            Locked::Missing => Ok(true),
            Locked::Held(..) => self.root.unlink(path).map(|_| true),
        }
    }

    /// Removes an entry of a dead process, whose lock is held, and gives back what it is accounted with.
    pub(super) fn bury(&self, entry: &str, stop: &AtomicBool) -> Result<(), CacheError> {
        if owed(&self.root, entry)? > 0 {
            self.give_back_on_full_disk(entry)?;
        }
        remove_entry(&self.root, entry, stop)
    }
}

/// Whether a directory cannot be renamed because it lies in a lower layer of an overlay.
fn is_elsewhere(error: &CacheError) -> bool {
    matches!(error, CacheError::Io { source, .. } if source.kind() == ErrorKind::CrossesDevices)
}

fn is_full(error: &CacheError) -> bool {
    matches!(error, CacheError::Io { source, .. }
        if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

/// When an entry was last used: the access time of its lock file.
pub(super) fn last_use(lock: &Stat) -> LastUse {
    (lock.st_atime, lock.st_atime_nsec as i64)
}

/// The same clock as [`last_use`].
pub(super) fn since_epoch(time: SystemTime) -> LastUse {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs().cast_signed(), since.subsec_nanos().into()),
        Err(before) => (-before.duration().as_secs().cast_signed() - 1, 0),
    }
}

/// The other way round.
pub(super) fn time((seconds, nanoseconds): LastUse) -> SystemTime {
    let nanoseconds = u32::try_from(nanoseconds).unwrap_or(0);
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::new(seconds, nanoseconds),
        Err(_) => UNIX_EPOCH,
    }
}

/// Whether a path relative to the cache's directory leads to something without a name of its own.
pub(super) fn is_anonymous(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with(name::ANONYMOUS))
}

/// The bytes that an entry is accounted with; none if it is not committed, or has gone.
pub(super) fn size_of(root: &Root, name: &str) -> Result<u64, CacheError> {
    let info = root.read(&format!("{OBJECTS}/{name}/{OBJECT_INFO}"))?;
    Ok(info.as_deref().and_then(parse_info).as_ref().map_or(0, accounted))
}

/// The names of all entries with the time of their last use, the oldest first.
pub(super) fn by_last_use(root: &Root) -> Result<Vec<(LastUse, String)>, CacheError> {
    let mut found = Vec::new();
    for name in root.list(OBJECTS)? {
        // A file, or an entry that has just gone or is just being made. Those without a name are not evicted but
        // reclaimed.
        if name.starts_with(name::ANONYMOUS) {
            continue;
        }
        if let Some(lock) = root.stat(&format!("{OBJECTS}/{name}/{OBJECT_LOCK}"))? {
            found.push((last_use(&lock), name));
        }
    }
    found.sort_unstable();
    Ok(found)
}
