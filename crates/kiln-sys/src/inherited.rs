//! Descriptors that the caller of the program has opened and named by their numbers.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};

/// Takes the descriptor with that number for writing, and keeps children from inheriting it.
///
/// To be called before anything is opened: afterwards the number may be that of something of the program's own.
///
/// # Errors
///
/// `EBADF` if there is no such descriptor, or if it is open for reading only.
pub fn writable(number: i32) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: the descriptor is only borrowed for this function, which opens nothing that could take its number
    // and closes nothing; a number without a descriptor is refused by the kernel.
    #[expect(unsafe_code, reason = "a number is all that a caller can hand over")]
    let given = unsafe { BorrowedFd::borrow_raw(number) };
    let own = rustix::io::fcntl_dupfd_cloexec(given, 0)?;
    let mode = rustix::fs::fcntl_getfl(&own)? & OFlags::RWMODE;
    if mode == OFlags::RDONLY {
        return Err(Errno::BADF.into());
    }
    // Standard streams stay what they are.
    if number > 2 {
        rustix::io::fcntl_setfd(given, FdFlags::CLOEXEC)?;
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_number_becomes_a_descriptor() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let own = writable(writer.as_raw_fd()).expect("a descriptor");
        drop(writer);
        std::fs::File::from(own).write_all(b"text").expect("written");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "text");
    }

    #[test]
    fn what_cannot_be_written_to_is_refused() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        for number in [-1, 1_000_000, reader.as_raw_fd()] {
            let error = writable(number).expect_err("refused");
            assert_eq!(error.raw_os_error(), Some(Errno::BADF.raw_os_error()), "{number}");
        }
    }
}
