//! What is done on the host's side: a mount namespace for Kiln, and a build root's `/dev`.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, chmod, makedev, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

use crate::SandboxError;

/// The nodes of a build root's `/dev`: name, major, minor. All may be used by everybody, as udev has it.
const NODES: &[(&str, u32, u32)] =
    &[("full", 1, 7), ("null", 1, 3), ("random", 1, 8), ("tty", 5, 0), ("urandom", 1, 9), ("zero", 1, 5)];

/// Gives the process a mount namespace of its own, in which the host sees nothing that is mounted from now
/// on and which vanishes with the process and its children, however they end.
///
/// To be called before any other thread is started: only the calling thread and what it starts move.
/// Mounts become slaves rather than private: what the host unmounts is unmounted here too, so that a long
/// build does not keep a disk of the host's busy.
pub fn enter_private_namespace() -> Result<(), SandboxError> {
    kiln_sys::namespace::unshare_mounts().map_err(SandboxError::PrivateNamespace)?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|error| SandboxError::PrivateNamespace(error.into()))
}

/// A directory with device nodes for a build root's `/dev`. Dropping it takes it away.
#[derive(Debug)]
pub struct Dev {
    path: PathBuf,
}

impl Dev {
    /// The directory on the host; devices add their nodes here.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Detached rather than unmounted: a process of the host may still have one of the nodes open.
        // Nothing can be done if it fails; it vanishes with Kiln's mount namespace.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// Mounts a file system on an existing directory that allows device nodes, and makes the nodes that every
/// build root has.
pub fn prepare_dev(directory: &Path) -> Result<Dev, SandboxError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |error: rustix::io::Errno| SandboxError::Host { action, path, source: error.into() }
    };
    mount("none", directory, "tmpfs", MountFlags::NOSUID, c"mode=0755")
        .map_err(failed("mount tmpfs on", directory))?;
    let dev = Dev { path: directory.to_owned() };
    // Not everywhere: a kernel without FUSE has no such device.
    let fuse = Path::new("/dev/fuse").exists().then_some(&("fuse", 10, 229));
    for (name, major, minor) in NODES.iter().chain(fuse) {
        let path = directory.join(name);
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(*major, *minor))
            .map_err(failed("make device node", &path))?;
        // What mknod was asked for falls to the umask.
        chmod(&path, mode).map_err(failed("change the mode of", &path))?;
    }
    Ok(dev)
}

impl SandboxError {
    /// An error with the action and the path, from an I/O error.
    pub(crate) fn host(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Host { action, path, source }
    }
}
