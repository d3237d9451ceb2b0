//! Visits every entry of a tree in parallel.
//!
//! Tasks are directories to be entered, directories to be read on, and batches of other entries. A directory
//! is left when everything in it is done. It keeps its parents in memory until then, but not their
//! descriptors: see [`Handle`](super::handle::Handle).

use std::ffi::{CStr, OsStr};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::TreeError;
use super::directory::open_directory;
use super::entries::{Entries, Entry};
use super::node::{Node, Open};
use super::pool::{self, Crew, Work};

/// How many entries that are no directories make one task: enough to be worth its start.
const BATCH: usize = 64;

/// A directory of the tree that is being visited, and its descriptors.
pub(super) struct At<'a, D> {
    pub(super) node: &'a Node<D>,
    open: Open,
    root: &'a Path,
}

impl<D> At<'_, D> {
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.open.fd
    }

    /// The directory of the other tree; visits that go along no other tree have none.
    pub(super) fn twin(&self) -> Result<&OwnedFd, Errno> {
        self.open.twin.as_deref().ok_or(Errno::BADF)
    }

    /// The directory's path, for messages.
    pub(super) fn path(&self) -> PathBuf {
        join(self.root, &self.node.relative())
    }

    /// The path of an entry, for messages.
    pub(super) fn path_of(&self, entry: &Entry<'_>) -> PathBuf {
        self.path().join(entry.file_name())
    }
}

/// A directory that is about to be visited.
pub(super) struct Found<'a, D> {
    pub(super) parent: Option<&'a At<'a, D>>,
    /// Empty for the root.
    pub(super) name: &'a CStr,
    pub(super) fd: &'a OwnedFd,
    root: &'a Path,
}

impl<D> Found<'_, D> {
    /// The path relative to the root.
    pub(super) fn relative(&self) -> PathBuf {
        let above = self.parent.map(|parent| parent.node.relative()).unwrap_or_default();
        join(&above, Path::new(OsStr::from_bytes(self.name.to_bytes())))
    }

    /// The path, for messages.
    pub(super) fn path(&self) -> PathBuf {
        join(self.root, &self.relative())
    }
}

/// Joins, without the final slash that joining nothing leaves.
fn join(above: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { above.to_owned() } else { above.join(below) }
}

/// What becomes of a directory.
pub(super) enum Enter<D> {
    /// Its entries are visited; the descriptor is the one of its twin in another tree.
    Into(D, Option<OwnedFd>),
    /// Nothing more is to be done in it, nor is it left.
    Done,
}

/// What is done with each directory and each other entry.
pub(super) trait Visit: Sync {
    /// What is remembered of a directory while it is visited.
    type Dir: Send + Sync;

    /// Whether the rest is visited although something failed.
    const KEEP_GOING: bool = false;

    /// Called before the entries of a directory.
    fn enter(&self, found: &Found<'_, Self::Dir>) -> Result<Enter<Self::Dir>, TreeError>;

    /// Called for each entry that is no directory.
    fn entry(&self, at: &At<'_, Self::Dir>, entry: &Entry<'_>) -> Result<(), TreeError>;

    /// Called after everything in the directory.
    fn leave(&self, _at: &At<'_, Self::Dir>, _parent: Option<&At<'_, Self::Dir>>) -> Result<(), TreeError> {
        Ok(())
    }

    /// Called when a directory cannot be opened; may remove the obstacle.
    fn open_again(&self, _parent: &OwnedFd, _name: &CStr, error: Errno) -> Result<OwnedFd, Errno> {
        Err(error)
    }

    /// Whether several threads may deal with entries of the same directory at the same time.
    fn shares_directories(&self) -> bool {
        true
    }

    /// How many low bits of an inode number tell entries apart that the file system keeps together and
    /// locks together: directories of the same group are then visited by the same thread.
    fn group_bits(&self) -> Option<u32> {
        None
    }
}

/// Visits the tree below an open directory, whose path only serves messages. Reports the first error.
pub(super) fn walk<V: Visit>(
    root: OwnedFd,
    path: &Path,
    visitor: &V,
    interrupt: &AtomicBool,
) -> Result<(), TreeError> {
    let error = Mutex::new(None);
    let group_bits = visitor.group_bits();
    let walk = Walk { visitor, path, interrupt, group_bits, stopped: AtomicBool::new(false), error };
    pool::run(&walk, Task::Root(root));
    walk.error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

struct Walk<'a, V> {
    visitor: &'a V,
    path: &'a Path,
    interrupt: &'a AtomicBool,
    group_bits: Option<u32>,
    stopped: AtomicBool,
    error: Mutex<Option<TreeError>>,
}

/// Each holds one of the directory's `pending` counts.
enum Task<D> {
    Root(OwnedFd),
    Enter { parent: Arc<Node<D>>, name: Box<CStr>, inode: u64 },
    ReadOn { node: Arc<Node<D>>, fd: Arc<OwnedFd> },
    Batch { node: Arc<Node<D>>, entries: Arc<Entries>, range: Range<usize> },
}

impl<V: Visit> Work for Walk<'_, V> {
    type Task = Task<V::Dir>;

    fn choosy(&self) -> bool {
        self.group_bits.is_some()
    }

    fn suits(&self, task: &Self::Task, worker: usize, workers: usize) -> bool {
        match (task, self.group_bits) {
            (Task::Enter { inode, .. }, Some(bits)) => {
                let group = inode.checked_shr(bits).unwrap_or_default();
                group % workers as u64 == worker as u64
            }
            _ => true,
        }
    }

    fn run(&self, crew: &Crew<'_, '_, Self>, task: Self::Task) {
        match task {
            Task::Root(fd) => self.enter(crew, fd, None, c"".into()),
            Task::Enter { parent, name, .. } => self.subdirectory(crew, parent, name),
            Task::ReadOn { node, fd } => self.read(crew, node, fd),
            Task::Batch { node, entries, range } => {
                self.batch(&node, &entries, range);
                self.release(node);
            }
        }
    }
}

impl<V: Visit> Walk<'_, V> {
    fn subdirectory(&self, crew: &Crew<'_, '_, Self>, parent: Arc<Node<V::Dir>>, name: Box<CStr>) {
        let opened = match self.open(&parent, None) {
            Some(_) if self.stop() => None,
            Some(at) => {
                let opened = open_directory(at.fd(), &name)
                    .or_else(|error| self.visitor.open_again(at.fd(), &name, error));
                let path = || at.path().join(OsStr::from_bytes(name.to_bytes()));
                match opened {
                    Ok(fd) => Some(fd),
                    Err(Errno::XDEV) => {
                        self.fail(TreeError::MountPoint { path: path() });
                        None
                    }
                    Err(error) => {
                        self.fail(TreeError::io("open directory", path())(error));
                        None
                    }
                }
            }
            None => None,
        };
        match opened {
            Some(fd) => self.enter(crew, fd, Some(parent), name),
            None => self.release(parent),
        }
    }

    fn enter(
        &self,
        crew: &Crew<'_, '_, Self>,
        fd: OwnedFd,
        parent: Option<Arc<Node<V::Dir>>>,
        name: Box<CStr>,
    ) {
        let above = parent.as_ref().and_then(|parent| self.open(parent, None));
        let entered = if parent.is_some() != above.is_some() {
            // Said already.
            Ok(Enter::Done)
        } else {
            self.visitor.enter(&Found { parent: above.as_ref(), name: &name, fd: &fd, root: self.path })
        };
        let entered = entered.unwrap_or_else(|error| {
            self.fail(error);
            Enter::Done
        });
        drop(above);
        match entered {
            Enter::Into(data, twin) => {
                let node = Arc::new(Node::new(name, parent, data, fd, twin));
                node.close_far_above();
                if let Some(fd) = node.fd.get() {
                    self.read(crew, node, fd);
                }
            }
            Enter::Done => {
                if let Some(parent) = parent {
                    self.release(parent);
                }
            }
        }
    }

    fn read(&self, crew: &Crew<'_, '_, Self>, node: Arc<Node<V::Dir>>, fd: Arc<OwnedFd>) {
        if self.stop() {
            return self.release(node);
        }
        let read = Entries::read(&fd);
        // Else dropped at once: held while directories above are removed, it would be something in each of
        // them to the kernel, which looks for such things.
        let unfinished = matches!(read, Ok((_, false))).then_some(fd);
        match read {
            Ok((entries, _)) => {
                if let Some(fd) = unfinished {
                    // Below all others on the stack: read on when the tasks of this part are done.
                    node.pending.fetch_add(1, Ordering::Relaxed);
                    crew.add([Task::ReadOn { node: Arc::clone(&node), fd }], false);
                }
                self.entries(crew, &node, &Arc::new(entries));
            }
            Err(error) => {
                self.fail(TreeError::io("read directory", join(self.path, &node.relative()))(error));
            }
        }
        self.release(node);
    }

    fn entries(&self, crew: &Crew<'_, '_, Self>, node: &Arc<Node<V::Dir>>, entries: &Arc<Entries>) {
        let directories = entries.directories();
        if !directories.is_empty() {
            node.pending.fetch_add(directories.len(), Ordering::Relaxed);
            let tasks = entries.iter(directories).map(|entry| Task::Enter {
                parent: Arc::clone(node),
                name: entry.name.into(),
                inode: entry.inode,
            });
            crew.add(tasks, false);
        }
        let mut others = entries.others();
        if others.len() > BATCH && self.visitor.shares_directories() {
            let first = others.start + BATCH;
            let batches: Vec<_> = (first..others.end)
                .step_by(BATCH)
                .map(|start| Task::Batch {
                    node: Arc::clone(node),
                    entries: Arc::clone(entries),
                    range: start..(start + BATCH).min(others.end),
                })
                .collect();
            node.pending.fetch_add(batches.len(), Ordering::Relaxed);
            // The last added is taken first: in the order in which the file system has them.
            crew.add(batches.into_iter().rev(), true);
            others.end = first;
        }
        self.batch(node, entries, others);
    }

    fn batch(&self, node: &Node<V::Dir>, entries: &Entries, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let Some(at) = self.open(node, None) else { return };
        for entry in entries.iter(range) {
            if self.stop() {
                return;
            }
            if let Err(error) = self.visitor.entry(&at, &entry) {
                self.fail(error);
            }
        }
    }

    /// Gives back one reason to stay in a directory, and leaves all that have none left.
    fn release(&self, node: Arc<Node<V::Dir>>) {
        let mut node = node;
        let mut below: Option<Open> = None;
        while node.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            let parent = node.parent.clone();
            if !self.stop()
                && let Some(at) = self.open(&node, below.as_ref())
            {
                let above = parent.as_ref().and_then(|parent| self.open(parent, Some(&at.open)));
                if parent.is_some() == above.is_some()
                    && let Err(error) = self.visitor.leave(&at, above.as_ref())
                {
                    self.fail(error);
                }
                below = Some(at.open);
            }
            let Some(parent) = parent else { return };
            node = parent;
        }
    }

    fn open<'a>(&'a self, node: &'a Node<V::Dir>, below: Option<&Open>) -> Option<At<'a, V::Dir>> {
        match node.open(below) {
            Ok(open) => Some(At { node, open, root: self.path }),
            Err(error) => {
                self.fail(TreeError::io("open directory", join(self.path, &node.relative()))(error));
                None
            }
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
