//! Where maintainer scripts run: the tree as root directory, with mounts that only they see.
//!
//! | path | what |
//! |---|---|
//! | `/proc` | processes |
//! | `/dev` | the nodes that every program expects, on a tmpfs |
//! | `/run`, `/tmp` | empty, and gone afterwards |
//! | `/sys` | nothing: what is installed must not depend on the machine that builds |
//! | `/usr/sbin/start-stop-daemon` | does nothing |
//! | `/usr/sbin/policy-rc.d` | forbids services to start |
//! | the staging directory | hidden |
//!
//! The mounts belong to the installing thread and vanish with it, however it ends; only an empty file for
//! `policy-rc.d` is made in the tree, and removed.

use std::fs::Permissions;
use std::io::{self, PipeReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use kiln_api::ModuleError;
use kiln_api::stage::StageContext;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode};
use rustix::mount::MountFlags;
use rustix::process::PidfdFlags;

/// How much of a failed script's output an error carries, in bytes.
const TAIL: usize = 4096;

/// Device nodes: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("full", 1, 7), ("null", 1, 3), ("random", 1, 8), ("tty", 5, 0), ("urandom", 1, 9), ("zero", 1, 5)];

/// Links of `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// How a child in the tree failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// `exit status 1`, `signal 9`.
    pub(super) status: String,
    /// The lines since the last one that a new step begins with, as much as an error can carry.
    pub(super) tail: String,
    /// The package that dpkg names in its first complaint.
    pub(super) package: Option<String>,
}

/// The tree made ready for running its programs.
pub(super) struct Environment<'a> {
    root: PathBuf,
    policy: Option<PathBuf>,
    mount_points: Vec<PathBuf>,
    variables: Vec<(&'static str, String)>,
    context: &'a mut StageContext,
}

impl<'a> Environment<'a> {
    /// Mounts what scripts need. The calling thread must have mounts of its own.
    pub(super) fn enter(context: &'a mut StageContext, staging: &Path) -> Result<Self, ModuleError> {
        let root = context.tree().to_owned();
        let mut variables = vec![
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("HOME", "/root".to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("TERM", "dumb".to_owned()),
            ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true".to_owned()),
            ("DEBCONF_NOWARNINGS", "yes".to_owned()),
            ("DPKG_COLORS", "never".to_owned()),
            ("SYSTEMD_OFFLINE", "1".to_owned()),
        ];
        if let Some(epoch) = context.arguments.meta.source_epoch {
            variables.push(("SOURCE_DATE_EPOCH", epoch.to_string()));
        }
        let mut environment = Self { root, policy: None, mount_points: Vec::new(), variables, context };
        rustix::process::umask(Mode::from_raw_mode(0o022));
        rustix::system::sethostname(b"localhost")
            .map_err(|error| ModuleError::io("set host name of", &environment.root)(error.into()))?;
        environment.mount_all(staging)?;
        Ok(environment)
    }

    /// What the stage reports to.
    pub(super) fn context(&mut self) -> &mut StageContext {
        self.context
    }

    /// The tree.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes what was made in the tree for the mounts.
    pub(super) fn leave(mut self) -> Result<(), ModuleError> {
        self.undo()
    }

    /// Forbids services to start and replaces `start-stop-daemon`, as soon as there is one.
    pub(super) fn forbid_services(&mut self) -> Result<(), ModuleError> {
        let scratch = self.root.join("run/kiln");
        if scratch.exists() {
            return Ok(());
        }
        std::fs::create_dir(&scratch).map_err(ModuleError::io("create directory", &scratch))?;
        let policy = self.root.join("usr/sbin/policy-rc.d");
        if !policy.exists() {
            std::fs::File::create_new(&policy).map_err(ModuleError::io("create", &policy))?;
            self.policy = Some(policy.clone());
        }
        self.cover(&policy, &scratch.join("policy-rc.d"), "#!/bin/sh\nexit 101\n")?;
        let daemon = ["usr/sbin/start-stop-daemon", "sbin/start-stop-daemon"]
            .map(|path| self.root.join(path))
            .into_iter()
            .find(|path| path.is_file());
        if let Some(daemon) = daemon {
            self.cover(&daemon, &scratch.join("start-stop-daemon"), "#!/bin/sh\nexit 0\n")?;
        }
        Ok(())
    }

    /// Runs a program of the tree; what it says becomes the stage's output, line by line.
    pub(super) fn run(
        &mut self,
        words: &[&str],
        variables: &[(&str, &str)],
        input: Option<&Path>,
    ) -> Result<Result<(), Failure>, ModuleError> {
        let program = words.first().copied().unwrap_or_default();
        let failed = || ModuleError::io("run in the tree", Path::new(program));
        let (reader, writer) = io::pipe().map_err(failed())?;
        let mut command = Command::new(program);
        command
            .args(words.iter().skip(1))
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.envs(variables.iter().copied());
        command.stdout(writer.try_clone().map_err(failed())?).stderr(writer);
        command.stdin(match input {
            Some(path) => Stdio::from(std::fs::File::open(path).map_err(ModuleError::io("open", path))?),
            None => Stdio::null(),
        });
        kiln_sys::command::die_with_parent(&mut command);
        kiln_sys::chroot::chroot(&mut command, &self.root).map_err(failed())?;
        kiln_sys::quiet_sync::quiet_sync(&mut command);
        let mut child = command.spawn().map_err(failed())?;
        // Its copies of the pipe's writing end would keep the reader waiting.
        drop(command);
        let mut log = Log::default();
        let status = {
            let mut lines = Lines::default();
            let status = follow(reader, &mut child, &mut |bytes| {
                lines.add(bytes, &mut |line| {
                    self.context.say(line);
                    log.add(line);
                });
            })
            .map_err(failed())?;
            lines.end(&mut |line| {
                self.context.say(line);
                log.add(line);
            });
            status
        };
        if status.success() {
            return Ok(Ok(()));
        }
        let status = kiln_sys::command::describe(status);
        Ok(Err(Failure { status, tail: log.tail(), package: log.package }))
    }

    fn mount_all(&mut self, staging: &Path) -> Result<(), ModuleError> {
        let none = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
        self.mount("proc", "proc", none, "")?;
        self.mount("dev", "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, "mode=0755,size=4m")?;
        self.mount("run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=0755")?;
        self.mount("tmp", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=1777")?;
        let staging = staging.strip_prefix(&self.root).unwrap_or(staging).to_owned();
        self.mount(&staging.to_string_lossy(), "tmpfs", none, "mode=0700,size=4k")?;
        let dev = self.root.join("dev");
        for (name, major, minor) in DEVICES {
            let path = dev.join(name);
            let device = rustix::fs::makedev(major, minor);
            let mode = Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, mode, device)
                .map_err(|error| ModuleError::io("create device", &path)(error.into()))?;
            std::fs::set_permissions(&path, Permissions::from_mode(0o666))
                .map_err(ModuleError::io("set mode of", &path))?;
        }
        for (name, target) in LINKS {
            let path = dev.join(name);
            std::os::unix::fs::symlink(target, &path).map_err(ModuleError::io("create link", &path))?;
        }
        for (directory, mode) in [("dev/pts", 0o755), ("dev/shm", 0o1777), ("run/lock", 0o1777)] {
            let path = self.root.join(directory);
            std::fs::create_dir(&path).map_err(ModuleError::io("create directory", &path))?;
            std::fs::set_permissions(&path, Permissions::from_mode(mode))
                .map_err(ModuleError::io("set mode of", &path))?;
        }
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        self.mount("dev/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=0620")
    }

    fn mount(&mut self, path: &str, kind: &str, flags: MountFlags, data: &str) -> Result<(), ModuleError> {
        let target = self.root.join(path);
        if !target.exists() {
            std::fs::create_dir(&target).map_err(ModuleError::io("create directory", &target))?;
            self.mount_points.push(target.clone());
        }
        let data = std::ffi::CString::new(data).unwrap_or_default();
        rustix::mount::mount(kind, &target, kind, flags, Some(data.as_c_str()))
            .map_err(|error| ModuleError::io("mount", target)(error.into()))
    }

    fn cover(&self, target: &Path, source: &Path, script: &str) -> Result<(), ModuleError> {
        std::fs::write(source, script).map_err(ModuleError::io("write", source))?;
        std::fs::set_permissions(source, Permissions::from_mode(0o755))
            .map_err(ModuleError::io("set mode of", source))?;
        rustix::mount::mount_bind(source, target)
            .map_err(|error| ModuleError::io("mount over", target)(error.into()))
    }

    fn undo(&mut self) -> Result<(), ModuleError> {
        if let Some(policy) = self.policy.take() {
            rustix::mount::unmount(&policy, rustix::mount::UnmountFlags::DETACH)
                .map_err(|error| ModuleError::io("unmount", &policy)(error.into()))?;
            std::fs::remove_file(&policy).map_err(ModuleError::io("remove", &policy))?;
        }
        for path in std::mem::take(&mut self.mount_points) {
            rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH)
                .map_err(|error| ModuleError::io("unmount", &path)(error.into()))?;
            std::fs::remove_dir(&path).map_err(ModuleError::io("remove", &path))?;
        }
        Ok(())
    }
}

impl Drop for Environment<'_> {
    fn drop(&mut self) {
        // Best effort: after an error the tree is thrown away anyway; the mounts go with the thread.
        let _ = self.undo();
    }
}

/// Reads what a child says until it ends, and returns how it ended.
///
/// The end of the output is not waited for: a process that a script leaves behind would hold it open for ever.
fn follow(mut reader: PipeReader, child: &mut Child, add: &mut dyn FnMut(&[u8])) -> io::Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the child has no process id"))?;
    let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut buffer = [0; 8192];
    loop {
        let mut watched = [PollFd::new(&reader, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        match rustix::event::poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let [output, _] = &watched;
        if output.revents().is_empty() {
            break;
        }
        match reader.read(&mut buffer)? {
            0 => break,
            count => add(buffer.get(..count).unwrap_or_default()),
        }
    }
    child.wait()
}

/// Bytes put together to lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn add(&mut self, bytes: &[u8], take: &mut dyn FnMut(&str)) {
        self.0.extend_from_slice(bytes);
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = self.0.drain(..=end).collect();
            take(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        }
    }

    fn end(self, take: &mut dyn FnMut(&str)) {
        if !self.0.is_empty() {
            take(&String::from_utf8_lossy(&self.0));
        }
    }
}

/// The end of the output of the current step.
#[derive(Default)]
struct Log {
    text: String,
    package: Option<String>,
}

impl Log {
    fn add(&mut self, line: &str) {
        if line.starts_with("Setting up ") || line.starts_with("Processing triggers for ") {
            self.text.clear();
            return;
        }
        if self.package.is_none()
            && let Some(rest) = line.strip_prefix("dpkg: error processing package ")
        {
            self.package = rest.split(' ').next().map(str::to_owned);
        }
        self.text.push_str(line);
        self.text.push('\n');
        if self.text.len() > 2 * TAIL {
            let start = self.text.floor_char_boundary(self.text.len() - TAIL);
            self.text.drain(..start);
        }
    }

    fn tail(&self) -> String {
        let start = self.text.floor_char_boundary(self.text.len().saturating_sub(TAIL));
        self.text.get(start..).unwrap_or_default().trim().to_owned()
    }
}
