//! Content that arrives piece by piece, perhaps over several tries and several runs.
//!
//! ```text
//! sources/org.osbuild.files/.partial-kiln-sha256:…   what has arrived of a large file
//! ```
//!
//! Of a file that is small nothing is kept: it arrives in the [`Workspace`], which goes with the run. What has arrived
//! of a large one stays when the run ends without the rest, however it ends. It is locked (`flock`) while somebody
//! adds to it; whoever finds it locked downloads the whole file for itself. The name never is one that a manifest
//! can name, and whoever does not know of such files ignores them.
//!
//! No validator (`ETag`, `Last-Modified`) is kept beside it: the name says which content is wanted, so whatever server
//! goes on is right or wrong by the checksum of the whole, and other mirrors, which never share validators, can go on where
//! one broke. What turns out wrong is dropped, and the next try begins at the first byte.
//!
//! The checksum is computed as the content arrives, once; what an earlier run has left is read once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use kiln_api::ModuleError;

use super::content::{PARTIAL, Workspace, finish};
use crate::checksum::{Checksum, Hasher};

/// A file from so many bytes on outlives the run; fetching fewer again costs less than keeping them.
pub(super) const KEPT_FROM: u64 = 1 << 20;
/// How much is read at once of what an earlier run has left.
const BUFFER: usize = 256 * 1024;

/// A file that grows.
pub(super) struct Arriving {
    file: File,
    path: PathBuf,
    target: PathBuf,
    checksum: Checksum,
    hasher: Hasher,
    bytes: u64,
    /// Whether it stays when it is dropped before it is whole.
    kept: bool,
}

impl Arriving {
    /// Begins a file of that size, if it is known; without one it is taken for a large one.
    pub(super) fn begin(
        workspace: &Workspace,
        checksum: &Checksum,
        size: Option<u64>,
    ) -> Result<Self, ModuleError> {
        if size.is_none_or(|size| size >= KEPT_FROM)
            && let Some(mut kept) = Self::open(workspace, checksum, true)?
        {
            kept.restart()?;
            return Ok(kept);
        }
        let path = workspace.path().join(checksum.as_str());
        let file = File::create(&path).map_err(ModuleError::io("create", &path))?;
        Ok(Self::new(workspace, checksum, file, path, false))
    }

    /// What an earlier run has left of a file, if nobody else adds to it. `go_on` is asked now and then.
    pub(super) fn resume(
        workspace: &Workspace,
        checksum: &Checksum,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Self>, ModuleError> {
        if !workspace.may_have(checksum) {
            return Ok(None);
        }
        let Some(mut found) = Self::open(workspace, checksum, false)? else { return Ok(None) };
        let mut buffer = vec![0; BUFFER];
        while go_on() {
            let count = match found.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ModuleError::io("read", &found.path)(error)),
            };
            found.hasher.update(buffer.get(..count).unwrap_or_default());
            found.bytes += count as u64;
        }
        Ok(Some(found))
    }

    /// Opens the file that stays; none if somebody else adds to it, or if it is not there and must not be made.
    fn open(workspace: &Workspace, checksum: &Checksum, create: bool) -> Result<Option<Self>, ModuleError> {
        let path = workspace.content_directory().join(format!("{PARTIAL}{checksum}"));
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(create).mode(0o600);
            options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
            let file = match options.open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !create => return Ok(None),
                Err(error) => return Err(ModuleError::io("open", &path)(error)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(ModuleError::io("lock", &path)(error)),
            }
            // Whoever held the lock may have given the file its final name, or removed it.
            let here = file.metadata().map_err(ModuleError::io("read attributes of", &path))?;
            let there = fs::symlink_metadata(&path);
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino())) {
                return Ok(Some(Self::new(workspace, checksum, file, path, true)));
            }
        }
    }

    fn new(workspace: &Workspace, checksum: &Checksum, file: File, path: PathBuf, kept: bool) -> Self {
        Self {
            file,
            path,
            target: workspace.content_directory().join(checksum.as_str()),
            checksum: checksum.clone(),
            hasher: checksum.algorithm().hasher(),
            bytes: 0,
            kept,
        }
    }

    /// How many bytes have arrived.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds what arrives.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ModuleError> {
        if let Err(error) = self.file.write_all(bytes) {
            // Most often the disk is full, and what has arrived makes it no emptier.
            self.kept = false;
            return Err(ModuleError::io("write", &self.path)(error));
        }
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Begins again with the first byte.
    pub(super) fn restart(&mut self) -> Result<(), ModuleError> {
        let truncate = || ModuleError::io("truncate", &self.path);
        // Only if there is something: ext4 writes a file that was truncated to nothing out when it is closed, which
        // takes as long as the download.
        if self.file.metadata().map_err(truncate())?.len() > 0 {
            self.file.set_len(0).map_err(truncate())?;
        }
        self.file.seek(SeekFrom::Start(0)).map_err(ModuleError::io("truncate", &self.path))?;
        self.hasher = self.checksum.algorithm().hasher();
        self.bytes = 0;
        Ok(())
    }

    /// The checksum of what has arrived.
    pub(super) fn checksum(&self) -> Checksum {
        self.hasher.clone().finish()
    }

    /// Moves the content to its place: it was found to be right.
    pub(super) fn commit(mut self) -> Result<(), ModuleError> {
        finish(&self.file, &self.path, &self.target)?;
        // It is not there any more under the name that would be removed.
        self.kept = true;
        Ok(())
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if !self.kept || self.bytes == 0 && fs::symlink_metadata(&self.path).is_ok_and(|stat| stat.len() == 0)
        {
            // Best effort: the workspace goes as a whole, and an empty file harms nobody.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const ABC: &str = "md5:900150983cd24fb0d6963f7d28e17f72";

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("readable");
        let names = entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with(".unverified-kiln-")).collect();
        names.sort();
        names
    }

    fn begin(cache: &Path, size: u64) -> (Workspace, Arriving) {
        let workspace = Workspace::create(cache).expect("workspace");
        let checksum = Checksum::parse(ABC).expect("checksum");
        let arriving = Arriving::begin(&workspace, &checksum, Some(size)).expect("begun");
        (workspace, arriving)
    }

    fn resume(cache: &Path) -> Option<Arriving> {
        let workspace = Workspace::create(cache).expect("workspace");
        let checksum = Checksum::parse(ABC).expect("checksum");
        Arriving::resume(&workspace, &checksum, &|| true).expect("readable")
    }

    #[test]
    fn what_has_arrived_of_a_large_file_stays() {
        let cache = tempfile::tempdir().expect("tempdir");
        let (workspace, mut arriving) = begin(cache.path(), KEPT_FROM);
        arriving.write(b"a").expect("written");
        drop((workspace, arriving));
        assert_eq!(names(cache.path()), [format!("{PARTIAL}{ABC}")]);
        let mut resumed = resume(cache.path()).expect("it is there");
        assert_eq!(resumed.bytes(), 1);
        resumed.write(b"bc").expect("written");
        assert_eq!(resumed.checksum().as_str(), ABC);
        resumed.commit().expect("committed");
        assert_eq!(names(cache.path()), [ABC]);
        assert_eq!(fs::read(cache.path().join(ABC)).expect("read"), b"abc");
        assert!(resume(cache.path()).is_none());
    }

    #[test]
    fn nothing_stays_of_what_is_small_or_has_not_begun() {
        let cache = tempfile::tempdir().expect("tempdir");
        for (size, content) in [(KEPT_FROM - 1, "ab"), (KEPT_FROM, "")] {
            let (workspace, mut arriving) = begin(cache.path(), size);
            arriving.write(content.as_bytes()).expect("written");
            drop((arriving, workspace));
            assert_eq!(names(cache.path()), [""; 0], "{size}");
        }
    }

    #[test]
    fn only_one_adds_to_what_has_arrived() {
        let cache = tempfile::tempdir().expect("tempdir");
        let (_workspace, mut first) = begin(cache.path(), KEPT_FROM);
        first.write(b"a").expect("written");
        assert!(resume(cache.path()).is_none(), "somebody adds to it");
        let (_other, mut second) = begin(cache.path(), KEPT_FROM);
        second.write(b"abc").expect("written");
        second.commit().expect("committed");
        first.write(b"bc").expect("written");
        first.commit().expect("committed");
        assert_eq!(names(cache.path()), [ABC]);
    }

    #[test]
    fn what_was_begun_again_is_forgotten() {
        let cache = tempfile::tempdir().expect("tempdir");
        let (_workspace, mut arriving) = begin(cache.path(), KEPT_FROM);
        arriving.write(b"xyzw").expect("written");
        arriving.restart().expect("truncated");
        arriving.write(b"abc").expect("written");
        assert_eq!((arriving.bytes(), arriving.checksum().as_str()), (3, ABC));
        drop(arriving);
        let (_workspace, arriving) = begin(cache.path(), KEPT_FROM);
        assert_eq!(arriving.bytes(), 0, "who begins does not go on");
    }
}
