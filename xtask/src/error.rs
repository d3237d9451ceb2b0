//! Why a verb failed.

use std::io;
use std::path::{Path, PathBuf};

use kiln_store::cache::CacheError;
use kiln_sys::command::CommandError;
use kiln_testkit::host::HostError;
use kiln_testkit::reference_tests::ReferenceTestsError;
use kiln_testkit::vm::BootError;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The host cannot be made ready.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The image does not boot as it should.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The reference's tests cannot be run.
    #[error(transparent)]
    ReferenceTests(#[from] ReferenceTestsError),
    /// A child process failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A step of a verb failed; what went wrong stands above in its own words.
    #[error("{step} failed: `{command}` ended with {status}")]
    Step { step: String, command: String, status: String },
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// A file does not hold what it should.
    #[error("`{}` {what}", path.display())]
    Content { path: PathBuf, what: String },
    /// A cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The cache is not what it must be.
    #[error("{0}")]
    Found(String),
    /// Something that was to be made is not there.
    #[error("{0}")]
    Missing(String),
}

impl Error {
    /// Adds the path to an I/O error.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

/// An error and its causes in one text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
