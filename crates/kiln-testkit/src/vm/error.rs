//! Why an image is not taken as bootable.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a boot was not the expected one.
///
/// Where a machine was running, `console` holds the last lines of its console.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The image cannot be read.
    #[error("cannot read the disk image `{}`", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The emulator cannot be started.
    #[error("cannot start `{program}`")]
    Start {
        /// The emulator.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The emulator's control connection fails.
    #[error("cannot control the virtual machine ({action}){}", on_console(console))]
    Control {
        /// What was being done.
        action: &'static str,
        /// Why.
        source: io::Error,
        /// The end of the console.
        console: String,
    },
    /// The deadline passed.
    #[error("the virtual machine {missing} within {} s{}", after.as_secs(), on_console(console))]
    Deadline {
        /// What did not happen: `did not report`, `did not power off`.
        missing: &'static str,
        /// How long the machine has been running.
        after: Duration,
        /// The end of the console.
        console: String,
    },
    /// The emulator ended before the system had reported.
    #[error("the virtual machine ended early with {status}{}", on_console(console))]
    Ended {
        /// How the emulator ended, and what it said.
        status: String,
        /// The end of the console.
        console: String,
    },
    /// The console says that the system cannot come up.
    #[error("the system did not come up: {line}{}", on_console(console))]
    Fatal {
        /// The line that says so.
        line: String,
        /// The end of the console.
        console: String,
    },
    /// The report is not the expected one.
    #[error("the system came up wrong: {faults}{}", on_console(console))]
    Report {
        /// What differs.
        faults: String,
        /// The end of the console.
        console: String,
    },
    /// The machine stopped, but not because the system powered off.
    #[error("the system did not power off: the machine ended because of `{reason}`{}", on_console(console))]
    Shutdown {
        /// The emulator's reason.
        reason: String,
        /// The end of the console.
        console: String,
    },
}

fn on_console(console: &str) -> String {
    if console.is_empty() {
        return "; its console is empty".to_owned();
    }
    format!("; its console ends with:\n{console}")
}
