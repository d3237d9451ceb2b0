//! Descriptors that are named by their numbers: those that the caller of the program has opened, and those that a
//! child is given.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

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

/// Lets a child inherit a descriptor and says under which number. No other child inherits it.
///
/// The descriptor belongs to the command from then on: it is open until that is dropped.
pub fn pass(command: &mut Command, descriptor: OwnedFd) -> RawFd {
    let number = descriptor.as_raw_fd();
    let keep = move || Ok(rustix::io::fcntl_setfd(&descriptor, FdFlags::empty())?);
    // SAFETY: the closure makes one system call on a descriptor of the child's own table, and allocates nothing.
    #[expect(unsafe_code, reason = "it runs between the fork and the execution of the program")]
    unsafe {
        command.pre_exec(keep);
    }
    number
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

    #[test]
    fn a_child_is_given_a_descriptor() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(b"for the child").expect("written");
        drop(writer);
        let mut command = Command::new("sh");
        let number = pass(&mut command, reader.into());
        let output = command.args(["-c", "cat <&$0"]).arg(number.to_string()).output().expect("started");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "for the child");
    }
}
