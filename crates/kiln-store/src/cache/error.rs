//! How the cache fails. A miss and a refusal are no failures.

use std::io;
use std::path::{Path, PathBuf};

use crate::tree::TreeError;

/// Why the cache could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// An operation on a file of the cache failed.
    #[error("cannot {action} `{path}`", path = .path.display())]
    Io {
        /// What was being done, as a verb: `lock`.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file of the cache holds something else than it must.
    #[error("cannot understand `{path}`", path = .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A name that no entry can have.
    #[error("invalid cache entry name `{name}`: {reason}")]
    Name {
        /// The name.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// An operation on the tree of an entry failed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The wait for a lock was interrupted.
    #[error("interrupted")]
    Interrupted,
}

impl CacheError {
    /// Makes a `map_err` argument that adds the action and the path.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.as_ref().to_owned(), source: source.into() }
    }
}
