//! Makes the root file system of a sandbox, from inside its new namespaces.
//!
//! The new root is mounted over `/`, which hides nothing from a process whose root directory is the old one,
//! so that sources on the host keep their paths until the very end. Targets are resolved below the new root
//! by the kernel (`RESOLVE_IN_ROOT`): no symbolic link of a build tree leads one to the host. All mounts
//! are made detached and given their attributes before they are attached.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

use crate::build_root::{Access, Bind, Operation, Presence, Root};
use crate::prepared;

/// Files of `/proc` that change the machine rather than a process. The kernel may lack each of them.
const MACHINE_SWITCHES: &[&str] = &["bus", "irq", "sysrq-trigger"];

/// Mount attributes of everything but `/dev`.
const PLAIN: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// The new root, not entered yet.
pub(crate) struct NewRoot(OwnedFd);

impl NewRoot {
    /// Mounts the new root over the old one. From here on the old one is no longer what others see as `/`.
    pub(crate) fn mount(root: &Root) -> io::Result<Self> {
        // Nothing that is mounted here reaches the namespace that this one is a copy of, nor the other way.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        let root = match root {
            Root::Tmpfs => tmpfs()?,
            Root::Directory(path) => {
                let tree = clone_tree(CWD, path)?;
                kiln_sys::mount::set_attributes_recursive(&tree, PLAIN)?;
                tree
            }
        };
        attach(&root, CWD, "/")?;
        Ok(Self(root))
    }

    /// Carries out one operation.
    pub(crate) fn apply(&self, operation: &Operation) -> io::Result<()> {
        match operation {
            Operation::Bind(bind) => self.bind(bind),
            Operation::Tmpfs { target } => self.attach_directory(&tmpfs()?, target),
            Operation::Directory { target, mode } => self.directory(target, Mode::from_raw_mode(*mode)),
            Operation::Symlink { target, content } => {
                let (parent, name) = self.parent(target)?;
                Ok(rustix::fs::symlinkat(content, &parent, name)?)
            }
            Operation::Proc { target } => self.proc(target),
            Operation::File { target, content } => self.file(target, content),
            Operation::Prepared { source } => prepared::copy(source, self.0.as_fd()),
        }
    }

    /// Makes the new root `/` and leaves nothing of the old one.
    pub(crate) fn enter(self) -> io::Result<()> {
        rustix::process::fchdir(&self.0)?;
        // The old root ends up on top of the new one, from where it is taken away.
        rustix::process::pivot_root(".", ".")?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        Ok(rustix::process::chdir("/")?)
    }

    fn bind(&self, bind: &Bind) -> io::Result<()> {
        let Some(tree) = open_source(bind)? else { return Ok(()) };
        let attributes = match bind.access {
            Access::ReadOnly => PLAIN | MountAttrFlags::MOUNT_ATTR_RDONLY,
            Access::ReadWrite => PLAIN,
            Access::Devices => MountAttrFlags::MOUNT_ATTR_NOSUID,
        };
        kiln_sys::mount::set_attributes_recursive(&tree, attributes)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode);
        if kind == FileType::Directory {
            self.attach_directory(&tree, &bind.target)
        } else {
            let target = self.ensure_file(&bind.target)?;
            attach(&tree, target.as_fd(), "")
        }
    }

    fn proc(&self, target: &Path) -> io::Result<()> {
        let proc = new_file_system("proc", &[], PLAIN | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        self.attach_directory(&proc, target)?;
        for name in MACHINE_SWITCHES {
            let switch = match clone_tree(proc.as_fd(), Path::new(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                result => result?,
            };
            kiln_sys::mount::set_attributes_recursive(&switch, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
            attach(&switch, proc.as_fd(), name)?;
        }
        Ok(())
    }

    fn file(&self, target: &Path, content: &str) -> io::Result<()> {
        // Only what has a name can be cloned and attached: the file has one for a moment.
        let name = ".kiln-file";
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(0o444))?;
        File::from(file).write_all(content.as_bytes())?;
        let tree = clone_tree(self.0.as_fd(), Path::new(name))?;
        kiln_sys::mount::set_attributes_recursive(&tree, PLAIN | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        let target = self.ensure_file(target)?;
        attach(&tree, target.as_fd(), "")?;
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    fn directory(&self, target: &Path, mode: Mode) -> io::Result<()> {
        let directory = self.ensure_directory(target)?;
        // An `O_PATH` descriptor cannot be given to fchmod; the path of the descriptor can.
        Ok(rustix::fs::chmodat(&directory, ".", mode, AtFlags::empty())?)
    }

    fn attach_directory(&self, tree: &OwnedFd, target: &Path) -> io::Result<()> {
        let target = self.ensure_directory(target)?;
        attach(tree, target.as_fd(), "")
    }

    /// Opens a directory of the new root, and makes it and its parents where they are missing.
    fn ensure_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open(path, OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            result => return Ok(result?),
        }
        let (parent, name) = self.parent(path)?;
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        Ok(self.open(path, OFlags::DIRECTORY)?)
    }

    /// Opens a file of the new root, and makes it and its parents where they are missing.
    fn ensure_file(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open(path, OFlags::empty()) {
            Err(Errno::NOENT) => {}
            result => return Ok(result?),
        }
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        drop(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o444))?);
        Ok(self.open(path, OFlags::empty())?)
    }

    fn parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL.into());
        };
        Ok((self.ensure_directory(parent)?, name))
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_below(self.0.as_fd(), path, flags, ResolveFlags::empty())
    }
}

fn open_below(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | flags;
    rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | resolve)
}

/// A detached copy of the mounts at and below a bind's source.
fn open_source(bind: &Bind) -> io::Result<Option<OwnedFd>> {
    let missing = |error: Errno| match (bind.presence, error) {
        (Presence::Required, error) => Err(error),
        (Presence::IfPresent, Errno::NOENT | Errno::NOTDIR) => Ok(()),
        (Presence::IfDirectory, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        (_, error) => Err(error),
    };
    let directory = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    let root = match &bind.within {
        Some(root) => rustix::fs::open(root, directory, Mode::empty())?,
        None => rustix::fs::open("/", directory, Mode::empty())?,
    };
    let flags = match bind.presence {
        Presence::IfDirectory => OFlags::DIRECTORY | OFlags::NOFOLLOW,
        Presence::Required | Presence::IfPresent => OFlags::empty(),
    };
    // Below `/` itself the flag changes nothing, but magic links such as /proc/self/exe need it absent.
    let source = match &bind.within {
        Some(_) => open_below(root.as_fd(), &bind.source, flags, ResolveFlags::empty()),
        None => rustix::fs::open(&bind.source, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty()),
    };
    match source {
        Ok(source) => clone_tree(source.as_fd(), Path::new("")).map(Some),
        Err(error) => missing(error).map(|()| None).map_err(io::Error::from),
    }
}

fn clone_tree(directory: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    Ok(rustix::mount::open_tree(directory, path, flags)?)
}

fn tmpfs() -> io::Result<OwnedFd> {
    new_file_system("tmpfs", &[("mode", "0755")], PLAIN)
}

fn new_file_system(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    // What lists of mounts show as its device: it has none.
    rustix::mount::fsconfig_set_string(&context, "source", kind)?;
    for (name, value) in options {
        rustix::mount::fsconfig_set_string(&context, *name, *value)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Attaches a detached mount at a path, or at the descriptor itself if the path is empty.
fn attach(tree: &OwnedFd, directory: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    Ok(rustix::mount::move_mount(tree, "", directory, path, flags)?)
}
