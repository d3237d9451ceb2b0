//! Why there is no guest, or why it is of no use.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::module_tree::NoModule;

/// Why a guest could not be started or did not do its work.
///
/// Where a machine was running, `console` holds the last lines of its console.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// A program is missing.
    #[error("`{program}` is not there")]
    NoProgram {
        /// Its name.
        program: String,
        /// The packages that bring it: Debian's, Fedora's.
        packages: (&'static str, &'static str),
    },
    /// No kernel is there that could be booted.
    #[error("there is no kernel for a virtual machine below {}", list(.looked))]
    NoKernel {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// A kernel has not what a guest needs.
    #[error("the kernel {release} cannot be used: {reason}")]
    Unusable {
        /// The kernel's release.
        release: String,
        /// What is missing.
        reason: String,
    },
    /// There is no emulator for this kind of processor.
    #[error("virtual machines with processors of the kind `{0}` are not supported")]
    Architecture(&'static str),
    /// A file cannot be read or written.
    #[error("cannot {action} `{path}`", path = .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A program could not be started, or not be connected.
    #[error("cannot start `{program}`", program = .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The machine ended when it should not.
    #[error("the virtual machine ended unexpectedly with {status}{}", on_console(.console))]
    Ended {
        /// How the emulator ended, and what it said.
        status: String,
        /// The end of the console.
        console: String,
    },
    /// The machine says nothing any more.
    #[error("the virtual machine {what} within {} s{}", .after.as_secs(), on_console(.console))]
    Silent {
        /// What did not happen: `did not start`, `did not answer`.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
        /// The end of the console.
        console: String,
    },
    /// The guest could not be set up.
    #[error("the virtual machine cannot be set up: {reason}")]
    Setup {
        /// What the guest said.
        reason: String,
    },
    /// The connection with the guest failed.
    #[error("the connection with the virtual machine failed")]
    Connection(#[source] io::Error),
    /// Nobody wants the guest any more.
    #[error("interrupted")]
    Interrupted,
}

impl GuestError {
    /// An error with the action and the path, from an I/O error.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// A kernel without a module.
    pub(super) fn no_module(release: &str, error: &NoModule) -> Self {
        Self::Unusable { release: release.to_owned(), reason: error.to_string() }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoProgram { packages: (debian, fedora), .. } => {
                Some(format!("install the package `{debian}` (Fedora: `{fedora}`)"))
            }
            Self::NoKernel { .. } => Some(format!(
                "install a kernel beside the running one (Debian: `{KERNEL_PACKAGE}`, Fedora: `kernel-core`)"
            )),
            Self::Unusable { .. } => {
                Some("a kernel with virtiofs, virtio-console and overlay is needed".to_owned())
            }
            _ => None,
        }
    }
}

/// Debian's small kernel for virtual machines.
const KERNEL_PACKAGE: &str =
    if cfg!(target_arch = "aarch64") { "linux-image-cloud-arm64" } else { "linux-image-cloud-amd64" };

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ")
}

fn on_console(console: &str) -> String {
    if console.is_empty() {
        return "; its console is empty".to_owned();
    }
    format!("; its console ends with:\n{console}")
}
