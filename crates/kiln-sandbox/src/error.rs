//! Why a sandbox could not be set up.

use std::io;
use std::path::PathBuf;

/// Why a sandbox could not be set up or waited for. That its program failed is no such error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// Kiln may not have a mount namespace of its own.
    #[error("cannot enter a private mount namespace")]
    PrivateNamespace(#[source] io::Error),
    /// The helper could not be started, or not be told its plan.
    #[error("cannot start the sandbox with `{program}`", program = .program.display())]
    Start {
        /// The helper's path.
        program: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// An operation failed inside the new namespaces.
    #[error("cannot set up the build root: cannot {operation}")]
    Setup {
        /// What was being done, as `bind "/tree/usr" to "/usr"`.
        operation: String,
        /// The reason.
        source: io::Error,
    },
    /// The helper ended without a word; normally somebody killed it.
    #[error("the sandbox's first process ended unexpectedly: {status}")]
    Lost {
        /// How it ended.
        status: String,
    },
    /// The kernel did not let Kiln wait for the sandbox.
    #[error("cannot wait for the sandbox")]
    Wait(#[source] io::Error),
    /// A plan asks for a capability that does not exist.
    #[error("unknown capability `{name}`")]
    UnknownCapability {
        /// The name as it was given.
        name: String,
    },
    /// Something on the host could not be prepared.
    #[error("cannot {action} `{path}`", path = .path.display())]
    Host {
        /// What was being done.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}
