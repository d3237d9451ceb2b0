//! The tree as unpacking sees it: every path is resolved inside it, symbolic links included.
//!
//! Directories are opened with `RESOLVE_IN_ROOT`, so that a link to `/etc` means the tree's `/etc` and no number
//! of `..` leads out; the last component is never followed. The descriptor of the root is opened before the
//! installing thread gets mounts of its own: through it, the files below those mounts stay reachable.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use kiln_api::ModuleError;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// How many directories are kept open: more than a package's files alternate between, far below any limit.
const OPEN_DIRECTORIES: usize = 128;

/// A tree that is being filled.
pub(super) struct Tree {
    root: OwnedFd,
    path: PathBuf,
    open: RefCell<HashMap<PathBuf, Arc<OwnedFd>>>,
    /// Top-level links into `usr`, as `bin` → `usr/bin`.
    merged: RefCell<HashMap<OsString, PathBuf>>,
}

/// A directory entry by its open directory and its name.
pub(super) struct Place {
    /// The directory.
    pub(super) parent: Arc<OwnedFd>,
    /// The name in it.
    pub(super) name: OsString,
}

impl Tree {
    /// Opens a tree.
    pub(super) fn open(path: &Path) -> Result<Self, ModuleError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| ModuleError::io("open tree", path)(error.into()))?;
        let tree = Self { root, path: path.to_owned(), open: RefCell::default(), merged: RefCell::default() };
        tree.find_merged()?;
        Ok(tree)
    }

    /// The path of the tree on the machine, for messages and for dpkg's own files.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a top-level directory of a fresh tree as a link into `usr`.
    pub(super) fn make_merged(&self, name: &str) -> Result<(), ModuleError> {
        let target = Path::new("usr").join(name);
        drop(self.directory(&target)?);
        std::os::unix::fs::symlink(&target, self.path.join(name))
            .map_err(ModuleError::io("create link", self.path.join(name)))?;
        self.merged.borrow_mut().insert(name.into(), target);
        Ok(())
    }

    /// Whether a top-level directory is a link into `usr`.
    pub(super) fn is_merged(&self, name: &str) -> bool {
        self.merged.borrow().contains_key(OsStr::new(name))
    }

    fn find_merged(&self) -> Result<(), ModuleError> {
        let entries = std::fs::read_dir(&self.path).map_err(ModuleError::io("read directory", &self.path))?;
        for entry in entries {
            let entry = entry.map_err(ModuleError::io("read directory", &self.path))?;
            if let Ok(target) = std::fs::read_link(entry.path()) {
                let target = target.strip_prefix("/").map(Path::to_owned).unwrap_or(target);
                if target.starts_with("usr") {
                    self.merged.borrow_mut().insert(entry.file_name(), target);
                }
            }
        }
        Ok(())
    }

    /// The one path that stands for all that reach the same file through the merged `/usr`.
    pub(super) fn canonical(&self, path: &Path) -> PathBuf {
        let mut components = path.components();
        match components.next() {
            Some(Component::Normal(first)) => match self.merged.borrow().get(first) {
                Some(target) if components.as_path() != Path::new("") => target.join(components.as_path()),
                _ => path.to_owned(),
            },
            _ => path.to_owned(),
        }
    }

    /// Opens the directory that holds a path; directories that are missing are made.
    pub(super) fn place(&self, path: &Path) -> Result<Place, ModuleError> {
        let name = path.file_name().unwrap_or_else(|| OsStr::new(".")).to_owned();
        let parent = self.directory(path.parent().unwrap_or(Path::new("")))?;
        Ok(Place { parent, name })
    }

    /// The status of what a path names, following links inside the tree; `None` if it does not exist.
    pub(super) fn status_followed(&self, path: &Path) -> Result<Option<Stat>, ModuleError> {
        match self.resolve(path, OFlags::PATH) {
            Ok(descriptor) => Ok(Some(
                rustix::fs::fstat(descriptor)
                    .map_err(|error| ModuleError::io("inspect", self.path.join(path))(error.into()))?,
            )),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(ModuleError::io("inspect", self.path.join(path))(error.into())),
        }
    }

    /// Opens a file for reading, following links inside the tree.
    pub(super) fn read(&self, path: &Path) -> Result<std::fs::File, ModuleError> {
        self.resolve(path, OFlags::RDONLY)
            .map(std::fs::File::from)
            .map_err(|error| ModuleError::io("open", self.path.join(path))(error.into()))
    }

    /// Closes the directories that are kept open.
    pub(super) fn forget(&self) {
        self.open.borrow_mut().clear();
    }

    fn directory(&self, path: &Path) -> Result<Arc<OwnedFd>, ModuleError> {
        if let Some(known) = self.open.borrow().get(path) {
            return Ok(Arc::clone(known));
        }
        let failed = |error: Errno| ModuleError::io("open directory", self.path.join(path))(error.into());
        let descriptor = match self.resolve(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                let place = self.place(path)?;
                match rustix::fs::mkdirat(&place.parent, &place.name, Mode::from_raw_mode(0o755)) {
                    // A link that leads nowhere exists and cannot be opened: the error below is the better one.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(failed(error)),
                }
                self.resolve(path, OFlags::PATH | OFlags::DIRECTORY)
            }
            result => result,
        };
        let descriptor = Arc::new(descriptor.map_err(failed)?);
        let mut open = self.open.borrow_mut();
        if open.len() >= OPEN_DIRECTORIES {
            open.clear();
        }
        open.insert(path.to_owned(), Arc::clone(&descriptor));
        Ok(descriptor)
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Another thread renamed something: the kernel cannot tell whether that mattered.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }
}

impl Place {
    /// The status of the entry itself; `None` if there is none.
    pub(super) fn status(&self) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => Ok(Some(status)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A member's name as a path below the tree: no `./`, no leading or trailing `/`; empty for the tree itself.
///
/// `None` for a name that is hostile: `..` has no business in a package.
pub(super) fn member_path(name: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!name.contains(&b'\n') && !name.contains(&0)).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn member_names_are_relative_or_refused() {
        let cases = [
            ("./usr/bin/a", Some("usr/bin/a")),
            ("usr//bin/./a/", Some("usr/bin/a")),
            ("/etc/passwd", Some("etc/passwd")),
            ("./", Some("")),
            ("../etc/passwd", None),
            ("./a/../../b", None),
            ("a\nb", None),
        ];
        for (name, expected) in cases {
            assert_eq!(member_path(name.as_bytes()), expected.map(PathBuf::from), "{name}");
        }
    }

    #[test]
    fn links_never_lead_out_of_the_tree() {
        let scratch = tempfile::tempdir().expect("scratch");
        let (outside, inside) = (scratch.path().join("outside"), scratch.path().join("tree"));
        std::fs::create_dir(&outside).expect("directory");
        std::fs::create_dir(&inside).expect("directory");
        symlink(&outside, inside.join("absolute")).expect("link");
        symlink("../../../../..", inside.join("climbing")).expect("link");
        let tree = Tree::open(&inside).expect("tree");
        let place = tree.place(Path::new("climbing/inside")).expect("resolves to the tree's root");
        rustix::fs::mkdirat(&place.parent, &place.name, Mode::from_raw_mode(0o755)).expect("directory");
        assert!(inside.join("inside").is_dir());
        // The absolute link leads to a place of the tree that does not exist.
        assert!(tree.place(Path::new("absolute/file")).is_err());
        assert!(std::fs::read_dir(&outside).expect("directory").next().is_none());
    }

    #[test]
    fn merged_directories_have_one_canonical_path() {
        let scratch = tempfile::tempdir().expect("scratch");
        symlink("usr/bin", scratch.path().join("bin")).expect("link");
        let tree = Tree::open(scratch.path()).expect("tree");
        assert_eq!(tree.canonical(Path::new("bin/sh")), Path::new("usr/bin/sh"));
        assert_eq!(tree.canonical(Path::new("bin")), Path::new("bin"));
        assert_eq!(tree.canonical(Path::new("sbin/init")), Path::new("sbin/init"));
    }
}
