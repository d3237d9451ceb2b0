//! A virtual machine with a kernel of its own, for what the host's kernel lacks: file systems, device mapper, a fresh
//! mount table.
//!
//! The machine is QEMU; its first process is Kiln itself, alone in an initial RAM disk that is made for each start. The host's
//! directories are shared by virtiofs, under the paths that they have on the host, so that a path means the same on both
//! sides:
//!
//! ```text
//! host                                            guest
//! /             ── virtiofsd ── virtiofs ──▶  /             below an overlay in memory: nothing of it reaches the host
//! CACHE, …      ── virtiofsd ── virtiofs ──▶  the same path, for reading and writing
//! control       ◀────── virtio-serial ─────▶  org.kiln.control: JSON, one message per line
//! end of console ◀────── serial port ───────  the kernel's messages, for errors
//!                                             /dev /proc /sys /run are the guest's own
//! ```
//!
//! # Life of a guest
//!
//! 1. [`Guest::start`] makes the RAM disk (Kiln, the modules that reach the shares, the configuration), starts the servers of the
//!    shares and the emulator, and waits for the guest's greeting.
//! 2. [`boot()`] is the guest's first process: loads modules, mounts, enters the new root, starts [`TASK`] and reaps.
//! 3. [`TASK`] is Kiln again; [`Task::take`] connects it with the host. What it does is not this module's affair.
//! 4. When the task ends the machine is powered off. It also ends with its handle, and with the thread that started it, however that ends.
//!
//! Whatever the kernel wants to load while it runs it loads through [`MODPROBE`], which is Kiln once more: neither the host nor
//! the build root needs `kmod`.
//!
//! # Acceleration
//!
//! The processor is emulated unless KVM is asked for. On machines that are virtual themselves `/dev/kvm` often exists and hangs in a
//! real kernel: a guest that does not greet in time with KVM is started again without.
//!
//! Limitations: `x86_64` and `aarch64`; flags of files (`chattr`) do not pass through virtiofs.

mod boot;
mod channel;
mod console;
mod error;
mod initramfs;
mod kernel;
mod kernel_module;
mod machine;
mod module_tree;
mod share;
mod task;

pub use boot::boot;
pub use channel::Message;
pub use console::Console;
pub use error::GuestError;
pub use kernel::Kernel;
pub use machine::{Accelerator, Guest, GuestPlan, Hardware};
pub use module_tree::{ModuleTree, NoModule};
pub use share::Share;
pub use task::{Task, load_for_kernel};

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The path under which the guest's first process is executed.
pub const INIT: &str = "/kiln-guest";
/// The path under which the guest's task is executed.
pub const TASK: &str = "/run/kiln/task";
/// The path under which the guest's kernel executes what loads modules.
pub const MODPROBE: &str = "/run/kiln/modprobe";
/// Kiln itself, in a guest.
pub const PROGRAM: &str = "/run/kiln/kiln";

/// The directory in the RAM disk with the configuration and the modules.
const FILES: &str = "/kiln";
/// The configuration's name there and, later, in [`OWN`].
const CONFIGURATION: &str = "configuration";
/// The directory of the guest's own files when it runs.
const OWN: &str = "/run/kiln";
/// The name of the port for messages.
const PORT: &str = "org.kiln.control";
/// The tag of the host's root directory.
const ROOT: &str = "root";

/// Modules that the guest cannot do without.
const ESSENTIAL: &[&str] = &["virtio_pci", "virtio_console", "virtiofs", "overlay"];

/// Modules that nothing asks the kernel for by the names it knows.
const USEFUL: &[&str] =
    &["loop", "dm_mod", "virtio_rng", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"];

/// What the guest's first process is told.
#[derive(Debug, Deserialize, Serialize)]
struct Configuration {
    /// Modules in the RAM disk, in the order in which they are loaded.
    early: Vec<String>,
    /// The directory with all modules of the kernel.
    modules: PathBuf,
    /// What is shared beside the root directory.
    shares: Vec<Share>,
    /// The task's environment.
    environment: BTreeMap<String, String>,
    /// What the task is to do.
    task: Value,
}
