//! Downloads: what they take on disk, so that one limit covers objects and downloads.
//!
//! Nobody accounts downloads when they arrive: the reference does not know that they count. Instead each directory
//! of `sources` is listed when its number is needed, and the number is remembered in `kiln.sources`:
//!
//! ```text
//! {"directories": {"org.osbuild.files": {"modified": "SECONDS.NANOSECONDS", "bytes": N, "files": M}}}
//! ```
//!
//! # Rules
//!
//! - A record holds as long as the directory's time of modification is the recorded one. It is only written when
//!   that time lies far enough back: what arrives in the same tick of the clock must not be missed. So no
//!   lock is needed, and whoever adds or removes downloads, the reference for one, need not know of it.
//! - `org.osbuild.files` is flat. Other types of content are trees (an `ostree` repository, one directory for each container), where the
//!   newest time of the directories down to [`DEPTH`] counts.
//! - Names that start with a dot, and the reference's temporary names, are content on its way: it is not counted,
//!   because it is not verified, and is reclaimed when its process has died.
//! - What has arrived of a large file outlives its process, so that another one can go on: it is counted and evicted like
//!   a download, except while somebody adds to it (`flock`), and reclaimed when it is [`STALE`]. It grows without
//!   its directory changing, so no record is made of a directory that has such files.
//! - Last use is the later one of the times of access and of modification. Kiln sets the first when a build starts.
//! - In use is what was used since the oldest live [`Session`] began, and what has further names: inputs are links.
//! - The reference registers nothing. So what was used within [`YOUNG`], and whatever is a tree, is only evicted while nobody
//!   else has the cache open.

mod count;
mod evict;
mod session;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::files::paths;
use super::{Cache, CacheError};

pub use count::Downloads;
pub(super) use evict::{Evictor, Keep, is_left};
pub use session::Session;
pub(super) use session::is_locked;

/// The record of what was counted.
pub(super) const COUNTED: &str = "kiln.sources";

/// The type of content that is one flat directory of files.
pub(super) const FILES: &str = "org.osbuild.files";

/// How far below a directory of trees changes are looked for: an `ostree` repository has its objects there.
const DEPTH: usize = 3;

/// The reference's users are taken for gone after this time; a build that needs longer between two uses is not known.
const YOUNG: Duration = Duration::from_secs(24 * 60 * 60);

/// What the names of content on its way start with: Kiln's, and the reference's of several ages.
const UNFINISHED: [&str; 3] = [".", "osbuild-unverified-file-", "tmp-download-"];

/// What Kiln's directories for content on its way start with: they are locked (`flock`) while somebody fills them.
const UNFINISHED_LOCKED: &str = ".unverified-kiln-";

/// What the names start with of what has arrived of a file; the rest is the name that the file gets.
const PARTIAL: &str = ".partial-kiln-";

/// Who has not gone on with a file after this time does not come back.
const STALE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// One download: a file, or a tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Download {
    /// When it was last used; first, so that sorting puts the oldest in front.
    pub(super) last_used: SystemTime,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its bytes on disk.
    pub(super) bytes: u64,
    /// Whether it is a directory.
    pub(super) is_tree: bool,
    /// Whether it has further names: an input is made of links.
    pub(super) is_linked: bool,
    /// Whether it is only what has arrived of a file.
    pub(super) is_partial: bool,
}

impl Download {
    /// The type of content and the name in it.
    pub(super) fn name(&self) -> String {
        let part = |path: Option<&Path>| {
            path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        format!("{}/{}", part(self.path.parent()), part(Some(&self.path)))
    }
}

impl Cache {
    /// The directories of `sources`, one for each type of content.
    pub(super) fn content_directories(&self) -> Result<Vec<PathBuf>, CacheError> {
        let mut found = paths(&self.sources())?;
        found.retain(|path| path.is_dir() && !path.is_symlink());
        found.sort();
        Ok(found)
    }

    /// All downloads that are whole, in no order.
    pub(super) fn list_downloads(&self) -> Result<Vec<Download>, CacheError> {
        let mut found = Vec::new();
        for directory in self.content_directories()? {
            for path in paths(&directory)? {
                if !is_unfinished(&path)
                    && let Some(download) = count::look_at(path)?
                {
                    found.push(download);
                }
            }
        }
        Ok(found)
    }

    /// Removes content on its way that nobody fills any more, and says how many bytes it took. Directories of the reference
    /// have no locks: they are judged only while nobody else has the cache open.
    pub(super) fn reclaim_downloads(&self, alone: bool) -> Result<u64, CacheError> {
        let mut freed = 0;
        for directory in self.content_directories()? {
            for path in paths(&directory)? {
                if is_unfinished(&path) {
                    freed += evict::reclaim_unfinished(&path, alone)?;
                } else if is_partial(&path) {
                    freed += evict::reclaim_partial(&path)?;
                }
            }
        }
        Ok(freed)
    }
}

/// Whether a path among the downloads is content on its way.
pub(super) fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    UNFINISHED.iter().any(|prefix| name.starts_with(prefix)) && !is_partial(path)
}

/// Whether a path among the downloads is what has arrived of a file.
pub(super) fn is_partial(path: &Path) -> bool {
    path.file_name().unwrap_or_default().to_string_lossy().starts_with(PARTIAL)
}

#[cfg(test)]
mod tests;
