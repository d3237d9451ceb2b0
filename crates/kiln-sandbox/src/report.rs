//! What a sandbox's first process tells Kiln: one JSON value over a pipe, before it ends.

use std::io;

use serde::{Deserialize, Serialize};

/// How far the sandbox got.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// An operation of the setup failed; the program was not started.
    Failed {
        /// What was being done, as a phrase for `cannot …`.
        operation: String,
        /// The error number.
        errno: i32,
    },
    /// The program ended with an exit code.
    Exited(i32),
    /// The program was ended by a signal.
    Signalled(i32),
}

impl Report {
    /// The report of a failed operation.
    pub(crate) fn failed(operation: impl Into<String>, error: &io::Error) -> Self {
        // Errors that are no system call's are of text that Kiln itself made: an invalid plan.
        let errno = error.raw_os_error().unwrap_or(rustix::io::Errno::INVAL.raw_os_error());
        Self::Failed { operation: operation.into(), errno }
    }
}
