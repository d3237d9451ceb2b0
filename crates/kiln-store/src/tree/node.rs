//! The directories on the way from the root of a tree to what is being visited.

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use rustix::io::Errno;

use super::directory::{open_beneath, open_directory};
use super::handle::Handle;

/// So many directories above one that is visited stay open; those further up are opened again on the way
/// back. More levels than trees have, so few descriptors that eight workers stay far below the usual limit.
const KEPT_OPEN: usize = 32;

/// A directory that is being visited, together with its twin in another tree if there is one.
#[derive(Debug)]
pub(super) struct Node<D> {
    /// Empty for the root.
    pub(super) name: Box<CStr>,
    pub(super) parent: Option<Arc<Self>>,
    pub(super) data: D,
    pub(super) pending: AtomicUsize,
    pub(super) fd: Handle,
    pub(super) twin: Option<Handle>,
    depth: usize,
}

/// Descriptors of a directory and of its twin.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) twin: Option<Arc<OwnedFd>>,
}

impl<D> Node<D> {
    pub(super) fn new(
        name: Box<CStr>,
        parent: Option<Arc<Self>>,
        data: D,
        fd: OwnedFd,
        twin: Option<OwnedFd>,
    ) -> Self {
        let depth = parent.as_ref().map_or(0, |parent| parent.depth + 1);
        let pending = AtomicUsize::new(1);
        Self { name, parent, data, pending, fd: Handle::new(fd), twin: twin.map(Handle::new), depth }
    }

    /// The path relative to the root, which is empty for the root itself.
    pub(super) fn relative(&self) -> PathBuf {
        let mut names: Vec<&CStr> = Vec::with_capacity(self.depth);
        let mut node = self;
        while let Some(parent) = &node.parent {
            names.push(&node.name);
            node = parent;
        }
        let mut path = PathBuf::with_capacity(names.iter().map(|name| name.count_bytes() + 1).sum());
        path.extend(names.iter().rev().map(|name| Path::new(OsStr::from_bytes(name.to_bytes()))));
        path
    }

    /// Closes the one directory far above that the visit of this one leaves behind.
    pub(super) fn close_far_above(&self) {
        if self.depth <= KEPT_OPEN {
            return;
        }
        let mut node = self;
        for _ in 0..KEPT_OPEN {
            let Some(parent) = &node.parent else { return };
            node = parent;
        }
        if node.parent.is_none() {
            return;
        }
        node.fd.close();
        if let Some(twin) = &node.twin {
            twin.close();
        }
    }

    /// The descriptors, opened again if they were closed; quickly so from a subdirectory that is open.
    pub(super) fn open(&self, below: Option<&Open>) -> Result<Open, Errno> {
        let again = |handle: &Handle, below: Option<&Arc<OwnedFd>>, select: Select<D>| match handle.get() {
            Some(fd) => Ok(fd),
            None => match below.map(|below| handle.open_from_below(below)) {
                Some(Ok(fd)) => Ok(fd),
                _ => handle.open(|| self.open_from_above(select)),
            },
        };
        let fd = again(&self.fd, below.map(|below| &below.fd), |node| Some(&node.fd))?;
        let twin = match &self.twin {
            None => None,
            Some(twin) => {
                let below = below.and_then(|below| below.twin.as_ref());
                Some(again(twin, below, |node| node.twin.as_ref())?)
            }
        };
        Ok(Open { fd, twin })
    }

    fn open_from_above(&self, select: Select<D>) -> Result<OwnedFd, Errno> {
        let mut names = Vec::new();
        let mut node = self;
        // The root is never closed.
        while let Some(parent) = &node.parent {
            names.push(OsStr::from_bytes(node.name.to_bytes()));
            node = parent;
            if let Some(fd) = select(node).and_then(Handle::get) {
                let path: PathBuf = names.iter().rev().collect();
                return open_directory(open_beneath(&fd, &path)?, c".");
            }
        }
        Err(Errno::STALE)
    }
}

type Select<D> = fn(&Node<D>) -> Option<&Handle>;
