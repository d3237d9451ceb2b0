//! Namespaces of the calling process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::thread::UnshareFlags;

/// Gives the calling thread, and all threads and processes that it starts from now on, a mount namespace of
/// their own: a copy of the one it had.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: no descriptor table is unshared, which is what makes the general call unsafe.
    #[expect(unsafe_code, reason = "the general call can also unshare descriptor tables")]
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.map_err(io::Error::from)
}

/// Brings up the loopback interface of the network namespace; the kernel then gives it its addresses.
pub fn loopback_up() -> io::Result<()> {
    let socket: OwnedFd = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(b"lo") {
        *to = from.cast_signed() as libc::c_char;
    }
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let request =
        libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: the request is an initialised `ifreq`, which is what SIOCSIFFLAGS reads.
    #[expect(unsafe_code, reason = "interface flags have no safe wrapper")]
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
