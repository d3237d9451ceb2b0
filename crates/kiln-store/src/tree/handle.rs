//! An open directory that may be closed for a while and opened again: for trees deeper than descriptors reach.
//!
//! What is opened again must be what was closed: device, inode, mount and birth time are compared, so a tree
//! that is moved about meanwhile leads nowhere else.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

/// A directory.
#[derive(Debug)]
pub(super) struct Handle {
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Open(Arc<OwnedFd>),
    Closed(Identity),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    mount: u64,
    /// Zero where the file system does not know it.
    born: (i64, u32),
}

impl Handle {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { state: Mutex::new(State::Open(Arc::new(fd))) }
    }

    /// The descriptor, unless it is closed.
    pub(super) fn get(&self) -> Option<Arc<OwnedFd>> {
        match &*self.lock() {
            State::Open(fd) => Some(Arc::clone(fd)),
            State::Closed(_) => None,
        }
    }

    /// Closes the descriptor as soon as nobody uses it any more. One that cannot be identified stays open.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if let State::Open(fd) = &*state
            && let Ok(identity) = identity(fd)
        {
            *state = State::Closed(identity);
        }
    }

    /// Opens it again as the parent of one of its subdirectories.
    pub(super) fn open_from_below(&self, below: &OwnedFd) -> Result<Arc<OwnedFd>, Errno> {
        self.open(|| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(below, c"..", flags | OFlags::NOATIME, Mode::empty()) {
                Err(Errno::PERM) => rustix::fs::openat(below, c"..", flags, Mode::empty()),
                other => other,
            }
        })
    }

    /// Opens it again in the given way; fails with `ESTALE` if that leads elsewhere.
    pub(super) fn open(&self, open: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<Arc<OwnedFd>, Errno> {
        let mut state = self.lock();
        let expected = match &*state {
            State::Open(fd) => return Ok(Arc::clone(fd)),
            State::Closed(identity) => *identity,
        };
        let fd = Arc::new(open()?);
        if identity(&fd)? != expected {
            return Err(Errno::STALE);
        }
        *state = State::Open(Arc::clone(&fd));
        Ok(fd)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity(fd: &OwnedFd) -> Result<Identity, Errno> {
    let wanted = StatxFlags::INO | StatxFlags::MNT_ID | StatxFlags::BTIME;
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted)?;
    let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Ok(Identity {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        mount: stat.stx_mnt_id,
        born: if known { (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec) } else { (0, 0) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::directory::open_root;

    #[test]
    fn only_the_same_directory_is_opened_again() {
        let scratch = tempfile::tempdir().expect("scratch");
        for name in ["one", "two", "one/below", "two/below"] {
            std::fs::create_dir(scratch.path().join(name)).expect("directory");
        }
        let open = |name: &str| open_root(&scratch.path().join(name));
        let handle = Handle::new(open("one").expect("open"));
        handle.close();
        assert!(handle.get().is_none());
        let foreign = open("two/below").expect("open");
        assert_eq!(handle.open_from_below(&foreign).expect_err("foreign"), Errno::STALE);
        assert!(handle.get().is_none());
        let below = open("one/below").expect("open");
        handle.open_from_below(&below).expect("the same");
        assert!(handle.get().is_some());
    }
}
