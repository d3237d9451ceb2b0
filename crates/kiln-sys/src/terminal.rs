//! The terminal that a program was started from, and which of its process groups reads from it.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::process::Pid;

use crate::process;

/// The process group that reads from the terminal, if the descriptor is this process's own terminal.
pub fn foreground(terminal: BorrowedFd<'_>) -> Option<Pid> {
    rustix::termios::tcgetpgrp(terminal).ok()
}

/// Whether this process may read from the descriptor as from its own terminal.
pub fn is_in_foreground(terminal: BorrowedFd<'_>) -> bool {
    foreground(terminal) == Some(rustix::process::getpgrp())
}

/// Makes a process group of the session the one that reads from the terminal, also out of the background.
pub fn set_foreground(terminal: BorrowedFd<'_>, group: Pid) -> io::Result<()> {
    // Whoever is in the background is stopped by this signal for trying, unless it is blocked.
    process::with_blocked(libc::SIGTTOU, || Ok(rustix::termios::tcsetpgrp(terminal, group)?))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_is_no_terminal_has_no_foreground() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        assert_eq!(foreground(reader.as_fd()), None);
        assert!(!is_in_foreground(reader.as_fd()));
        let error = set_foreground(reader.as_fd(), rustix::process::getpgrp()).expect_err("no terminal");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
