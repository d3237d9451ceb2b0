//! The host's side: makes the RAM disk, starts servers and emulator, and talks with the guest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_sys::command::{describe, die_with_parent};
use kiln_sys::inherited::pass;
use serde_json::Value;

use super::channel::{self, FAILED, Message, READY, Received, Receiver};
use super::initramfs::Archive;
use super::share::Server;
use super::{
    CONFIGURATION, Configuration, Console, ESSENTIAL, FILES, GuestError, INIT, Kernel, PORT, ROOT, Share,
    kernel_module,
};

/// How often it is looked whether the guest is still wanted.
const SLICE: Duration = Duration::from_millis(100);
/// How long a guest may take to greet: it needs seconds, on a busy machine more.
const START: Duration = Duration::from_secs(180);
/// The same with KVM, which either works or hangs.
const START_WITH_KVM: Duration = Duration::from_secs(20);
/// How long a guest may be silent. It says every few seconds that it is alive.
const SILENCE: Duration = Duration::from_secs(180);

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accelerator {
    /// The kernel's virtual machine, if it works.
    Kvm,
    /// The emulator itself.
    #[default]
    Tcg,
}

/// What a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// Mebibytes of memory.
    pub memory: u64,
    /// The number of processors.
    pub processors: usize,
    /// What executes instructions.
    pub accelerator: Accelerator,
}

impl Hardware {
    /// As much memory as the reference gives, and as many processors as there are, up to a few.
    pub fn usual() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        Self { memory: 3072, processors, accelerator: Accelerator::default() }
    }
}

/// What a guest is started with.
#[derive(Clone, Debug)]
pub struct GuestPlan<'a> {
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// Its machine.
    pub hardware: Hardware,
    /// Kiln, which is its first process.
    pub program: &'a Path,
    /// Directories that it may write to.
    pub shares: Vec<Share>,
    /// The environment of its task.
    pub environment: BTreeMap<String, String>,
    /// What its task is told.
    pub task: Value,
}

/// What is particular to a kind of processor.
struct Architecture {
    emulator: &'static str,
    packages: (&'static str, &'static str),
    machine: &'static str,
    console: &'static str,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<Architecture> = Some(Architecture {
    emulator: "qemu-system-x86_64",
    packages: ("qemu-system-x86", "qemu-system-x86-core"),
    machine: "q35,graphics=off",
    console: "ttyS0",
});
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<Architecture> = Some(Architecture {
    emulator: "qemu-system-aarch64",
    packages: ("qemu-system-arm", "qemu-system-aarch64-core"),
    machine: "virt",
    console: "ttyAMA0",
});
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<Architecture> = None;

/// The programs that guests need.
struct Programs {
    architecture: Architecture,
    emulator: PathBuf,
    server: PathBuf,
}

impl Programs {
    fn find() -> Result<Self, GuestError> {
        let architecture = ARCHITECTURE.ok_or(GuestError::Architecture(std::env::consts::ARCH))?;
        let directories = ["/usr/local/bin", "/usr/bin", "/usr/libexec"].map(Path::new);
        // Where the emulator is there for KVM only it has another name.
        let names = [architecture.emulator, "qemu-kvm"];
        let mut candidates =
            names.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
        let emulator = candidates.find(|path| path.is_file()).ok_or(GuestError::NoProgram {
            program: architecture.emulator.to_owned(),
            packages: architecture.packages,
        })?;
        Ok(Self { architecture, emulator, server: Server::program()? })
    }
}

/// A running guest. Dropping it ends it, whatever it does.
#[derive(Debug)]
pub struct Guest {
    emulator: Child,
    said: Console,
    console: Console,
    sender: UnixStream,
    receiver: Receiver<UnixStream>,
    _servers: Vec<Server>,
}

impl Guest {
    /// Says whether what guests need beside a kernel is there.
    pub fn check() -> Result<(), GuestError> {
        Programs::find().map(|_| ())
    }

    /// Starts a guest and waits until its task does. Once `interrupted` is set it is ended.
    ///
    /// The guest ends with the calling thread, too.
    pub fn start(plan: &GuestPlan<'_>, interrupted: &AtomicBool) -> Result<Self, GuestError> {
        if plan.hardware.accelerator == Accelerator::Kvm && Path::new("/dev/kvm").exists() {
            match Self::start_with(plan, Accelerator::Kvm, START_WITH_KVM, interrupted) {
                Err(GuestError::Ended { .. } | GuestError::Silent { .. }) => {}
                result => return result,
            }
        }
        Self::start_with(plan, Accelerator::Tcg, START, interrupted)
    }

    fn start_with(
        plan: &GuestPlan<'_>,
        accelerator: Accelerator,
        limit: Duration,
        interrupted: &AtomicBool,
    ) -> Result<Self, GuestError> {
        let begin = Instant::now();
        let programs = Programs::find()?;
        let shares: Vec<Share> = plan
            .shares
            .iter()
            .enumerate()
            .map(|(index, share)| Share { tag: format!("share{index}"), ..share.clone() })
            .collect();
        let ram_disk = ram_disk(plan, &shares)?;
        let (mut servers, mut connections) = (Vec::new(), Vec::new());
        let root = (ROOT, Path::new("/"));
        for (tag, path) in std::iter::once(root).chain(shares.iter().map(|share| (&*share.tag, &*share.path)))
        {
            let (server, connection) = Server::start(&programs.server, path)?;
            servers.push(server);
            connections.push((tag, connection));
        }
        let emulator = &programs.emulator;
        let failed = |source| GuestError::Start { program: emulator.clone(), source };
        let (control, its_control) = UnixStream::pair().map_err(failed)?;
        let (console, its_console) = UnixStream::pair().map_err(failed)?;
        control.set_read_timeout(Some(SLICE)).map_err(failed)?;
        let sender = control.try_clone().map_err(failed)?;
        let mut command = Command::new(emulator);
        hardware(&mut command, plan, &programs.architecture, accelerator);
        let ram_disk = pass(&mut command, ram_disk);
        command.args(["-kernel".as_ref(), plan.kernel.image.as_os_str()]);
        command.args(["-initrd", &format!("/proc/self/fd/{ram_disk}")]);
        let control_number = pass(&mut command, its_control.into());
        let console_number = pass(&mut command, its_console.into());
        command
            .args([
                "-chardev",
                &format!("socket,id=console,fd={console_number}"),
                "-serial",
                "chardev:console",
            ])
            .args(["-chardev", &format!("socket,id=control,fd={control_number}")])
            .args(["-device", "virtio-serial-pci"])
            .args(["-device", &format!("virtserialport,chardev=control,name={PORT}")]);
        for (tag, connection) in connections {
            let number = pass(&mut command, connection);
            command
                .args(["-chardev", &format!("socket,id={tag},fd={number}")])
                .args(["-device", &format!("vhost-user-fs-pci,queue-size=1024,chardev={tag},tag={tag}")]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.process_group(0);
        die_with_parent(&mut command);
        let mut emulator = command.spawn().map_err(failed)?;
        // The command holds the emulator's ends of the connections; while it does, their end is never seen.
        drop(command);
        let stderr: Box<dyn Read + Send> = match emulator.stderr.take() {
            Some(stderr) => Box::new(stderr),
            None => Box::new(io::empty()),
        };
        let mut guest = Self {
            emulator,
            said: Console::new(stderr),
            console: Console::new(console),
            sender,
            receiver: Receiver::new(control),
            _servers: servers,
        };
        guest.greeting(begin, limit, interrupted)?;
        Ok(guest)
    }

    fn greeting(
        &mut self,
        begin: Instant,
        limit: Duration,
        interrupted: &AtomicBool,
    ) -> Result<(), GuestError> {
        loop {
            if interrupted.load(Ordering::Relaxed) {
                return Err(GuestError::Interrupted);
            }
            match self.receiver.receive().map_err(GuestError::Connection)? {
                Received::Message(message) if message == READY => return Ok(()),
                Received::Message(message) => {
                    let reason = message.get(FAILED).and_then(Value::as_str).map(str::to_owned);
                    return Err(GuestError::Setup { reason: reason.unwrap_or_else(|| message.to_string()) });
                }
                Received::End => return Err(self.ended()),
                Received::Nothing if begin.elapsed() > limit => {
                    return Err(GuestError::Silent {
                        what: "did not start",
                        after: limit,
                        console: self.console.last_lines(),
                    });
                }
                Received::Nothing => {}
            }
        }
    }

    /// Sends the task a message.
    pub fn send(&mut self, message: &Message) -> Result<(), GuestError> {
        match channel::write(&self.sender, message) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(self.ended()),
            result => result.map_err(GuestError::Connection),
        }
    }

    /// Waits for a message of the task.
    pub fn receive(&mut self, interrupted: &AtomicBool) -> Result<Message, GuestError> {
        loop {
            if interrupted.load(Ordering::Relaxed) {
                return Err(GuestError::Interrupted);
            }
            match self.receiver.receive().map_err(GuestError::Connection)? {
                Received::Message(message) => {
                    return match message.get(FAILED).and_then(Value::as_str) {
                        Some(reason) => Err(GuestError::Setup { reason: reason.to_owned() }),
                        None => Ok(message),
                    };
                }
                Received::End => return Err(self.ended()),
                Received::Nothing if self.receiver.silence() > SILENCE => {
                    return Err(GuestError::Silent {
                        what: "did not answer",
                        after: SILENCE,
                        console: self.console.last_lines(),
                    });
                }
                Received::Nothing => {}
            }
        }
    }

    /// The emulator's process.
    pub fn pid(&self) -> u32 {
        self.emulator.id()
    }

    fn ended(&mut self) -> GuestError {
        let status = match self.emulator.wait() {
            Ok(status) => describe(status),
            Err(error) => error.to_string(),
        };
        let said = self.said.finish();
        let status = if said.is_empty() { status } else { format!("{status}: {said}") };
        GuestError::Ended { status, console: self.console.finish() }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for already.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// What the kernel is told.
///
/// It does not test its timer: the emulated one stands still for as long as a busy machine has no time for the
/// emulator, and the kernel would take it for broken ("IO-APIC + timer doesn't work").
const COMMAND_LINE: &str = "quiet oops=panic panic=-1 no_timer_check";

/// The arguments for what the machine has.
fn hardware(
    command: &mut Command,
    plan: &GuestPlan<'_>,
    architecture: &Architecture,
    accelerator: Accelerator,
) {
    let Hardware { memory, processors, .. } = plan.hardware;
    let (accelerator, processor) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg,thread=multi", "max"),
    };
    let console = architecture.console;
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-machine", architecture.machine, "-accel", accelerator, "-cpu", processor])
        .args(["-smp", &processors.to_string(), "-m", &format!("{memory}M")])
        // The servers of the shares read and write the guest's memory.
        .args(["-object", &format!("memory-backend-memfd,id=memory,size={memory}M,share=on")])
        .args(["-numa", "node,memdev=memory"])
        .args(["-device", "virtio-rng-pci"])
        // Whatever the kernel finds wrong ends the machine, and with it the wait for it.
        .args(["-append", &format!("console={console} {COMMAND_LINE} rdinit={INIT}")]);
}

/// Makes the RAM disk in a file that has no name.
fn ram_disk(plan: &GuestPlan<'_>, shares: &[Share]) -> Result<OwnedFd, GuestError> {
    let tree = plan.kernel.tree()?;
    let modules = &plan.kernel.modules;
    let early = tree.order(ESSENTIAL).map_err(|error| GuestError::no_module(&plan.kernel.release, &error))?;
    let program = std::fs::read(plan.program).map_err(GuestError::io("read", plan.program))?;
    let configuration = Configuration {
        early: early.iter().filter_map(|file| kernel_module::name_of(file)).collect(),
        modules: modules.canonicalize().map_err(GuestError::io("find", modules))?,
        shares: shares.to_vec(),
        environment: plan.environment.clone(),
        task: plan.task.clone(),
    };
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (file, name) in early.iter().zip(&configuration.early) {
        let path = modules.join(file);
        files.push((format!("{name}.ko"), kernel_module::read(&path).map_err(GuestError::io("read", path))?));
    }
    files.extend(tree.files().map(|(name, text)| (name.to_owned(), text.into_bytes())));
    let wrong = |source| GuestError::Start { program: plan.program.to_owned(), source };
    files.push((CONFIGURATION.to_owned(), serde_json::to_vec(&configuration).map_err(|e| wrong(e.into()))?));
    write_ram_disk(&program, &files).map_err(wrong)
}

fn write_ram_disk(program: &[u8], files: &[(String, Vec<u8>)]) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("kiln-guest", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut archive = Archive::new(BufWriter::new(File::from(memory)));
    for directory in ["/dev", "/proc", "/sys", FILES] {
        archive.directory(directory)?;
    }
    // Without it the first process has no standard streams.
    archive.device("/dev/console", (5, 1))?;
    archive.file(INIT, program)?;
    for (name, content) in files {
        archive.file(&format!("{FILES}/{name}"), content)?;
    }
    let mut out = archive.finish()?;
    out.flush()?;
    let file = out.into_inner().map_err(|error| error.into_error())?;
    Ok(file.into())
}
