//! Boots a disk image in a virtual machine and checks that the system comes up and goes down.
//!
//! The machine is QEMU's `pc` with `SeaBIOS` or OVMF (UEFI) for a firmware, 1 GiB of memory, two processors, the image as a virtio
//! disk, a disc in an ATA drive or a USB stick that is never written to, a network card that reaches nobody, and the first serial port as its only
//! console. Nothing here waits for a fixed time: every step waits for an event, all together have one deadline.
//!
//! # Protocol
//!
//! The system under test says how it is on its first serial port (`/dev/ttyS0`), one pair per line, whenever its
//! start has come to an end, well or not:
//!
//! ```text
//! KILN-REPORT state=running
//! KILN-REPORT failed-units=0
//! KILN-REPORT hostname=kiln-demo
//! KILN-REPORT users=alice bob
//! KILN-REPORT end=1
//! ```
//!
//! - `state` is what `systemctl is-system-running` prints;
//! - `failed-units` is the number of units that failed; where it is not zero, `failed` may name them;
//! - `hostname` is the name of the running system;
//! - `users` are the names of the accounts that people log in with, separated by blanks;
//! - further keys are kept in the report and not looked at;
//! - `end=1` is the last line. After it the system stays up until its power button is pressed.
//!
//! A login prompt has no end of line, so a report line is recognised anywhere in a console line.
//!
//! # Acceleration
//!
//! The processor is emulated (`tcg`) unless `KILN_VM_ACCEL=kvm` is set and `/dev/kvm` can be opened: on machines
//! that are virtual themselves `/dev/kvm` often exists, runs a boot sector, and then hangs in a real kernel,
//! so that no cheap trial tells whether it works.

mod console;
mod error;
mod machine;
mod qmp;
mod report;

use std::path::Path;
use std::time::{Duration, Instant};

pub use error::BootError;
pub use machine::{Accelerator, Firmware, Machine, Medium};
pub use report::BootReport;

/// How long a system may take from power-on to power-off: an emulated processor on a busy machine needs about
/// a minute and a half, and waiting longer than necessary costs only those whose image is broken.
const DEADLINE: Duration = Duration::from_secs(600);

/// What a system that has come up must say of itself.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// The host's name.
    pub hostname: String,
    /// An account that must be there.
    pub user: String,
    /// How long the system may take from power-on to power-off.
    pub deadline: Duration,
    /// What starts the boot loader.
    pub firmware: Firmware,
    /// What the image is to the machine.
    pub medium: Medium,
}

impl Expectation {
    /// Expects a host name and an account, within the usual time.
    pub fn new(hostname: impl Into<String>, user: impl Into<String>) -> Self {
        let (firmware, medium) = (Firmware::Bios, Medium::Disk);
        Self { hostname: hostname.into(), user: user.into(), deadline: DEADLINE, firmware, medium }
    }

    /// The same, with another firmware.
    #[must_use]
    pub fn with(self, firmware: Firmware) -> Self {
        Self { firmware, ..self }
    }

    /// The same, with the image as another medium.
    #[must_use]
    pub fn on(self, medium: Medium) -> Self {
        Self { medium, ..self }
    }
}

/// Boots an image, raw or qcow2, or of a disc, checks what the system reports, and has it power off.
///
/// The image is not changed. The state must be `running`, no unit may have failed, the host name and the account
/// must be as expected, and the system must follow its power button in the time that is left.
pub fn check_boot(image: &Path, expectation: &Expectation) -> Result<BootReport, BootError> {
    let deadline = Instant::now() + expectation.deadline;
    let mut machine = Machine::start(image, expectation.firmware, expectation.medium)?;
    let report = machine.report(deadline)?;
    let faults = report.faults(expectation);
    if !faults.is_empty() {
        return Err(BootError::Report { faults: faults.join(", "), console: machine.last_lines() });
    }
    let shutdown_time = machine.power_off(deadline)?;
    Ok(BootReport { shutdown_time, ..report })
}
