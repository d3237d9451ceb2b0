//! How the object store fails.

use std::io;
use std::path::{Path, PathBuf};

use crate::cache::CacheError;
use crate::tree::TreeError;

/// Why the object store could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// An operation on a file of an object failed.
    #[error("cannot {action} `{path}`", path = .path.display())]
    Io {
        /// What was being done, as a verb: `read`.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A stage reported something that is not JSON.
    #[error("invalid metadata of stage `{id}`")]
    Metadata {
        /// The id of the stage.
        id: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// An operation on a tree failed.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl ObjectError {
    /// Whether the operation ended because the run was interrupted.
    pub const fn is_interrupted(&self) -> bool {
        matches!(
            self,
            Self::Tree(TreeError::Interrupted)
                | Self::Cache(CacheError::Interrupted | CacheError::Tree(TreeError::Interrupted))
        )
    }

    pub(super) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.as_ref().to_owned(), source: source.into() }
    }
}
