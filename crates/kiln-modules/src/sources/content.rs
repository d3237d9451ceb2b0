//! The cache directory of one content type, as sources fill it.
//!
//! ```text
//! sources/org.osbuild.files/sha256:…                verified content, mode 644, never changed again
//! sources/org.osbuild.files/.unverified-kiln-…/     content on its way, of one running download
//! sources/org.osbuild.files/.partial-kiln-sha256:…  what has arrived of a large file ([`arriving`](super::arriving))
//! ```
//!
//! Content appears under its name by a rename and only after its checksum was found right. Several programs
//! may fill one directory: whoever renames later replaces a file by one with the same bytes. The directory
//! of a running download is locked (`flock`); one that is not locked was left by a process that died, and is
//! removed by the next download. What has arrived of a file is of use for [`USEFUL`] and is removed then.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kiln_api::ModuleError;

use crate::checksum::Checksum;

const PREFIX: &str = ".unverified-kiln-";

/// What the names start with of what has arrived of a file; `kiln-store` counts and evicts it as a download.
pub(super) const PARTIAL: &str = ".partial-kiln-";

/// How long what has arrived of a file is kept after the last byte.
const USEFUL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The time of modification of all content: the first second after the epoch, because some programs take 0 for
/// "no time".
const MODIFIED: Duration = Duration::from_secs(1);

/// Whether verified content is in the cache.
///
/// A file without bytes where there should be some does not count: a crash of the machine may leave that
/// behind on file systems that allocate late.
pub(super) fn is_cached(directory: &Path, checksum: &Checksum, size: Option<u64>) -> bool {
    match fs::metadata(directory.join(checksum.as_str())) {
        Ok(metadata) if metadata.is_file() => match size {
            Some(size) => metadata.len() == size,
            None => metadata.len() > 0 || checksum.is_of_nothing(),
        },
        _ => false,
    }
}

/// A directory for content on its way; removed when dropped.
pub(super) struct Workspace {
    directory: PathBuf,
    /// Files of which something had arrived when the workspace was made.
    begun: HashSet<String>,
    /// Holds the lock.
    _lock: File,
}

impl Workspace {
    /// Makes the directory of the content type if need be, and a workspace in it.
    pub(super) fn create(directory: &Path) -> Result<Self, ModuleError> {
        fs::create_dir_all(directory).map_err(ModuleError::io("create directory", directory))?;
        let begun = remove_stale(directory);
        loop {
            let path = tempfile::Builder::new()
                .prefix(PREFIX)
                .tempdir_in(directory)
                .map_err(ModuleError::io("create directory in", directory))?
                .keep();
            // Another process may take the directory for a stale one before the lock is held.
            let Ok(lock) = File::open(&path) else { continue };
            if lock.try_lock().is_err() || lock.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
                continue;
            }
            return Ok(Self { directory: path, begun, _lock: lock });
        }
    }

    /// The directory: only its owner may look into it.
    pub(super) fn path(&self) -> &Path {
        &self.directory
    }

    /// The directory of the content type.
    pub(super) fn content_directory(&self) -> &Path {
        self.directory.parent().unwrap_or(Path::new(""))
    }

    /// Whether something of a file may have arrived earlier: for most it has not, and nobody has to look.
    pub(super) fn may_have(&self, checksum: &Checksum) -> bool {
        self.begun.contains(checksum.as_str())
    }

    /// Makes an empty file for content that is still to be verified.
    pub(super) fn file(&self, checksum: &Checksum) -> Result<Unverified, ModuleError> {
        let path = self.directory.join(checksum.as_str());
        let file = File::create(&path).map_err(ModuleError::io("create", &path))?;
        Ok(Unverified { file, path, name: checksum.as_str().to_owned(), renamed: false })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Best effort: what stays is unlocked from now on, and the next download removes it.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A file whose content is still to be verified; removed when dropped.
pub(super) struct Unverified {
    /// The file, to be written to.
    pub(super) file: File,
    path: PathBuf,
    name: String,
    renamed: bool,
}

impl Unverified {
    /// Where the file is for now, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the content to its place: it was found to be right.
    pub(super) fn commit(mut self) -> Result<(), ModuleError> {
        let target = self.path.parent().and_then(Path::parent).unwrap_or(Path::new("")).join(&self.name);
        finish(&self.file, &self.path, &target)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Unverified {
    fn drop(&mut self) {
        if !self.renamed {
            // Best effort: the workspace goes as a whole.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Gives a file the attributes and the name of verified content.
pub(super) fn finish(file: &File, path: &Path, target: &Path) -> Result<(), ModuleError> {
    // The mode is set, not asked for: the umask of whoever runs this must not decide who can read.
    file.set_permissions(Permissions::from_mode(0o644)).map_err(ModuleError::io("set the mode of", path))?;
    // The time of the download says nothing about the content, and stages that copy files keep their times:
    // with it, two builds of the same manifest would differ.
    file.set_modified(SystemTime::UNIX_EPOCH + MODIFIED).map_err(ModuleError::io("set the time of", path))?;
    fs::rename(path, target).map_err(ModuleError::io("move content to", target))
}

/// Removes what dead processes left, and says of which files something has arrived. Best effort: what stays harms
/// nobody, and the next download tries again.
fn remove_stale(directory: &Path) -> HashSet<String> {
    let mut begun = HashSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if let Some(checksum) = name.strip_prefix(PARTIAL) {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
            if age <= USEFUL {
                begun.insert(checksum.to_owned());
            } else if let Ok(lock) = File::open(&path)
                && lock.try_lock().is_ok()
            {
                let _ = fs::remove_file(&path);
            }
            continue;
        }
        if name.starts_with(PREFIX)
            && let Ok(lock) = File::open(&path)
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(&path);
        }
    }
    begun
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ABC: &str = "md5:900150983cd24fb0d6963f7d28e17f72";

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("readable");
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn content_appears_under_its_name_and_nothing_else_stays() {
        let cache = tempfile::tempdir().expect("tempdir");
        let checksum = Checksum::parse(ABC).expect("checksum");
        let workspace = Workspace::create(cache.path()).expect("workspace");
        let mut file = workspace.file(&checksum).expect("file");
        file.file.write_all(b"abc").expect("write");
        assert!(!is_cached(cache.path(), &checksum, None));
        file.commit().expect("commit");
        drop(workspace.file(&checksum).expect("a file that is given up"));
        drop(workspace);
        assert_eq!(names(cache.path()), [ABC]);
        assert!(is_cached(cache.path(), &checksum, None));
        assert!(is_cached(cache.path(), &checksum, Some(3)));
        assert!(!is_cached(cache.path(), &checksum, Some(4)));
        let metadata = fs::metadata(cache.path().join(ABC)).expect("metadata");
        assert_eq!(metadata.mode() & 0o7777, 0o644);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1, 0), "it is not the time of the download");
    }

    #[test]
    fn an_empty_file_counts_only_if_it_should_be_empty() {
        let cache = tempfile::tempdir().expect("tempdir");
        let empty = "md5:d41d8cd98f00b204e9800998ecf8427e";
        for (name, expected) in [(ABC, false), (empty, true)] {
            fs::write(cache.path().join(name), "").expect("write");
            let checksum = Checksum::parse(name).expect("checksum");
            assert_eq!(is_cached(cache.path(), &checksum, None), expected, "{name}");
        }
    }

    #[test]
    fn what_has_arrived_is_of_use_for_some_days() {
        let cache = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| cache.path().join(format!("{PARTIAL}{name}"));
        for (name, days) in [("young", 6), ("old", 8), ("old and in use", 8)] {
            let file = File::create(path(name)).expect("made");
            let time = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
            file.set_modified(time).expect("set");
        }
        let used = File::open(path("old and in use")).expect("opened");
        used.lock().expect("locked");
        let workspace = Workspace::create(cache.path()).expect("workspace");
        assert_eq!(workspace.begun, HashSet::from(["young".to_owned()]));
        assert!(path("young").exists() && !path("old").exists() && path("old and in use").exists());
    }

    #[test]
    fn only_what_nobody_uses_is_stale() {
        let cache = tempfile::tempdir().expect("tempdir");
        let dead = cache.path().join(format!("{PREFIX}dead"));
        let foreign = cache.path().join(".unverified-someone-else");
        fs::create_dir(&dead).expect("mkdir");
        fs::write(dead.join("part"), "x").expect("write");
        fs::create_dir(&foreign).expect("mkdir");
        let running = Workspace::create(cache.path()).expect("workspace");
        let second = Workspace::create(cache.path()).expect("workspace");
        assert!(!dead.exists());
        assert!(foreign.exists() && running.directory.exists() && second.directory.exists());
    }
}
