//! Paths below a root that symbolic links cannot lead out of.
//!
//! A tree is full of absolute links (`/var/run` → `/run`), which mean the tree, not the build root that a stage
//! runs in. Every path given to [`Root`] is therefore looked up as if the process had changed its root to the
//! directory: absolute links start at it, and `..` ends at it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::location::normalise;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The mode that new files ask for, and the umask takes from.
const FILE: Mode = Mode::from_raw_mode(0o666);
/// The mode that new directories ask for, and the umask takes from.
const DIRECTORY: Mode = Mode::from_raw_mode(0o777);

/// A directory that paths are looked up in: the tree, a mounted file system, an input.
#[derive(Debug)]
pub(crate) struct Root {
    directory: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens the directory.
    pub(crate) fn open(path: &Path) -> Result<Self, ModuleError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| ModuleError::io("open directory", path)(errno.into()))?;
        Ok(Self { directory, path: path.to_owned() })
    }

    /// The path as it is shown to people: joined, not resolved.
    pub(crate) fn shown(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(normalise(path.as_ref()))
    }

    /// The path of an existing file or directory, free of links.
    pub(crate) fn resolve(&self, path: impl AsRef<Path>) -> Result<PathBuf, ModuleError> {
        let path = path.as_ref();
        let found = self
            .lookup(path, OFlags::PATH, Mode::empty())
            .and_then(|file| real_path(&file))
            .map_err(ModuleError::io("find", self.shown(path)))?;
        Ok(found)
    }

    /// The path of something that need not exist, in a directory that must, which is free of links. A link at
    /// the end is not followed.
    pub(crate) fn resolve_parent(&self, path: impl AsRef<Path>) -> Result<PathBuf, ModuleError> {
        let (parent, name) = self.parent(path.as_ref())?;
        let parent = real_path(&parent).map_err(ModuleError::io("find", self.shown(path)))?;
        Ok(parent.join(name))
    }

    /// Whether the path, links followed, leads to something.
    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.lookup(path.as_ref(), OFlags::PATH, Mode::empty()).is_ok()
    }

    /// Whether the path, links followed, leads to a regular file.
    pub(crate) fn is_file(&self, path: impl AsRef<Path>) -> bool {
        self.lookup(path.as_ref(), OFlags::PATH, Mode::empty())
            .and_then(|file| Ok(rustix::fs::fstat(&file)?))
            .is_ok_and(|status| rustix::fs::FileType::from_raw_mode(status.st_mode).is_file())
    }

    /// Opens a file for reading.
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> Result<File, ModuleError> {
        self.file("open", path.as_ref(), OFlags::RDONLY)
    }

    /// Opens an empty file for writing: a new one, or an old one that loses its content but keeps its mode.
    pub(crate) fn create(&self, path: impl AsRef<Path>) -> Result<File, ModuleError> {
        self.file("create", path.as_ref(), OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)
    }

    /// Opens a file for writing over what is in it, from its start: a new one, or an old one that keeps its content.
    pub(crate) fn overwrite(&self, path: impl AsRef<Path>) -> Result<File, ModuleError> {
        self.file("open", path.as_ref(), OFlags::WRONLY | OFlags::CREATE)
    }

    /// Opens a file for writing at its end.
    pub(crate) fn append(&self, path: impl AsRef<Path>) -> Result<File, ModuleError> {
        self.file("open", path.as_ref(), OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND)
    }

    /// Removes a file or a link; `false` if there is none.
    pub(crate) fn remove(&self, path: impl AsRef<Path>) -> Result<bool, ModuleError> {
        let path = path.as_ref();
        let (parent, name) = match self.parent(path) {
            Err(ModuleError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(false);
            }
            found => found?,
        };
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(ModuleError::io("remove", self.shown(path))(errno.into())),
        }
    }

    /// Makes a symbolic link.
    pub(crate) fn symlink(&self, target: &str, path: impl AsRef<Path>) -> Result<(), ModuleError> {
        let path = path.as_ref();
        let (parent, name) = self.parent(path)?;
        rustix::fs::symlinkat(target, parent, name)
            .map_err(|errno| ModuleError::io("create symbolic link", self.shown(path))(errno.into()))
    }

    /// Makes a hard link to a file that is named by its path outside of the root.
    pub(crate) fn hard_link(&self, target: &str, path: impl AsRef<Path>) -> Result<(), ModuleError> {
        let path = path.as_ref();
        let (parent, name) = self.parent(path)?;
        rustix::fs::linkat(CWD, target, parent, name, AtFlags::empty())
            .map_err(|errno| ModuleError::io("create hard link", self.shown(path))(errno.into()))
    }

    /// Makes a directory. The umask takes from the mode.
    pub(crate) fn make_directory(&self, path: impl AsRef<Path>, mode: u32) -> Result<(), ModuleError> {
        let path = path.as_ref();
        let (parent, name) = self.parent(path)?;
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode))
            .map_err(|errno| ModuleError::io("create directory", self.shown(path))(errno.into()))
    }

    /// Makes all directories of a path that are missing.
    pub(crate) fn make_directories(&self, path: impl AsRef<Path>) -> Result<(), ModuleError> {
        let path = normalise(path.as_ref());
        let mut directory = PathBuf::new();
        for name in &path {
            directory.push(name);
            if !self.is_directory(&directory) {
                self.make_directory(&directory, DIRECTORY.as_raw_mode())?;
            }
        }
        Ok(())
    }

    /// Whether the path, links followed, leads to a directory.
    pub(crate) fn is_directory(&self, path: impl AsRef<Path>) -> bool {
        self.lookup(path.as_ref(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).is_ok()
    }

    fn file(&self, action: &'static str, path: &Path, flags: OFlags) -> Result<File, ModuleError> {
        let mode = if flags.contains(OFlags::CREATE) { FILE } else { Mode::empty() };
        let file = self.lookup(path, flags, mode).map_err(ModuleError::io(action, self.shown(path)))?;
        Ok(file.into())
    }

    /// The directory that a path's last name is in, and the name.
    fn parent(&self, path: &Path) -> Result<(OwnedFd, OsString), ModuleError> {
        let normal = normalise(path);
        let (Some(parent), Some(name)) = (normal.parent(), normal.file_name()) else {
            return Err(ModuleError::io("use", self.shown(path))(Errno::EXIST.into()));
        };
        let directory = self
            .lookup(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .map_err(ModuleError::io("find", self.shown(parent)))?;
        Ok((directory, name.to_owned()))
    }

    fn lookup(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let path = normalise(path);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path.as_path() };
        loop {
            let flags = flags | OFlags::CLOEXEC;
            match rustix::fs::openat2(&self.directory, path, flags, mode, ResolveFlags::IN_ROOT) {
                // Something was renamed somewhere while `..` was looked up.
                Err(Errno::AGAIN | Errno::INTR) => {}
                found => return Ok(found?),
            }
        }
    }
}

fn real_path(file: &OwnedFd) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let outside = tempfile::tempdir().expect("a directory");
        let inside = tempfile::tempdir().expect("a directory");
        let tree = inside.path();
        symlink(outside.path(), tree.join("absolute")).expect("a link");
        symlink("../../../../../../etc", tree.join("up")).expect("a link");
        symlink("/run", tree.join("varrun")).expect("a link");
        fs::create_dir_all(tree.join("run")).expect("a directory");
        fs::create_dir_all(tree.join("etc")).expect("a directory");
        let root = Root::open(tree).expect("a root");

        assert!(root.create("absolute/file").is_err(), "nothing of that name in the tree");
        root.create("varrun/file").expect("a file").write_all(b"x").expect("written");
        assert_eq!(fs::read(tree.join("run/file")).expect("it is in the tree"), b"x");
        assert!(root.is_file("up/../run/file"));
        assert!(!root.exists("up/passwd"));
        let real = tree.canonicalize().expect("it exists");
        assert_eq!(root.resolve("varrun/file").expect("found"), real.join("run/file"));
        assert_eq!(root.resolve_parent("varrun/new").expect("found"), real.join("run/new"));
        assert_eq!(root.resolve_parent("varrun").expect("found"), real.join("varrun"));
        root.make_directories("varrun/a/b").expect("made");
        assert!(tree.join("run/a/b").is_dir());
        assert!(root.remove("varrun").expect("removed"));
        assert!(!root.remove("varrun").expect("nothing to remove"));
        assert!(!root.remove("no/such/path").expect("nothing to remove"));
        assert!(tree.join("run/a").is_dir());
        assert_eq!(fs::read_dir(outside.path()).expect("it exists").count(), 0);
    }
}
