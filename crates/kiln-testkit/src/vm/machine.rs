//! The virtual machine: starting it, listening to it, and ending it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_sys::command::{describe, die_with_parent};

use super::BootError;
use super::console::{Console, Silence};
use super::qmp::Qmp;
use super::report::{BootReport, Collector};

/// The emulator.
const QEMU: &str = "qemu-system-x86_64";
/// Selects the accelerator: see the module's text.
const ACCELERATOR: &str = "KILN_VM_ACCEL";
/// Bytes at the start of a qcow2 image.
const QCOW2: &[u8] = b"QFI\xfb";
/// How long the emulator may take to answer on its control connection before the guest runs.
const GREETING: Duration = Duration::from_secs(60);

/// Console texts after which a system does not come up any more.
const FATAL: &[&str] = &[
    "Kernel panic - not syncing",
    "You are in emergency mode",
    "Entering emergency mode",
    "No bootable device",
    "Unable to find root device",
    "Gave up waiting for root",
];

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The kernel's virtual machine.
    Kvm,
    /// The emulator itself.
    Tcg,
}

impl Accelerator {
    /// The accelerator to use here: emulation unless the environment asks for KVM and it can be opened.
    fn choose() -> Self {
        let asked = std::env::var_os(ACCELERATOR).is_some_and(|value| value == "kvm");
        let opens = || File::options().read(true).write(true).open("/dev/kvm").is_ok();
        if asked && opens() { Self::Kvm } else { Self::Tcg }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// What starts the boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// That of a PC of old: the emulator's own.
    Bios,
    /// UEFI without Secure Boot, of the package `ovmf`: [`OVMF`](crate::host::OVMF).
    Uefi,
}

impl Firmware {
    fn arguments(self) -> Vec<String> {
        match self {
            Self::Bios => Vec::new(),
            // What the firmware notes is thrown away, too: each boot is the first one.
            Self::Uefi => [("CODE", "readonly=on"), ("VARS", "snapshot=on")]
                .iter()
                .flat_map(|(part, option)| {
                    let file = format!("/usr/share/OVMF/OVMF_{part}_4M.fd");
                    ["-drive".to_owned(), format!("if=pflash,format=raw,{option},file={file}")]
                })
                .collect(),
        }
    }
}

/// What an image is to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// A virtio disk.
    Disk,
    /// A disc in an ATA drive.
    Disc,
    /// A stick on USB.
    Stick,
}

impl Medium {
    /// How the image is given, and what else that takes.
    fn arguments(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Disk => ("if=virtio,snapshot=on", &[]),
            Self::Disc => ("if=ide,media=cdrom,readonly=on", &[]),
            Self::Stick => (
                "if=none,id=stick,snapshot=on",
                &["-device", "qemu-xhci", "-device", "usb-storage,drive=stick,bootindex=0"],
            ),
        }
    }
}

/// A running virtual machine; dropping it ends it.
#[derive(Debug)]
pub struct Machine {
    emulator: Child,
    console: Console,
    qmp: Qmp,
    accelerator: Accelerator,
    started: Instant,
}

impl Machine {
    /// Starts a machine with an image as its only medium; what the guest writes is thrown away.
    pub fn start(image: &Path, firmware: Firmware, medium: Medium) -> Result<Self, BootError> {
        let format =
            format_of(image).map_err(|source| BootError::Image { path: image.to_owned(), source })?;
        let accelerator = Accelerator::choose();
        let failed = |source| BootError::Start { program: QEMU, source };
        // Both connections are standard streams of the child: no socket file, no port, nothing to wait for.
        let (control, its_control) = UnixStream::pair().map_err(failed)?;
        let (port, its_port) = UnixStream::pair().map_err(failed)?;
        let (kind, devices) = medium.arguments();
        let mut drive = std::ffi::OsString::from(format!("{kind},format={format},file="));
        drive.push(escape(image));
        let mut command = Command::new(QEMU);
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            // Without graphics the firmware and the boot loader speak on the serial port, too.
            .args(["-machine", "pc,graphics=off", "-m", "1024", "-smp", "2"])
            .args(accelerator.arguments())
            .args(firmware.arguments())
            .args(["-chardev", "socket,id=control,fd=0", "-mon", "chardev=control,mode=control"])
            .args(["-chardev", "socket,id=console,fd=1", "-serial", "chardev:console"])
            .args(["-netdev", "user,id=net,restrict=on"])
            .args(["-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"])
            .arg("-drive")
            .arg(drive)
            .args(devices)
            .stdin(OwnedFd::from(its_control))
            .stdout(OwnedFd::from(its_port))
            .stderr(Stdio::piped());
        die_with_parent(&mut command);
        let started = Instant::now();
        let mut emulator = command.spawn().map_err(failed)?;
        // The command holds the emulator's ends of the connections; while it does, their end is never seen.
        drop(command);
        let mut console = Console::new(port);
        match Qmp::new(control, started + GREETING) {
            Ok(qmp) => Ok(Self { emulator, console, qmp, accelerator, started }),
            Err(source) if source.kind() == io::ErrorKind::TimedOut => {
                // Best effort: it may have ended in the meantime.
                let _ = emulator.kill();
                let _ = emulator.wait();
                Err(BootError::Control { action: "greeting", source, console: console.last_lines() })
            }
            // It refused its arguments or the image, and said why.
            Err(_) => {
                let status = end_of(&mut emulator);
                Err(BootError::Ended { status, console: console.last_lines() })
            }
        }
    }

    /// Waits for the system's report.
    pub fn report(&mut self, deadline: Instant) -> Result<BootReport, BootError> {
        let mut collector = Collector::default();
        loop {
            match self.console.line(deadline) {
                Ok(line) => {
                    if let Some(values) = collector.take(&line) {
                        let boot_time = self.started.elapsed();
                        let accelerator = self.accelerator;
                        return Ok(BootReport {
                            values,
                            boot_time,
                            shutdown_time: Duration::ZERO,
                            accelerator,
                        });
                    }
                    if FATAL.iter().any(|text| line.contains(text)) {
                        return Err(BootError::Fatal { line, console: self.last_lines() });
                    }
                }
                Err(Silence::Deadline) => return Err(self.too_late("did not report")),
                Err(Silence::Closed) => {
                    let status = end_of(&mut self.emulator);
                    return Err(BootError::Ended { status, console: self.last_lines() });
                }
            }
        }
    }

    /// Presses the power button, waits until the system has powered off, and says how long that took.
    ///
    /// Only a power-off by the system itself counts: a reset, a crash or an end of the emulator does not.
    pub fn power_off(&mut self, deadline: Instant) -> Result<Duration, BootError> {
        let pressed = Instant::now();
        let result = self
            .qmp
            .execute("system_powerdown", deadline)
            .and_then(|()| self.qmp.wait_for_shutdown(deadline));
        match result {
            Ok(reason) if reason == "guest-shutdown" => {}
            Ok(reason) => return Err(BootError::Shutdown { reason, console: self.last_lines() }),
            Err(source) if source.kind() == io::ErrorKind::TimedOut => {
                return Err(self.too_late("did not power off"));
            }
            Err(source) => {
                return Err(BootError::Control { action: "power off", source, console: self.last_lines() });
            }
        }
        // The console closes when the emulator ends.
        while self.console.line(deadline).is_ok() {}
        let status = end_of(&mut self.emulator);
        if status != "exit status 0" {
            return Err(BootError::Ended { status, console: self.last_lines() });
        }
        Ok(pressed.elapsed())
    }

    /// The last lines of the console.
    pub fn last_lines(&mut self) -> String {
        self.console.last_lines()
    }

    fn too_late(&mut self, missing: &'static str) -> BootError {
        BootError::Deadline { missing, after: self.started.elapsed(), console: self.last_lines() }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for already.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// The format of an image, by its first bytes.
fn format_of(image: &Path) -> io::Result<&'static str> {
    let mut magic = Vec::new();
    File::open(image)?.take(QCOW2.len() as u64).read_to_end(&mut magic)?;
    Ok(if magic == QCOW2 { "qcow2" } else { "raw" })
}

/// A path as a value of the emulator's option syntax, where a comma is doubled.
fn escape(path: &Path) -> std::ffi::OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        escaped.push(byte);
        if byte == b',' {
            escaped.push(byte);
        }
    }
    std::ffi::OsString::from_vec(escaped)
}

/// Waits for an emulator that is ending, and says how it ended and what it wrote.
fn end_of(emulator: &mut Child) -> String {
    let mut said = String::new();
    if let Some(mut stderr) = emulator.stderr.take() {
        // Best effort: the status matters more than the words.
        let _ = stderr.read_to_string(&mut said);
    }
    let status = match emulator.wait() {
        Ok(status) => describe(status),
        Err(error) => error.to_string(),
    };
    if status == "exit status 0" || said.trim().is_empty() {
        status
    } else {
        format!("{status}: {}", said.trim())
    }
}
