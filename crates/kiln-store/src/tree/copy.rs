//! Copying a tree with everything that root may set.
//!
//! Order matters for each entry: create, fill, owner (which clears set-id bits and capabilities), mode,
//! extended attributes (ACLs and capabilities among them), times. What a new file has already, because of
//! the mode it was made with and of who made it, is asked for and not set again: that is cheaper, and exact
//! whatever the umask, the directory's set-group-id bit or the mount options are. A directory gets its attributes when all
//! in it is done, and inode flags come last of all, because an immutable file can be linked no more.
//!
//! A file with several names is made once, and linked from its second name on; it may be linked while
//! another thread still fills it.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, IFlags, Mode, OFlags, Statx, StatxAttributes, makedev};
use rustix::io::Errno;

use super::TreeError;
use super::attributes::{self, Target};
use super::content::{Contents, Failure};
use super::directory::{open_beneath, open_directory, open_root, proc_path};
use super::entries::Entry;
use super::walk::{At, Enter, Found, Visit, walk};

/// What to do where the destination cannot take an extended attribute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attributes {
    /// The copy fails.
    #[default]
    Exact,
    /// The attribute is left out, as `cp -a` does: for destinations on file systems of another kind.
    BestEffort,
}

/// How a tree is copied.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyOptions {
    /// Leaves new files with the owner that the process has, instead of the original's.
    pub no_preserve_owner: bool,
    /// Whether each extended attribute must be kept.
    pub attributes: Attributes,
}

/// Inode flags that `statx` reports and that a copy keeps.
const FLAGS: [(StatxAttributes, IFlags); 3] = [
    (StatxAttributes::IMMUTABLE, IFlags::IMMUTABLE),
    (StatxAttributes::APPEND, IFlags::APPEND),
    (StatxAttributes::NODUMP, IFlags::NODUMP),
];

/// Copies the content and the attributes of a directory to another, which is made if need be.
///
/// Blocks are shared where the file system can, holes stay holes. Kept are owners, modes, times to the
/// nanosecond, extended attributes of every namespace, ACLs, capabilities, hard links, device nodes, fifos,
/// sockets, immutable, append-only and no-dump flags. In a destination that is not empty, directories are
/// merged and other entries replaced. After an error, or once interrupted, an incomplete copy is left.
pub fn copy(from: &Path, to: &Path, options: CopyOptions, interrupt: &AtomicBool) -> Result<(), TreeError> {
    match rustix::fs::mkdirat(CWD, to, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(TreeError::io("create directory", to)(error)),
    }
    let destination = open_root(to)?;
    let visitor = Copy {
        options,
        contents: Contents::new(interrupt),
        root: destination,
        links: Mutex::default(),
        flagged: Mutex::default(),
    };
    walk(open_root(from)?, from, &visitor, interrupt)?;
    visitor.set_flags(to)
}

struct Copy<'a> {
    options: CopyOptions,
    contents: Contents<'a>,
    root: OwnedFd,
    /// Where a file with several names was first made, relative to the root.
    links: Mutex<HashMap<(u32, u32, u64), PathBuf>>,
    flagged: Mutex<Vec<(PathBuf, IFlags)>>,
}

struct Directory {
    /// What it gets in the end.
    stat: Statx,
    /// Whether new entries inherit an ACL: only where the destination was there before.
    inherits_acl: bool,
}

impl Visit for Copy<'_> {
    type Dir = Directory;

    fn enter(&self, found: &Found<'_, Directory>) -> Result<Enter<Directory>, TreeError> {
        let make = || -> Result<Enter<Directory>, Errno> {
            // Before it is read, so that its access time is what it was.
            let stat = attributes::stat(found.fd)?;
            let (to, made) = match found.parent {
                None => (rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?, false),
                Some(parent) => {
                    let made = match rustix::fs::mkdirat(parent.twin()?, found.name, Mode::RWXU) {
                        Ok(()) => true,
                        Err(Errno::EXIST) => false,
                        Err(error) => return Err(error),
                    };
                    let to = open_directory(parent.twin()?, found.name)?;
                    if made && parent.node.data.inherits_acl {
                        attributes::drop_acls(Target::Open(&to))?;
                    }
                    (to, made)
                }
            };
            let inherits_acl = !made && attributes::has_default_acl(&to);
            Ok(Enter::Into(Directory { stat, inherits_acl }, Some(to)))
        };
        make().map_err(|error| TreeError::io("copy directory", found.path())(error))
    }

    fn entry(&self, at: &At<'_, Directory>, entry: &Entry<'_>) -> Result<(), TreeError> {
        let result = match entry.kind {
            FileType::RegularFile => self.regular(at, entry),
            _ => self.special(at, entry).map_err(Failure::Io),
        };
        result.map_err(|failure| match failure {
            Failure::Io(error) => TreeError::io("copy", at.path_of(entry))(error),
            Failure::Interrupted => TreeError::Interrupted,
        })
    }

    fn leave(&self, at: &At<'_, Directory>, _: Option<&At<'_, Directory>>) -> Result<(), TreeError> {
        let stat = &at.node.data.stat;
        at.twin()
            .and_then(|to| self.finish_directory(at.fd(), to, stat))
            .map_err(|error| TreeError::io("copy attributes of directory", at.path())(error))?;
        self.note_flags(stat, || at.node.relative());
        Ok(())
    }
}

impl Copy<'_> {
    fn regular(&self, at: &At<'_, Directory>, entry: &Entry<'_>) -> Result<(), Failure> {
        let (name, to) = (entry.name, at.twin()?);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = match rustix::fs::openat(at.fd(), name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rustix::fs::openat(at.fd(), name, flags, Mode::empty()),
            other => other,
        }?;
        let stat = attributes::stat(&from)?;
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
            // Replaced since the directory was read: nobody may change a tree that is being copied.
            return Err(Errno::AGAIN.into());
        }
        let create = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            replacing(to, name, || rustix::fs::openat(to, name, flags, attributes::permissions(&stat)))
        };
        let Some(to) = self.first_name(at, entry, &stat, create)? else { return Ok(()) };
        if at.node.data.inherits_acl {
            attributes::drop_acls(Target::Open(&to))?;
        }
        self.contents.copy(&from, &to, &stat)?;
        let has = attributes::stat(&to)?;
        if self.differs_in_owner(&stat, &has) {
            let (user, group) = attributes::owner(&stat);
            rustix::fs::fchown(&to, user, group)?;
        }
        if attributes::mode(&stat) != attributes::mode(&has) {
            rustix::fs::fchmod(&to, attributes::mode(&stat))?;
        }
        self.copy_xattrs(Target::Open(&from), Target::Open(&to))?;
        rustix::fs::futimens(&to, &attributes::times(&stat))?;
        self.note_flags(&stat, || self.relative(at, entry));
        Ok(())
    }

    /// Makes an entry, or links it if it was already made under another name.
    fn first_name<T>(
        &self,
        at: &At<'_, Directory>,
        entry: &Entry<'_>,
        stat: &Statx,
        create: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<Option<T>, Errno> {
        if stat.stx_nlink < 2 {
            return create().map(Some);
        }
        let key = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
        let first = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            match links.get(&key) {
                Some(first) => first.clone(),
                None => {
                    // Made with the lock held: once others see the path they may link it.
                    let made = create()?;
                    links.insert(key, self.relative(at, entry));
                    return Ok(Some(made));
                }
            }
        };
        let parent = open_beneath(&self.root, first.parent().unwrap_or(Path::new("")))?;
        let name = first.file_name().ok_or(Errno::INVAL)?;
        let to = at.twin()?;
        replacing(to, entry.name, || rustix::fs::linkat(&parent, name, to, entry.name, AtFlags::empty()))?;
        Ok(None)
    }

    fn special(&self, at: &At<'_, Directory>, entry: &Entry<'_>) -> Result<(), Errno> {
        let (name, to) = (entry.name, at.twin()?);
        let stat = attributes::stat_at(at.fd(), name)?;
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let create = || match kind {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(at.fd(), name, Vec::new())?;
                replacing(to, name, || rustix::fs::symlinkat(&target, to, name))
            }
            FileType::RegularFile | FileType::Directory | FileType::Unknown => Err(Errno::AGAIN),
            kind => {
                let device = makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
                let mode = attributes::permissions(&stat);
                replacing(to, name, || rustix::fs::mknodat(to, name, kind, mode, device))
            }
        };
        if self.first_name(at, entry, &stat, create)?.is_none() {
            return Ok(());
        }
        let (source, target) = (proc_path(at.fd(), name), proc_path(to, name));
        if at.node.data.inherits_acl && kind != FileType::Symlink {
            attributes::drop_acls(Target::Path(&target))?;
        }
        let has = attributes::stat_at(to, name)?;
        if self.differs_in_owner(&stat, &has) {
            let (user, group) = attributes::owner(&stat);
            rustix::fs::chownat(to, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if kind != FileType::Symlink && attributes::mode(&stat) != attributes::mode(&has) {
            rustix::fs::chmodat(to, name, attributes::mode(&stat), AtFlags::empty())?;
        }
        self.copy_xattrs(Target::Path(&source), Target::Path(&target))?;
        rustix::fs::utimensat(to, name, &attributes::times(&stat), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn differs_in_owner(&self, stat: &Statx, has: &Statx) -> bool {
        !self.options.no_preserve_owner && attributes::owner(stat) != attributes::owner(has)
    }

    fn finish_directory(&self, from: &OwnedFd, to: &OwnedFd, stat: &Statx) -> Result<(), Errno> {
        if !self.options.no_preserve_owner {
            let (user, group) = attributes::owner(stat);
            rustix::fs::fchown(to, user, group)?;
        }
        rustix::fs::fchmod(to, attributes::mode(stat))?;
        self.copy_xattrs(Target::Open(from), Target::Open(to))?;
        rustix::fs::futimens(to, &attributes::times(stat))
    }

    fn copy_xattrs(&self, from: Target<'_>, to: Target<'_>) -> Result<(), Errno> {
        for (name, value) in attributes::xattrs(from)? {
            match attributes::set_xattr(to, &name, &value) {
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL | Errno::NOSPC | Errno::TOOBIG)
                    if self.options.attributes == Attributes::BestEffort => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn note_flags(&self, stat: &Statx, path: impl FnOnce() -> PathBuf) {
        let flags = FLAGS
            .iter()
            .filter(|(attribute, _)| stat.stx_attributes.contains(*attribute))
            .fold(IFlags::empty(), |flags, (_, flag)| flags | *flag);
        if !flags.is_empty() {
            self.flagged.lock().unwrap_or_else(PoisonError::into_inner).push((path(), flags));
        }
    }

    fn set_flags(self, to: &Path) -> Result<(), TreeError> {
        for (path, flags) in self.flagged.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let path = path.as_path();
            let set = || -> Result<(), Errno> {
                let (parent, name) = match (path.parent(), path.file_name()) {
                    (Some(parent), Some(name)) => (open_beneath(&self.root, parent)?, name),
                    _ => (rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?, ".".as_ref()),
                };
                let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, name, open, Mode::empty())?;
                let present = rustix::fs::ioctl_getflags(&file)?;
                rustix::fs::ioctl_setflags(&file, present | flags)
            };
            match set() {
                Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::PERM)
                    if self.options.attributes == Attributes::BestEffort => {}
                other => other.map_err(TreeError::io("set flags of", to.join(path)))?,
            }
        }
        Ok(())
    }

    fn relative(&self, at: &At<'_, Directory>, entry: &Entry<'_>) -> PathBuf {
        at.node.relative().join(entry.file_name())
    }
}

/// Makes an entry; one that is in its place already is removed first.
fn replacing<T>(directory: &OwnedFd, name: &CStr, make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match make() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
            make()
        }
        other => other,
    }
}
