//! Visits every entry of a tree in parallel.
//!
//! Directories are tasks of the thread pool, and so are batches of other entries. A worker takes its own
//! latest task first, so a tree is walked depth first by each of them, and only directories on the way
//! down stay open. A directory is left when everything in it is done; it holds its parent until then.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::Scope;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::TreeError;
use super::directory::{Entry, open_directory, read_directory};

/// How many entries that are no directories make one task: enough to be worth its start.
const BATCH: usize = 64;

/// An open directory of the tree that is being visited.
pub(super) struct Node<D> {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) entry: Option<Entry>,
    pub(super) parent: Option<Arc<Self>>,
    pub(super) data: D,
    pending: AtomicUsize,
}

/// What is done with each directory and each other entry.
pub(super) trait Visit: Sync {
    /// What is remembered of a directory while it is visited.
    type Dir: Send + Sync;

    /// Whether the rest is visited although something failed.
    const KEEP_GOING: bool = false;

    /// Called before the entries of a directory.
    fn enter(
        &self,
        parent: Option<&Node<Self::Dir>>,
        name: &CStr,
        path: &Path,
        fd: &OwnedFd,
    ) -> Result<Self::Dir, TreeError>;

    /// Called for each entry that is no directory.
    fn entry(&self, directory: &Node<Self::Dir>, entry: &Entry) -> Result<(), TreeError>;

    /// Called after everything in the directory.
    fn leave(&self, _directory: &Node<Self::Dir>) -> Result<(), TreeError> {
        Ok(())
    }

    /// Called when a directory cannot be opened; may remove the obstacle.
    fn open_again(&self, _parent: &OwnedFd, _name: &CStr, error: Errno) -> Result<OwnedFd, Errno> {
        Err(error)
    }
}

struct Walk<'a, V> {
    visitor: &'a V,
    interrupt: &'a AtomicBool,
    stopped: AtomicBool,
    error: Mutex<Option<TreeError>>,
}

/// Visits the tree below an open directory, whose path only serves messages. Reports the first error.
pub(super) fn walk<V: Visit>(
    root: OwnedFd,
    path: &Path,
    visitor: &V,
    interrupt: &AtomicBool,
) -> Result<(), TreeError> {
    let walk = Walk { visitor, interrupt, stopped: AtomicBool::new(false), error: Mutex::new(None) };
    rayon::scope(|scope| walk.directory(scope, root, path.to_owned(), None, None));
    walk.error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

impl<V: Visit> Walk<'_, V> {
    fn directory<'scope>(
        &'scope self,
        scope: &Scope<'scope>,
        fd: OwnedFd,
        path: PathBuf,
        entry: Option<Entry>,
        parent: Option<Arc<Node<V::Dir>>>,
    ) {
        let name = entry.as_ref().map_or(c".", |entry| entry.name.as_c_str());
        let data = match self.visitor.enter(parent.as_deref(), name, &path, &fd) {
            Ok(data) => data,
            Err(error) => {
                self.fail(error);
                return self.release(parent);
            }
        };
        let node = Arc::new(Node { fd, path, entry, parent, data, pending: AtomicUsize::new(1) });
        match read_directory(&node.fd) {
            Ok(entries) => self.entries(scope, &node, entries),
            Err(error) => self.fail(TreeError::io("read directory", &node.path)(error)),
        }
        self.release(Some(node));
    }

    fn entries<'scope>(&'scope self, scope: &Scope<'scope>, node: &Arc<Node<V::Dir>>, entries: Vec<Entry>) {
        let (directories, mut others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.kind == FileType::Directory);
        for entry in directories {
            node.pending.fetch_add(1, Ordering::Relaxed);
            let node = Arc::clone(node);
            scope.spawn(move |scope| self.subdirectory(scope, node, entry));
        }
        while others.len() > BATCH {
            let batch = others.split_off(others.len() - BATCH);
            node.pending.fetch_add(1, Ordering::Relaxed);
            let node = Arc::clone(node);
            scope.spawn(move |_| {
                self.batch(&node, &batch);
                self.release(Some(node));
            });
        }
        self.batch(node, &others);
    }

    fn subdirectory<'scope>(&'scope self, scope: &Scope<'scope>, node: Arc<Node<V::Dir>>, entry: Entry) {
        if self.stop() {
            return self.release(Some(node));
        }
        let path = entry.path_below(&node.path);
        let opened = open_directory(&node.fd, &entry.name)
            .or_else(|error| self.visitor.open_again(&node.fd, &entry.name, error));
        match opened {
            Ok(fd) => self.directory(scope, fd, path, Some(entry), Some(node)),
            Err(error) => {
                self.fail(match error {
                    Errno::XDEV => TreeError::MountPoint { path },
                    error => TreeError::io("open directory", path)(error),
                });
                self.release(Some(node));
            }
        }
    }

    fn batch(&self, node: &Node<V::Dir>, entries: &[Entry]) {
        for entry in entries {
            if self.stop() {
                return;
            }
            if let Err(error) = self.visitor.entry(node, entry) {
                self.fail(error);
            }
        }
    }

    /// Gives back one reason to keep a directory open, and leaves all that have none left.
    fn release(&self, mut node: Option<Arc<Node<V::Dir>>>) {
        while let Some(current) = node {
            if current.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
                return;
            }
            if !self.stop()
                && let Err(error) = self.visitor.leave(&current)
            {
                self.fail(error);
            }
            node = current.parent.clone();
        }
    }

    fn fail(&self, error: TreeError) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
        if !V::KEEP_GOING {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    fn stop(&self) -> bool {
        if self.stopped.load(Ordering::Relaxed) {
            return true;
        }
        if self.interrupt.load(Ordering::Relaxed) {
            self.fail(TreeError::Interrupted);
            self.stopped.store(true, Ordering::Relaxed);
            return true;
        }
        false
    }
}
