//! Open-file-description locks on whole files.
//!
//! Such a lock belongs to the open file description: duplicates of a descriptor share it, two threads that
//! open a file separately exclude each other, and closing the last descriptor (or dying) releases it. Asking
//! again with another kind converts the lock in one step.
//!
//! A write lock needs a descriptor that is open for writing, so directories cannot be write-locked.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// What a lock permits to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Other readers may hold it too.
    Read,
    /// Nobody else may hold it.
    Write,
}

/// How an attempt that does not wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Attempt {
    /// The lock is held now.
    Acquired,
    /// Somebody else holds a lock that excludes it.
    Contended,
}

/// `fcntl(F_OFD_SETLK)`: tries to lock the whole file, without waiting.
pub fn try_lock(file: impl AsFd, kind: Kind) -> io::Result<Attempt> {
    match set(file.as_fd(), libc::F_OFD_SETLK, kind_value(kind)) {
        Ok(()) => Ok(Attempt::Acquired),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(Attempt::Contended)
        }
        Err(error) => Err(error),
    }
}

/// `fcntl(F_OFD_SETLKW)`: locks the whole file, waiting as long as it takes; signals do not end the wait.
pub fn lock(file: impl AsFd, kind: Kind) -> io::Result<()> {
    loop {
        match set(file.as_fd(), libc::F_OFD_SETLKW, kind_value(kind)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// `fcntl(F_OFD_GETLK)`: whether a lock of that kind would be contended, without taking it even for a moment.
///
/// Any descriptor does, whatever it is open for. A lock of the same open file description does not count.
pub fn is_contended(file: impl AsFd, kind: Kind) -> io::Result<bool> {
    let mut range = whole_file(kind_value(kind));
    // SAFETY: the descriptor is borrowed for the call, and the command reads and writes one `flock`, which lives as long.
    #[expect(unsafe_code, reason = "no crate wraps locks of open file descriptions")]
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut range) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(range.l_type != libc::F_UNLCK as libc::c_short)
    }
}

/// `fcntl(F_OFD_SETLK, F_UNLCK)`: releases whatever lock the open file description holds.
pub fn unlock(file: impl AsFd) -> io::Result<()> {
    set(file.as_fd(), libc::F_OFD_SETLK, libc::F_UNLCK)
}

const fn kind_value(kind: Kind) -> libc::c_int {
    match kind {
        Kind::Read => libc::F_RDLCK,
        Kind::Write => libc::F_WRLCK,
    }
}

const fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        // The constants are small; the field is narrower than the type they are declared with.
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        // Must be zero for the commands that concern open file descriptions.
        l_pid: 0,
    }
}

fn set(file: BorrowedFd<'_>, command: libc::c_int, kind: libc::c_int) -> io::Result<()> {
    let range = whole_file(kind);
    // SAFETY: the descriptor is borrowed for the call, and the command reads one `flock`, which lives as long.
    #[expect(unsafe_code, reason = "no crate wraps locks of open file descriptions")]
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const range) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn open(file: &File) -> File {
        File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .expect("a second description of the same file")
    }

    fn file() -> File {
        let fd = rustix::fs::memfd_create("lock", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        File::from(fd)
    }

    #[test]
    fn which_locks_exclude_each_other() {
        let cases = [
            (Kind::Read, Kind::Read, Attempt::Acquired),
            (Kind::Read, Kind::Write, Attempt::Contended),
            (Kind::Write, Kind::Read, Attempt::Contended),
            (Kind::Write, Kind::Write, Attempt::Contended),
        ];
        for (held, wanted, expected) in cases {
            let first = file();
            let second = open(&first);
            assert!(!is_contended(&second, wanted).expect("ask"), "nobody holds one");
            assert_eq!(try_lock(&first, held).expect("lock"), Attempt::Acquired);
            let asked = is_contended(&second, wanted).expect("ask");
            assert_eq!(asked, expected == Attempt::Contended, "{held:?} then {wanted:?}");
            assert!(!is_contended(&first, wanted).expect("ask"), "its own lock does not count");
            assert_eq!(try_lock(&second, wanted).expect("lock"), expected, "{held:?} then {wanted:?}");
        }
    }

    #[test]
    fn a_lock_converts_in_place_and_ends_with_its_description() {
        let first = file();
        let second = open(&first);
        lock(&first, Kind::Write).expect("lock");
        lock(&first, Kind::Read).expect("convert");
        assert_eq!(try_lock(&second, Kind::Read).expect("lock"), Attempt::Acquired);
        assert_eq!(try_lock(&first, Kind::Write).expect("lock"), Attempt::Contended);
        drop(second);
        assert_eq!(try_lock(&first, Kind::Write).expect("lock"), Attempt::Acquired);
        let third = open(&first);
        unlock(&first).expect("unlock");
        assert_eq!(try_lock(&third, Kind::Write).expect("lock"), Attempt::Acquired);
    }

    #[test]
    fn a_waiting_lock_is_granted_when_the_holder_lets_go() {
        let first = file();
        let second = open(&first);
        lock(&first, Kind::Write).expect("lock");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lock(&second, Kind::Write));
            unlock(&first).expect("unlock");
            waiting.join().expect("no panic").expect("granted");
        });
        assert_eq!(try_lock(&first, Kind::Read).expect("lock"), Attempt::Contended);
    }
}
