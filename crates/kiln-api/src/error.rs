//! How a module fails: few kinds, each with the path or the name that its source does not have.

use std::io;
use std::path::{Path, PathBuf};

/// Why a module could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// An operation on a path failed.
    #[error("cannot {action} `{path}`: {source}", path = .path.display())]
    Io {
        /// What was being done, as a verb: `create directory`.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// An option has a value that its schema cannot rule out.
    #[error("invalid option `{option}`: {reason}")]
    Option {
        /// The option's path, as `paths[2].mode`.
        option: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A program of the build root or the host failed.
    #[error("`{program}` failed with {status}{}", tail(.stderr))]
    Command {
        /// The program's name.
        program: String,
        /// `exit status 1`, `signal 9`, or why it could not be started.
        status: String,
        /// The end of what it wrote to its standard error; may be empty.
        stderr: String,
    },
    /// Something the module found is not as it must be: a damaged archive, an unexpected answer.
    #[error("{0}")]
    Invalid(String),
    /// The run was interrupted.
    #[error("interrupted")]
    Interrupted,
}

impl ModuleError {
    /// Makes a `map_err` argument that adds the action and the path to an I/O error.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.as_ref().to_owned(), source }
    }

    /// Rejects an option's value.
    pub fn option(option: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Option { option: option.into(), reason: reason.into() }
    }

    /// Reports something that is not as it must be.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid(reason.into())
    }
}

impl From<kiln_sys::command::CommandError> for ModuleError {
    fn from(error: kiln_sys::command::CommandError) -> Self {
        Self::Command { program: error.program, status: error.status, stderr: error.stderr }
    }
}

fn tail(stderr: &str) -> String {
    match stderr.trim_end() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}
