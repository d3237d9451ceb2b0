//! Looking at a cache: what it is, what is in it, what that takes. Nothing is changed, no access time is touched, and no lock is
//! taken on an entry, not even for a moment: others would miss it.

mod place;
mod usage;

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kiln_sys::lock::{self, Kind};
use serde_json::{Map, Value};

use super::downloads::{Download, Downloads};
use super::durability::MARK;
use super::files::{paths, present};
use super::info::{BOOT, RECIPE, SIZE};
use super::{CACHE_INFO, Cache, CacheError, MaximumSize, OBJECT_INFO, OBJECT_LOCK, OBJECTS, STAGE, name};

pub use place::Place;
pub use usage::{Progress, Usage, UsageReport};

/// A cache at a glance.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The version of the layout.
    pub version: Option<i64>,
    /// The limit; none if none was ever set, which keeps nothing.
    pub maximum_size: Option<MaximumSize>,
    /// The bytes that objects are accounted with.
    pub objects_size: u64,
    /// How many objects there are.
    pub objects: u64,
    /// What downloads take.
    pub downloads: Downloads,
    /// Entries that somebody is making, filling or removing.
    pub active: u64,
    /// Entries that somebody made who has died.
    pub leftovers: u64,
    /// Whether `cache.info` says in which boot the cache was made.
    pub boot_stamped: bool,
    /// The file system.
    pub place: Place,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A committed object.
    Object,
    /// A downloaded file or tree.
    Download,
}

/// One entry of the cache.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What it is.
    pub kind: EntryKind,
    /// An object's name, or a download's type of content and name, with a slash between them.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// The bytes it is accounted with.
    pub size: u64,
    /// When it was committed, or when it arrived; none if the file system does not remember.
    pub created: Option<SystemTime>,
    /// When it was last used.
    pub last_used: SystemTime,
    /// Whether somebody holds it now.
    pub in_use: bool,
    /// Whether it was made since the machine was started; none if that was not noted.
    pub this_boot: Option<bool>,
    /// Whether it has been flushed to the disk; none if who made it does not say so.
    pub flushed: Option<bool>,
    /// What `object.info` says beside size and boot.
    pub notes: Map<String, Value>,
}

impl Listed {
    /// The digest over everything that the object depends on, if it was noted.
    pub fn recipe(&self) -> Option<&str> {
        self.notes.get(RECIPE).and_then(Value::as_str)
    }
}

impl Cache {
    /// Whether a directory holds a cache.
    pub fn is_at(directory: &Path) -> bool {
        directory.join(CACHE_INFO).exists() && directory.join(OBJECTS).is_dir()
    }

    /// Whether a limit was ever set, be it zero.
    pub fn has_maximum_size(&self) -> Result<bool, CacheError> {
        Ok(self.stated("maximum-size")?.is_some_and(|value| !value.is_null()))
    }

    /// Looks at the cache without looking into anything in it: takes a few milliseconds, whatever it holds.
    pub fn overview(&self) -> Result<Overview, CacheError> {
        let (mut objects, mut active, mut leftovers) = (0, 0, 0);
        for area in [OBJECTS, STAGE] {
            for path in sorted_paths(&self.directory().join(area))? {
                if area == OBJECTS && !is_anonymous(&path) {
                    objects += 1;
                } else if is_held(&path)? {
                    active += 1;
                } else {
                    leftovers += 1;
                }
            }
        }
        Ok(Overview {
            version: self.version(),
            maximum_size: if self.has_maximum_size()? { Some(self.maximum_size()) } else { None },
            objects_size: self.size()?,
            objects,
            downloads: self.downloads()?,
            active,
            leftovers,
            boot_stamped: self.stated("creation-boot-id")?.is_some_and(|value| value.is_string()),
            place: Place::of(self.directory())?,
        })
    }

    /// All objects and downloads, in no order.
    pub fn list(&self) -> Result<Vec<Listed>, CacheError> {
        let mut found = self.list_objects()?;
        // Sessions are looked at without their lock: this is a picture, and nothing is decided by it.
        let sessions = self.sessions()?;
        for download in self.list_downloads()? {
            let in_use = sessions.protect(download.last_used) || download.is_linked;
            found.push(listed_download(&download, in_use));
        }
        Ok(found)
    }

    /// All objects, in no order.
    pub(super) fn list_objects(&self) -> Result<Vec<Listed>, CacheError> {
        let mut found = Vec::new();
        for path in sorted_paths(&self.directory().join(OBJECTS))? {
            if !is_anonymous(&path)
                && let Some(listed) = object(path, &self.boot_id)?
            {
                found.push(listed);
            }
        }
        Ok(found)
    }

    /// What `cache.info` says under a key.
    fn stated(&self, key: &str) -> Result<Option<Value>, CacheError> {
        let path = self.directory().join(CACHE_INFO);
        let text = std::fs::read(&path).map_err(CacheError::io("read", &path))?;
        let info: Value =
            serde_json::from_slice(&text).map_err(|source| CacheError::Syntax { path, source })?;
        Ok(info.get(key).cloned())
    }
}

/// Looks at an object; none if it has gone or is not committed.
fn object(path: PathBuf, boot: &str) -> Result<Option<Listed>, CacheError> {
    let info_path = path.join(OBJECT_INFO);
    let Some(text) = present(std::fs::read(&info_path), "read", &info_path)? else { return Ok(None) };
    let Ok(mut notes) = serde_json::from_slice::<Map<String, Value>>(&text) else { return Ok(None) };
    let info_stat = present(std::fs::symlink_metadata(&info_path), "read attributes of", &info_path)?;
    let lock_path = path.join(OBJECT_LOCK);
    let lock_stat = present(std::fs::symlink_metadata(&lock_path), "read attributes of", &lock_path)?;
    let (Some(info_stat), Some(lock_stat)) = (info_stat, lock_stat) else { return Ok(None) };
    // The map keeps its order: people read it.
    let size = notes.shift_remove(SIZE).and_then(|size| size.as_u64()).unwrap_or(0);
    let made_in = notes.shift_remove(BOOT);
    let unflushed = lock_stat.permissions().mode() & MARK != 0;
    // Only Kiln notes recipes, and only Kiln marks what is not flushed.
    let flushed = if unflushed { Some(false) } else { notes.contains_key(RECIPE).then_some(true) };
    let attribute = CacheError::io("read attributes of", &lock_path);
    Ok(Some(Listed {
        kind: EntryKind::Object,
        name: file_name(&path),
        size,
        created: info_stat.modified().ok(),
        last_used: lock_stat.accessed().map_err(attribute)?,
        in_use: is_held(&path)?,
        this_boot: made_in.as_ref().and_then(Value::as_str).map(|made_in| made_in == boot),
        flushed,
        notes,
        path,
    }))
}

fn listed_download(download: &Download, in_use: bool) -> Listed {
    Listed {
        kind: EntryKind::Download,
        name: download.name(),
        path: download.path.clone(),
        size: download.bytes,
        // The time of modification is the same for all content.
        created: std::fs::symlink_metadata(&download.path).and_then(|stat| stat.created()).ok(),
        last_used: download.last_used,
        in_use,
        this_boot: None,
        flushed: None,
        notes: Map::new(),
    }
}

/// Whether somebody holds an entry, or a single file among the objects, for reading or for writing.
pub(super) fn is_held(path: &Path) -> Result<bool, CacheError> {
    let Some(stat) = present(std::fs::symlink_metadata(path), "read attributes of", path)? else {
        return Ok(false);
    };
    let lock = if stat.is_dir() { path.join(OBJECT_LOCK) } else { path.to_owned() };
    // Opening a device or a pipe might do something; a lock file is neither.
    let is_file = std::fs::symlink_metadata(&lock).is_ok_and(|stat| stat.is_file() && stat.nlink() > 0);
    if !is_file {
        return Ok(false);
    }
    let Some(file) = present(File::open(&lock), "open", &lock)? else { return Ok(false) };
    lock::is_contended(&file, Kind::Write).map_err(CacheError::io("ask for locks of", &lock))
}

pub(super) fn is_anonymous(path: &Path) -> bool {
    file_name(path).starts_with(name::ANONYMOUS)
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The paths in a directory, sorted; none if it has gone.
pub(super) fn sorted_paths(directory: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let mut found = paths(directory)?;
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
