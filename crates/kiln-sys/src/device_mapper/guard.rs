//! A process that removes what a killed program has mapped.
//!
//! Protocol: the guard is forked before anything is mapped, and says when it is ready. It then waits for a byte, which tells it that
//! it is not needed any more, or for the end of the socket. That comes when the program and everything that it has started with
//! [`Guard::lifeline`] have ended, so that nobody maps anything more; the guard then has the kernel remove all
//! mappings that stand on the device, and the one of the given name if its maker was killed before it had any content. It
//! holds the device open until then: its number is nobody else's.
//!
//! It has a session of its own, so that signals for the program's process group do not reach it, and no descriptors but
//! the three that it needs. It executes nothing, and only makes system calls: other threads of the program may have held any lock
//! when it was forked.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::{Control, Name, is_empty, remove, remove_all_on, terminated};

/// A process that removes mappings if the calling program is killed. Dropping it ends it.
#[derive(Debug)]
pub struct Guard {
    socket: OwnedFd,
    process: Pid,
}

impl Guard {
    /// Starts a guard of what will be mapped on an open block device, under this name and any others.
    pub fn new(control: &Control, device: &File, name: &str) -> io::Result<Self> {
        let name = terminated(name)?;
        let number = device.metadata()?.rdev();
        let (socket, other) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // SAFETY: the child only makes system calls, and never returns.
        #[expect(unsafe_code, reason = "the child goes on when this process has been killed")]
        let process = unsafe { libc::fork() };
        if process == 0 {
            guard(&other, &control.file, device, number, &name);
        }
        let process = Pid::from_raw(process).filter(|_| process > 0).ok_or_else(io::Error::last_os_error)?;
        drop(other);
        let guard = Self { socket, process };
        match rustix::io::read(&guard.socket, &mut [0_u8]) {
            Ok(1) => Ok(guard),
            Ok(_) => Err(io::Error::other("the process that guards mappings has ended")),
            Err(error) => Err(error.into()),
        }
    }

    /// What programs inherit that map something: the guard waits for their end, too.
    pub fn lifeline(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// As if the program had been killed.
    #[cfg(test)]
    pub(super) fn die(self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write).expect("shut down");
        waitpid(Some(self.process), WaitOptions::empty()).expect("it ends");
        std::mem::forget(self);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails only if it has been killed.
        let _ = rustix::net::send(&self.socket, &[1], rustix::net::SendFlags::NOSIGNAL);
        while matches!(waitpid(Some(self.process), WaitOptions::empty()), Err(Errno::INTR)) {}
    }
}

/// The guard itself.
fn guard(socket: &OwnedFd, control: &File, device: &File, number: u64, name: &Name) -> ! {
    let code = match keep([socket.as_raw_fd(), control.as_raw_fd(), device.as_raw_fd()]) {
        Ok([socket, control, _device]) => {
            watch(&socket, &control.into(), number, name);
            0
        }
        Err(_) => 1,
    };
    // SAFETY: ends the process without running anything of the program that it was forked from.
    #[expect(unsafe_code, reason = "exit handlers are the program's own")]
    unsafe {
        libc::_exit(code)
    }
}

/// Closes all descriptors but these, and leaves the program's session.
fn keep(descriptors: [i32; 3]) -> io::Result<[OwnedFd; 3]> {
    for (to, from) in (0..).zip(descriptors) {
        // SAFETY: works on numbers of the child's own table; those of the program are above the standard streams.
        #[expect(unsafe_code, reason = "the child owns a copy of the descriptor table")]
        if unsafe { libc::dup2(from, to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: as above; nothing of the program runs in the child that would use them.
    #[expect(unsafe_code, reason = "close_range has no safe wrapper")]
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the child has signal actions of its own.
        #[expect(unsafe_code, reason = "the standard library has no signal actions")]
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    // SAFETY: made above, each one once.
    #[expect(unsafe_code, reason = "takes ownership of the descriptors by their numbers")]
    let kept = [0, 1, 2].map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) });
    rustix::process::setsid()?;
    Ok(kept)
}

fn watch(socket: &OwnedFd, control: &File, number: u64, name: &Name) {
    if rustix::io::write(socket, &[1]) != Ok(1) {
        return;
    }
    loop {
        match rustix::io::read(socket, &mut [0_u8]) {
            Err(Errno::INTR) => {}
            // Not needed.
            Ok(1..) => return,
            // The program has ended; a reset says so, too.
            Ok(0) | Err(_) => break,
        }
    }
    if is_empty(control, name) {
        // Best effort, as nobody is there to be told.
        let _ = remove(control, name);
    }
    remove_all_on(control, number);
}
