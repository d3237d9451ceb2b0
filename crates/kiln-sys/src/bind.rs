//! Files and directories shown at a second place, with all that is mounted below them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree};

use crate::filesystem::{MountError, io_error, mounts_below, unmount_when_free};

/// A bind mount. Dropping it detaches it, however busy it is; [`unmount`](Self::unmount) reports failures.
#[derive(Debug)]
pub struct BindMount {
    target: PathBuf,
    mounted: bool,
}

/// A file or directory that is going to be shown at a second place.
///
/// It is as it was when it was cloned, whatever is mounted over it before it is attached.
#[derive(Debug)]
pub struct DetachedMount {
    mount: OwnedFd,
}

impl DetachedMount {
    /// Of what is open as `source`, with all mounts below it.
    pub fn with_mounts(source: impl AsFd) -> Result<Self, MountError> {
        Self::make(source.as_fd(), OpenTreeFlags::AT_RECURSIVE)
    }

    /// Of what is open as `source`, as if nothing were mounted below it.
    pub fn alone(source: impl AsFd) -> Result<Self, MountError> {
        Self::make(source.as_fd(), OpenTreeFlags::empty())
    }

    fn make(source: BorrowedFd<'_>, depth: OpenTreeFlags) -> Result<Self, MountError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | depth;
        let mount = open_tree(source, "", flags).map_err(|error| io_error("bind", &shown(source), error))?;
        Ok(Self { mount })
    }

    /// Shows it at what is open as `target`.
    pub fn attach(self, target: impl AsFd) -> Result<BindMount, MountError> {
        let target = target.as_fd();
        let path = path_of(target)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(self.mount.as_fd(), "", target, "", flags)
            .map_err(|error| io_error("mount at", &path, error))?;
        Ok(BindMount { target: path, mounted: true })
    }
}

impl BindMount {
    /// Shows what is open as `source`, and all mounts below it, at what is open as `target`.
    ///
    /// Both may have been opened with `O_PATH`; no path is looked up, so no symbolic link matters.
    pub fn mount(source: impl AsFd, target: impl AsFd) -> Result<Self, MountError> {
        DetachedMount::with_mounts(source)?.attach(target)
    }

    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Unmounts it and all that is mounted below it, the last first. Nothing is synced: that is for whoever mounted
    /// the file systems.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.mounted = false;
        let result = unmount_all(&self.target);
        // On failure, `Drop` detaches it: the mount must not outlive the stage.
        self.mounted = result.is_err();
        result
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        if self.mounted {
            // Best effort; what is mounted below goes with it.
            let _ = rustix::mount::unmount(&self.target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}

/// What a program has mounted at a place and below it. Dropping it detaches all of it, however busy it is.
#[derive(Debug)]
pub struct MountedTree(BindMount);

impl MountedTree {
    /// Has a program mount something at a path, which no symbolic link leads to. What a program has mounted that failed
    /// is detached.
    pub fn made<E>(target: &Path, mount: impl FnOnce() -> Result<(), E>) -> Result<Self, E> {
        let before = mount_id(target);
        let result = mount();
        let tree = Self(BindMount { target: target.to_owned(), mounted: mount_id(target) != before });
        result.map(|()| tree)
    }

    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        self.0.target()
    }

    /// Syncs and unmounts everything, the last first.
    pub fn unmount(self) -> Result<(), MountError> {
        for path in mounts_below(self.target()).iter().map(PathBuf::as_path).chain([self.target()]) {
            // A file may be mounted on a file; closed at once, an open descriptor would keep the mount busy.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = rustix::fs::open(path, flags, Mode::empty());
            open.and_then(rustix::fs::syncfs).map_err(|error| io_error("sync", path, error))?;
        }
        self.0.unmount()
    }
}

/// The number of the mount that a path is in.
fn mount_id(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID);
    stat.ok().map(|stat| stat.stx_mnt_id)
}

fn unmount_all(target: &Path) -> Result<(), MountError> {
    for path in mounts_below(target).iter().rev() {
        unmount_when_free(path)?;
    }
    unmount_when_free(target)
}

fn path_of(file: BorrowedFd<'_>) -> Result<PathBuf, MountError> {
    let link = link_to(file);
    std::fs::read_link(&link).map_err(|source| MountError::Io { action: "read", path: link, source })
}

fn shown(file: BorrowedFd<'_>) -> PathBuf {
    path_of(file).unwrap_or_else(|_| link_to(file))
}

fn link_to(file: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn root_mounts_below_are_shown_too_and_vanish_alike() {
        let directory = tempfile::tempdir().expect("tempdir");
        let [inner, outer, there] = ["inner", "outer", "there"].map(|name| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.join("below")).expect("create");
            fs::write(path.join("name"), name).expect("write");
            path
        });
        let open = |path: &Path| File::open(path).expect("open");
        // Of this thread only: the mounts must not reach anybody else's.
        crate::chroot::private_mounts().expect("root");
        let first = BindMount::mount(open(&inner), open(&outer.join("below"))).expect("bind");
        let bind = || BindMount::mount(open(&outer), open(&there)).expect("bind");
        let name = |path: &str| fs::read_to_string(there.join(path)).ok();

        let second = bind();
        assert_eq!(second.target(), there);
        assert_eq!([name("name"), name("below/name")], ["outer", "inner"].map(|name| Some(name.to_owned())));
        second.unmount().expect("unmount");
        assert_eq!([name("name").as_deref(), name("below/name").as_deref()], [Some("there"), None]);
        drop(bind());
        assert_eq!(name("name").as_deref(), Some("there"));

        first.unmount().expect("unmount");
        assert!(!outer.join("below/name").exists());
    }

    #[test]
    fn root_a_directory_cannot_be_shown_at_a_file() {
        crate::chroot::private_mounts().expect("root");
        let directory = tempfile::tempdir().expect("tempdir");
        let file = directory.path().join("file");
        fs::write(&file, "").expect("write");
        let open = |path: &Path| File::open(path).expect("open");
        let error = BindMount::mount(open(directory.path()), open(&file)).expect_err("a file");
        assert_eq!(error.to_string(), format!("cannot mount at `{}`", file.display()));
    }
}
