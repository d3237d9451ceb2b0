//! Opening, locking, making and replacing the files of the cache, by names relative to its open directory.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_sys::lock::{self, Attempt, Kind};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, RawMode, Stat};
use rustix::io::Errno;

use super::hooks::{Hooks, Point};
use super::{
    CACHE_INFO, CACHE_LOCK, CACHE_SIZE, CACHE_TAG, CacheError, OBJECTS, SOURCES, STAGE, TAG, TEMPORARY, info,
    name,
};

/// The mode of the cache's files.
pub(super) const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// How often something is tried to be made while others clean up what is just being made.
pub(super) const TRIES: usize = 64;

/// More than what most files of the cache hold.
const USUAL_SIZE: usize = 1024;

/// How an attempt to open and lock a file ended.
#[derive(Debug)]
pub(super) enum Locked {
    /// The lock is held for as long as the file is open.
    Held(File, Stat),
    /// Somebody else holds a lock.
    Contended,
    /// There is no such file.
    Missing,
}

/// The cache's directory, opened.
#[derive(Debug)]
pub(super) struct Root {
    directory: OwnedFd,
    path: PathBuf,
    hooks: Hooks,
    /// Cleared once the file system refused files without a name.
    nameless_files: AtomicBool,
}

impl Root {
    /// Makes the directory if need be, and everything that a cache consists of and that is missing in it;
    /// harmless to a cache in use.
    pub(super) fn open(path: PathBuf, hooks: Hooks) -> Result<Self, CacheError> {
        match std::fs::create_dir_all(&path) {
            // Something else has the name; opening it says so more clearly.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made.map_err(CacheError::io("create directory", &path))?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, &path, flags, Mode::empty())
            .map_err(CacheError::io("open directory", &path))?;
        let root = Self { directory, path, hooks, nameless_files: AtomicBool::new(true) };
        root.scaffold()?;
        Ok(root)
    }

    /// Another handle of the same directory.
    pub(super) fn twin(&self) -> Result<Self, CacheError> {
        let directory = self.directory.try_clone().map_err(self.failed("open directory", ""))?;
        Ok(Self {
            directory,
            path: self.path.clone(),
            hooks: self.hooks.clone(),
            nameless_files: AtomicBool::new(self.nameless_files.load(Ordering::Relaxed)),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn fd(&self) -> &OwnedFd {
        &self.directory
    }

    /// Has everything that was written to the file system so far on the disk when it returns.
    pub(super) fn flush(&self) -> Result<(), CacheError> {
        // Only file systems in user space are interrupted in this, by signals that were sent to others.
        rustix::io::retry_on_intr(|| rustix::fs::syncfs(&self.directory)).map_err(self.failed("flush", ""))
    }

    pub(super) fn at(&self, point: Point) {
        self.hooks.at(point);
    }

    /// Makes a `map_err` argument that adds the action and the path.
    pub(super) fn failed<E: Into<io::Error>>(
        &self,
        action: &'static str,
        name: &str,
    ) -> impl FnOnce(E) -> CacheError {
        move |source| CacheError::Io { action, path: self.path.join(name), source: source.into() }
    }

    pub(super) fn scaffold(&self) -> Result<(), CacheError> {
        for directory in [OBJECTS, STAGE, TEMPORARY, SOURCES] {
            if !self.is_there(directory)? {
                match rustix::fs::mkdirat(&self.directory, directory, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(self.failed("create directory", directory)(error)),
                }
            }
        }
        let files =
            [(CACHE_TAG, TAG), (CACHE_INFO, &info::Info::initial()), (CACHE_LOCK, ""), (CACHE_SIZE, "0")];
        for (file, content) in files {
            if !self.is_there(file)? {
                self.create_whole(file, content)?;
            }
        }
        Ok(())
    }

    /// Makes a file that has its whole content once it has its name; one that is there already stays.
    fn create_whole(&self, file: &str, content: &str) -> Result<(), CacheError> {
        let write = |mut new: &File| new.write_all(content.as_bytes()).map_err(self.failed("write", file));
        if let Some(new) = self.nameless(".", FILE_MODE).map_err(self.failed("create", file))? {
            write(&new)?;
            return match self.link(&new, file) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(self.failed("create", file)(error)),
            };
        }
        self.with_anonymous_file(content, |new| {
            match rustix::fs::linkat(&self.directory, new, &self.directory, file, AtFlags::empty()) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(self.failed("create", file)(error)),
            }
        })
    }

    /// Replaces a file of the cache in one step. The caller holds the write lock of the old one.
    pub(super) fn replace(&self, file: &str, content: &str) -> Result<(), CacheError> {
        self.with_anonymous_file(content, |new| self.rename_over(new, file))
    }

    /// Fills a new, locked, anonymous file among the objects, and has it put into its place.
    fn with_anonymous_file(
        &self,
        content: &str,
        place: impl Fn(&str) -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        for _ in 0..TRIES {
            let new = format!("{OBJECTS}/{}", name::anonymous()?);
            let Some(mut file) = self.create_locked(&new, FILE_MODE)? else { continue };
            let placed = file
                .write_all(content.as_bytes())
                .map_err(self.failed("write", &new))
                .and_then(|()| place(&new));
            let removed = self.unlink(&new);
            return placed.and(removed.map(|_| ()));
        }
        Err(self.failed("create a file in", OBJECTS)(io::Error::from(ErrorKind::NotFound)))
    }

    /// Opens a file and locks it, until its name leads to what was locked.
    pub(super) fn open_locked(&self, file: &str, kind: Kind, wait: bool) -> Result<Locked, CacheError> {
        self.open_for_and_lock(file, kind, kind, wait)
    }

    /// The shared lock, by a descriptor that can get the other one too, unless this may only be read.
    pub(super) fn share(&self, file: &str) -> Result<File, CacheError> {
        let locked = match self.open_for_and_lock(file, Kind::Write, Kind::Read, true) {
            Err(CacheError::Io { source, .. })
                if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
            {
                self.open_locked(file, Kind::Read, true)?
            }
            other => other?,
        };
        match locked {
            Locked::Held(opened, _) => Ok(opened),
            Locked::Contended | Locked::Missing => {
                Err(self.failed("lock", file)(io::Error::from(ErrorKind::NotFound)))
            }
        }
    }

    fn open_for_and_lock(
        &self,
        file: &str,
        access: Kind,
        kind: Kind,
        wait: bool,
    ) -> Result<Locked, CacheError> {
        loop {
            let opened = match self.open_for_lock(file, access) {
                Ok(opened) => File::from(opened),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => return Ok(Locked::Missing),
                Err(error) => return Err(self.failed("open", file)(error)),
            };
            self.at(Point::Opened);
            if wait {
                lock::lock(&opened, kind).map_err(self.failed("lock", file))?;
            } else if lock::try_lock(&opened, kind).map_err(self.failed("lock", file))? == Attempt::Contended
            {
                return Ok(Locked::Contended);
            }
            self.at(Point::Locked);
            if let Some(stat) = self.leads_to(file, &opened)? {
                return Ok(Locked::Held(opened, stat));
            }
        }
    }

    fn open_for_lock(&self, file: &str, kind: Kind) -> Result<OwnedFd, Errno> {
        let access = if kind == Kind::Write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The access time says when an entry was last used: looking at it is no use.
        match rustix::fs::openat(&self.directory, file, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rustix::fs::openat(&self.directory, file, flags, Mode::empty()),
            other => other,
        }
    }

    /// The attributes of an open file if its name still leads to it.
    pub(super) fn leads_to(&self, file: &str, opened: &File) -> Result<Option<Stat>, CacheError> {
        let there = match rustix::fs::statat(&self.directory, file, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => return Ok(None),
            other => other.map_err(self.failed("read attributes of", file))?,
        };
        let here = rustix::fs::fstat(opened).map_err(self.failed("read attributes of", file))?;
        Ok(((here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)).then_some(there))
    }

    /// Makes a file that must not be there yet, and write-locks it. None if somebody else was faster, or the
    /// directory has gone.
    ///
    /// It has no name until it is locked, where the file system can do that; else somebody who cleans up may
    /// take it for left behind before it is locked, but then the comparison says so.
    pub(super) fn create_locked(&self, file: &str, mode: Mode) -> Result<Option<File>, CacheError> {
        let failed = || self.failed("create", file);
        let parent = file.rsplit_once('/').map_or(".", |(parent, _)| parent);
        match self.nameless(parent, mode) {
            Ok(Some(new)) => {
                let attempt = lock::try_lock(&new, Kind::Write).map_err(self.failed("lock", file))?;
                if attempt == Attempt::Contended {
                    return Ok(None);
                }
                return match self.link(&new, file) {
                    Ok(()) => Ok(Some(new)),
                    Err(Errno::NOENT) => Ok(None),
                    Err(error) => Err(failed()(error)),
                };
            }
            Ok(None) => {}
            Err(Errno::NOENT) => return Ok(None),
            // What ext4 says of a directory that was removed between being found and being written to. For a moment it
            // can still be found.
            Err(Errno::PERM) if self.stat(parent)?.is_none_or(|stat| stat.st_nlink == 0) => return Ok(None),
            Err(error) => return Err(failed()(error)),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let new = match rustix::fs::openat(&self.directory, file, flags, mode) {
            Err(Errno::NOENT) => return Ok(None),
            other => File::from(other.map_err(failed())?),
        };
        if lock::try_lock(&new, Kind::Write).map_err(self.failed("lock", file))? == Attempt::Contended {
            return Ok(None);
        }
        Ok(self.leads_to(file, &new)?.map(|_| new))
    }

    /// Makes a file without a name (`O_TMPFILE`); none where the file system cannot.
    fn nameless(&self, directory: &str, mode: Mode) -> Result<Option<File>, Errno> {
        if !self.nameless_files.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, directory, flags, mode) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                self.nameless_files.store(false, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a file without a name one that is free.
    fn link(&self, file: &File, name: &str) -> Result<(), Errno> {
        match rustix::fs::linkat(file, "", &self.directory, name, AtFlags::EMPTY_PATH) {
            // Without privileges, and before Linux 6.10, by the name that /proc gives it.
            Err(Errno::NOENT) if rustix::fs::fstat(file)?.st_nlink == 0 => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                rustix::fs::linkat(CWD, path, &self.directory, name, AtFlags::SYMLINK_FOLLOW)
            }
            other => other,
        }
    }

    /// Makes a file with a content; it must not be there yet.
    pub(super) fn create(&self, file: &str, content: &str) -> Result<File, CacheError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.directory, file, flags, FILE_MODE);
        let mut opened = File::from(opened.map_err(self.failed("create", file))?);
        opened.write_all(content.as_bytes()).map_err(self.failed("write", file))?;
        Ok(opened)
    }

    /// Makes an empty file, or empties one.
    pub(super) fn create_empty(&self, file: &str) -> Result<File, CacheError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.directory, file, flags, FILE_MODE);
        Ok(opened.map_err(self.failed("create", file))?.into())
    }

    /// Reads a file; none if there is none.
    pub(super) fn read(&self, file: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat(&self.directory, file, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => return Ok(None),
            other => other.map_err(self.failed("open", file))?,
        };
        // These files are small, and one call reads all of them; the standard library asks for sizes first.
        let mut buffer = [0; USUAL_SIZE];
        let count = rustix::io::retry_on_intr(|| rustix::io::read(&opened, &mut buffer))
            .map_err(self.failed("read", file))?;
        let mut text = buffer.get(..count).unwrap_or_default().to_vec();
        if count == USUAL_SIZE {
            File::from(opened).read_to_end(&mut text).map_err(self.failed("read", file))?;
        }
        Ok(Some(text))
    }

    pub(super) fn is_there(&self, file: &str) -> Result<bool, CacheError> {
        match rustix::fs::accessat(&self.directory, file, Access::EXISTS, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(self.failed("read attributes of", file)(error)),
        }
    }

    /// The attributes of what a name is, links not followed; none if there is nothing.
    pub(super) fn stat(&self, file: &str) -> Result<Option<Stat>, CacheError> {
        match rustix::fs::statat(&self.directory, file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => Ok(None),
            Err(error) => Err(self.failed("read attributes of", file)(error)),
        }
    }

    pub(super) fn make_directory(&self, directory: &str) -> Result<(), CacheError> {
        rustix::fs::mkdirat(&self.directory, directory, Mode::from_raw_mode(0o777))
            .map_err(self.failed("create directory", directory))
    }

    /// Removes a file; false if there was none.
    pub(super) fn unlink(&self, file: &str) -> Result<bool, CacheError> {
        match rustix::fs::unlinkat(&self.directory, file, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(self.failed("remove", file)(error)),
        }
    }

    /// Removes a directory if it is empty.
    pub(super) fn remove_directory(&self, directory: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.directory, directory, AtFlags::REMOVEDIR)
    }

    /// Renames a file over another one.
    pub(super) fn rename_over(&self, from: &str, to: &str) -> Result<(), CacheError> {
        rustix::fs::renameat(&self.directory, from, &self.directory, to).map_err(self.failed("replace", to))
    }

    /// Renames something to a name that must be free.
    pub(super) fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (c_name(from)?, c_name(to)?);
        kiln_sys::rename::rename_new((&self.directory, &from), (&self.directory, &to))
    }

    /// Exchanges two entries in one step.
    pub(super) fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        let (one, other) = (c_name(one)?, c_name(other)?);
        kiln_sys::rename::exchange((&self.directory, &one), (&self.directory, &other))
    }

    /// The names in a directory; none if there is no such directory.
    pub(super) fn list(&self, directory: &str) -> Result<Vec<String>, CacheError> {
        let path = self.path.join(directory);
        let entries = match std::fs::read_dir(&path) {
            Err(error) if missing(&error) => return Ok(Vec::new()),
            other => other.map_err(CacheError::io("read directory", &path))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(CacheError::io("read directory", &path))?.file_name();
            // Names that are no text are none that the cache gives.
            if let Ok(name) = name.into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }
}

fn c_name(name: &str) -> io::Result<std::ffi::CString> {
    Ok(std::ffi::CString::new(name)?)
}

/// The paths in a directory, in no order; none if it has gone.
pub(super) fn paths(directory: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let failed = |error| CacheError::io("read directory", directory)(error);
    let Some(list) = present(std::fs::read_dir(directory), "read directory", directory)? else {
        return Ok(Vec::new());
    };
    list.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

/// Turns what has gone meanwhile into nothing.
pub(super) fn present<T>(
    result: io::Result<T>,
    action: &'static str,
    path: &Path,
) -> Result<Option<T>, CacheError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if missing(&error) => Ok(None),
        Err(error) => Err(CacheError::io(action, path)(error)),
    }
}

/// Whether an error means that a file or the directory it was in has gone.
pub(super) fn missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::StaleNetworkFileHandle)
}

/// The permission bits of a file.
pub(super) const fn permissions(stat: &Stat) -> RawMode {
    stat.st_mode & 0o7777
}
