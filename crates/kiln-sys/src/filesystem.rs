//! File systems on block devices, mounted and unmounted with errors that say why.
//!
//! Mounting uses the file-system context of Linux 5.2 (`fsopen`, `fsconfig`, `fsmount`, `move_mount`): each option is given
//! to the kernel on its own, so an error names the option that was refused, and carries what the kernel wrote into
//! the context's log. Where these calls are missing or forbidden, `mount(2)` is used with all options at once.
//!
//! Nothing here needs the program `mount`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

/// How long a mount or an unmount is tried again while something uses the file system: a child that has just been
/// killed may take a moment to let go of its files, and a mount namespace that was copied while the file system was
/// mounted has it until it has unmounted its copy.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// The first and the longest pause between two tries; there is no event for a mount that ceases to be busy.
const BUSY_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// An option as the kernel knows it: `norecovery`, or `compress` with the value `zstd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOption {
    /// The option's name.
    pub name: &'static str,
    /// Its value; `None` for a flag.
    pub value: Option<String>,
}

impl MountOption {
    /// An option that is either given or not.
    pub const fn flag(name: &'static str) -> Self {
        Self { name, value: None }
    }

    /// An option with a value.
    pub fn value(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, value: Some(value.into()) }
    }

    fn text(&self) -> String {
        match &self.value {
            Some(value) => format!("{}={value}", self.name),
            None => self.name.to_owned(),
        }
    }
}

/// What to mount, and how.
#[derive(Clone, Debug)]
pub struct MountPlan<'a> {
    /// The kernel's name of the file system, as `ext4`.
    pub kind: &'a str,
    /// The device node.
    pub source: &'a Path,
    /// An existing directory.
    pub target: &'a Path,
    /// Whether nothing may be written.
    pub read_only: bool,
    /// What else the file system is told, in this order.
    pub options: &'a [MountOption],
}

/// Why a file system could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The kernel does not know this kind of file system.
    #[error(
        "the kernel has no file system `{kind}`: load its module (`modprobe {kind}`) or use a kernel that was built with it"
    )]
    UnknownKind {
        /// The file system's name.
        kind: String,
    },
    /// The kernel refused an option.
    #[error("{kind} refused the mount option `{option}`: {}", reason(.log, .error))]
    Option {
        /// The file system's name.
        kind: String,
        /// The option and its value.
        option: String,
        /// What the kernel wrote, one message per line; may be empty.
        log: String,
        /// The system call's error.
        error: io::Error,
    },
    /// The file system could not be set up from its device.
    #[error("cannot mount `{device}` as {kind}{}: {}", with(.options), reason(.log, .error), device = .device.display())]
    Create {
        /// The file system's name.
        kind: String,
        /// The device node.
        device: PathBuf,
        /// The options, joined with commas; may be empty.
        options: String,
        /// What the kernel wrote, one message per line; may be empty.
        log: String,
        /// The system call's error.
        error: io::Error,
    },
    /// A system call on the mount point failed.
    #[error("cannot {action} `{path}`", path = .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The mount point.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Something still uses the file system.
    #[error("cannot unmount `{path}`: it is still in use after {} s{}", .limit.as_secs(), used_by(.holders), path = .path.display())]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// How long it was tried.
        limit: Duration,
        /// Who uses it, as `name (pid)` or ``a mount at `PATH` ``, as far as that can be seen.
        holders: Vec<String>,
    },
}

impl MountError {
    /// Whether the device cannot be written to: mounted read-only, it may do.
    pub fn is_write_protected(&self) -> bool {
        let protected = [Some(libc::EACCES), Some(libc::EROFS)];
        matches!(self, Self::Create { error, .. } if protected.contains(&error.raw_os_error()))
    }

    fn is_busy(&self) -> bool {
        matches!(self, Self::Create { error, .. } if error.raw_os_error() == Some(libc::EBUSY))
    }
}

fn reason(log: &str, source: &io::Error) -> String {
    let hint = match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO) => {
            "; there is no such device, and partitions only are devices if the kernel can read the partition table"
        }
        Some(libc::EINVAL) if log.is_empty() => {
            "; the superblock is bad, or the options do not fit the file system (the kernel's log may say more)"
        }
        _ => "",
    };
    if log.is_empty() { format!("{source}{hint}") } else { format!("{log} ({source}){hint}") }
}

fn with(options: &str) -> String {
    if options.is_empty() { String::new() } else { format!(" with the options `{options}`") }
}

fn used_by(holders: &[String]) -> String {
    if holders.is_empty() { String::new() } else { format!(" by {}", holders.join(", ")) }
}

/// A mounted file system. Dropping it detaches it, however busy it is; [`unmount`](Self::unmount) reports failures.
#[derive(Debug)]
pub struct MountedFileSystem {
    target: PathBuf,
    mounted: bool,
}

impl MountedFileSystem {
    /// Mounts a file system.
    ///
    /// A device whose file system was unmounted a moment ago may still be busy with it in another mount namespace, as
    /// that of a sandbox that is just being started; it is waited for.
    pub fn mount(plan: &MountPlan<'_>) -> Result<Self, MountError> {
        let deadline = Instant::now() + BUSY_LIMIT;
        let mut pause = BUSY_PAUSES.0;
        loop {
            let result = match mount_by_context(plan) {
                Ok(Answer::UseOldCall) => mount_by_old_call(plan),
                result => result.map(drop),
            };
            match result {
                Ok(()) => return Ok(Self { target: plan.target.to_owned(), mounted: true }),
                Err(error) if error.is_busy() && Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(BUSY_PAUSES.1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Syncs and unmounts.
    ///
    /// A file system that somebody else has already unmounted is no error.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.mounted = false;
        let result = sync(&self.target).and_then(|()| unmount_when_free(&self.target));
        // On failure, `Drop` detaches it: the mount must not outlive the stage.
        self.mounted = result.is_err();
        result
    }
}

impl Drop for MountedFileSystem {
    fn drop(&mut self) {
        if self.mounted {
            // Best effort: what is detached goes away with its last user.
            let _ = rustix::mount::unmount(&self.target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}

enum Answer {
    Mounted,
    UseOldCall,
}

fn mount_by_context(plan: &MountPlan<'_>) -> Result<Answer, MountError> {
    let context = match fsopen(plan.kind, FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => context,
        // Too old, or a sandbox that only knows the old call.
        Err(Errno::NOSYS | Errno::PERM) => return Ok(Answer::UseOldCall),
        Err(Errno::NODEV) => return Err(MountError::UnknownKind { kind: plan.kind.to_owned() }),
        Err(error) => return Err(failed_to_create(plan, String::new(), error)),
    };
    let source = MountOption::value("source", plan.source.to_string_lossy());
    let read_only = plan.read_only.then(|| MountOption::flag("ro"));
    for option in [source].iter().chain(&read_only).chain(plan.options) {
        let result = match &option.value {
            Some(value) => fsconfig_set_string(context.as_fd(), option.name, value.as_str()),
            None => fsconfig_set_flag(context.as_fd(), option.name),
        };
        result.map_err(|error| MountError::Option {
            kind: plan.kind.to_owned(),
            option: option.text(),
            log: read_log(context.as_fd()),
            error: error.into(),
        })?;
    }
    match fsconfig_create(context.as_fd()) {
        Ok(()) => {}
        // btrfs lets subvolumes of one device be mounted both read-only and writable, but writable after read-only
        // only by the old call.
        Err(Errno::BUSY) if !plan.read_only => return Ok(Answer::UseOldCall),
        Err(error) => return Err(failed_to_create(plan, read_log(context.as_fd()), error)),
    }
    let attributes = if plan.read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|error| failed_to_create(plan, read_log(context.as_fd()), error))?;
    move_mount(mount.as_fd(), "", CWD, plan.target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|error| io_error("mount at", plan.target, error))?;
    Ok(Answer::Mounted)
}

fn mount_by_old_call(plan: &MountPlan<'_>) -> Result<(), MountError> {
    let flags = if plan.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let data = std::ffi::CString::new(joined(plan.options))
        .map_err(|_| failed_to_create(plan, String::new(), Errno::INVAL))?;
    rustix::mount::mount(plan.source, plan.target, plan.kind, flags, Some(data.as_c_str())).map_err(|error| {
        match error {
            Errno::NODEV => MountError::UnknownKind { kind: plan.kind.to_owned() },
            error => failed_to_create(plan, String::new(), error),
        }
    })
}

fn joined(options: &[MountOption]) -> String {
    options.iter().map(MountOption::text).collect::<Vec<_>>().join(",")
}

fn failed_to_create(plan: &MountPlan<'_>, log: String, error: Errno) -> MountError {
    let mut options = joined(plan.options);
    if plan.read_only {
        options = format!("ro,{options}").trim_end_matches(',').to_owned();
    }
    MountError::Create {
        kind: plan.kind.to_owned(),
        device: plan.source.to_owned(),
        options,
        log,
        error: error.into(),
    }
}

pub(crate) fn io_error(action: &'static str, path: &Path, error: Errno) -> MountError {
    MountError::Io { action, path: path.to_owned(), source: error.into() }
}

/// Reads the messages of a file-system context: one per read, each with its level (`e `, `w `, `i `) in front.
fn read_log(context: BorrowedFd<'_>) -> String {
    let mut lines = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = rustix::io::read(context, &mut buffer) {
        let Some(message) = buffer.get(..count).filter(|message| !message.is_empty()) else { break };
        let message = String::from_utf8_lossy(message);
        lines.push(message.get(2..).unwrap_or_default().trim().to_owned());
    }
    lines.join("; ")
}

fn sync(target: &Path) -> Result<(), MountError> {
    // Closed at the end: an open descriptor would keep the mount busy.
    let directory = open_directory(target)?;
    rustix::fs::syncfs(&directory).map_err(|error| io_error("sync", target, error))
}

/// Unmounts, and tries again for as long as a mount may be busy. What is no mount point any more is none: somebody
/// else was faster.
pub(crate) fn unmount_when_free(target: &Path) -> Result<(), MountError> {
    let deadline = Instant::now() + BUSY_LIMIT;
    let mut pause = BUSY_PAUSES.0;
    loop {
        match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(BUSY_PAUSES.1);
            }
            Err(Errno::BUSY) => {
                let (path, holders) = (target.to_owned(), holders(target));
                return Err(MountError::Busy { path, limit: BUSY_LIMIT, holders });
            }
            Err(error) => return Err(io_error("unmount", target, error)),
        }
    }
}

fn open_directory(target: &Path) -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(target, flags, Mode::empty()).map_err(|error| io_error("open", target, error))
}

fn holders(target: &Path) -> Vec<String> {
    let below = mounts_below(target).into_iter();
    let mut found: Vec<_> = below.map(|path| format!("a mount at `{}`", path.display())).collect();
    if let Ok(info) = fs::metadata(target) {
        found.extend(crate::holders::of_file_system(info.dev()));
    }
    found
}

/// The mount points below a path, in the order in which they were mounted.
pub(crate) fn mounts_below(target: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path != target && path.starts_with(target))
        .collect()
}

/// Undoes the mount table's escapes (`\040` for a space); all of them are ASCII.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (code, part.get(3..)) {
            (Some(code), Some(rest)) => {
                result.push(char::from(code));
                result.push_str(rest);
            }
            _ => {
                result.push('\\');
                result.push_str(part);
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table_escapes_are_undone() {
        for (text, expected) in
            [("/a\\040b", "/a b"), ("/a", "/a"), ("/a\\134b", "/a\\b"), ("/a\\x", "/a\\x")]
        {
            assert_eq!(unescape(text), expected);
        }
    }

    #[test]
    fn root_a_file_system_that_the_kernel_lacks_is_named() {
        let target = tempfile::tempdir().expect("tempdir");
        let plan = MountPlan {
            kind: "kiln-no-such-fs",
            source: Path::new("/dev/null"),
            target: target.path(),
            read_only: false,
            options: &[],
        };
        let error = MountedFileSystem::mount(&plan).expect_err("no such file system");
        assert_eq!(
            error.to_string(),
            "the kernel has no file system `kiln-no-such-fs`: load its module (`modprobe kiln-no-such-fs`) \
             or use a kernel that was built with it"
        );
    }
}
