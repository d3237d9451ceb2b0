//! How an operation on a tree fails.

use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on a tree failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// One step failed.
    #[error("cannot {action} `{path}`", path = .path.display())]
    Io {
        /// What was being done, as a verb: `copy`.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Something is mounted inside the tree.
    #[error("`{path}` is a mount point inside the tree", path = .path.display())]
    MountPoint {
        /// The mount point.
        path: PathBuf,
    },
    /// The operation was interrupted; what it had made so far is still there.
    #[error("interrupted")]
    Interrupted,
}

impl TreeError {
    /// Makes a `map_err` argument that adds the action and the path.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// The reason given by the system, if that is what went wrong.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::MountPoint { .. } | Self::Interrupted => None,
        }
    }
}
