//! Opening, locking and replacing the files of the cache.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use kiln_sys::lock::{self, Attempt, Kind};
use rustix::fs::OFlags;

use super::{
    CACHE_INFO, CACHE_LOCK, CACHE_SIZE, CACHE_TAG, Cache, CacheError, OBJECTS, SOURCES, STAGE, TAG,
    TEMPORARY, info, name,
};

/// How an attempt to open and lock a file ended.
#[derive(Debug)]
pub(super) enum Locked {
    /// The lock is held for as long as the file is open.
    Held(File),
    /// Somebody else holds a lock.
    Contended,
    /// There is no such file.
    Missing,
}

/// Opens a file and locks it, until the path leads to what was locked.
pub(super) fn open_locked(path: &Path, kind: Kind, wait: bool) -> Result<Locked, CacheError> {
    loop {
        let file = match open(path, kind) {
            Ok(file) => file,
            Err(error) if missing(&error) => return Ok(Locked::Missing),
            Err(error) => return Err(CacheError::io("open", path)(error)),
        };
        if wait {
            lock::lock(&file, kind).map_err(CacheError::io("lock", path))?;
        } else if lock::try_lock(&file, kind).map_err(CacheError::io("lock", path))? == Attempt::Contended {
            return Ok(Locked::Contended);
        }
        if leads_to(path, &file)? {
            return Ok(Locked::Held(file));
        }
    }
}

fn open(path: &Path, kind: Kind) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(kind == Kind::Write);
    // The access time says when an entry was last used: looking at it is no use.
    let flags = OFlags::NOFOLLOW | OFlags::NOATIME;
    match options.custom_flags(flags.bits() as i32).open(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)
        }
        other => other,
    }
}

/// Whether an error means that a file or the directory it was in has gone.
pub(super) fn missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::StaleNetworkFileHandle)
}

/// Whether the path still leads to an open file.
pub(super) fn leads_to(path: &Path, file: &File) -> Result<bool, CacheError> {
    let here = file.metadata().map_err(CacheError::io("read attributes of", path))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok(same(&here, &there)),
        Err(error) if missing(&error) => Ok(false),
        Err(error) => Err(CacheError::io("read attributes of", path)(error)),
    }
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Makes a file that must not be there yet, and write-locks it. None if somebody else was faster.
pub(super) fn create_locked(path: &Path) -> Result<Option<File>, CacheError> {
    // Plain creation, not an anonymous file that is linked in: between creation and lock somebody who
    // cleans up may take it for left behind, but then the comparison says so, as it does after a link.
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .map_err(CacheError::io("create", path))?;
    if lock::try_lock(&file, Kind::Write).map_err(CacheError::io("lock", path))? == Attempt::Contended {
        return Ok(None);
    }
    Ok(leads_to(path, &file)?.then_some(file))
}

/// Makes what a cache consists of where it is missing; harmless to a cache in use.
pub(super) fn scaffold(directory: &Path) -> Result<(), CacheError> {
    for name in [OBJECTS, STAGE, TEMPORARY, SOURCES] {
        let path = directory.join(name);
        std::fs::create_dir_all(&path).map_err(CacheError::io("create directory", &path))?;
    }
    let files = [(CACHE_TAG, TAG), (CACHE_INFO, &info::Info::initial()), (CACHE_LOCK, ""), (CACHE_SIZE, "0")];
    for (name, content) in files {
        let path = directory.join(name);
        if !path.try_exists().map_err(CacheError::io("read attributes of", &path))? {
            with_new_file(directory, content, |new| match std::fs::hard_link(new, &path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
                other => other.map_err(CacheError::io("create", &path)),
            })?;
        }
    }
    Ok(())
}

impl Cache {
    /// Replaces a file of the cache in one step. The caller holds the write lock of the old one.
    pub(super) fn replace_file(&self, name: &str, content: &str) -> Result<(), CacheError> {
        let path = self.directory.join(name);
        with_new_file(&self.directory, content, |new| {
            std::fs::rename(new, &path).map_err(CacheError::io("replace", &path))
        })
    }
}

/// Fills a new, locked, anonymous file among the objects, and has it put into its place.
fn with_new_file(
    directory: &Path,
    content: &str,
    place: impl Fn(&Path) -> Result<(), CacheError>,
) -> Result<(), CacheError> {
    loop {
        let path = directory.join(OBJECTS).join(name::anonymous()?);
        let Some(mut file) = create_locked(&path)? else { continue };
        let placed = file
            .write_all(content.as_bytes())
            .map_err(CacheError::io("write", &path))
            .and_then(|()| place(&path));
        match std::fs::remove_file(&path) {
            Err(error) if !missing(&error) => placed.and(Err(CacheError::io("remove", &path)(error))),
            _ => placed,
        }?;
        return Ok(());
    }
}
