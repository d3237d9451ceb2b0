//! Sockets of the file system that are listened on, wherever they are.
//!
//! The address of a UNIX socket has 108 bytes, which the path of a cache soon takes. Through the descriptor of its
//! directory, below `/proc`, every socket has a short one: see `unix(7)`, "Pathname sockets", and `proc_pid_fd(5)`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

/// How many may knock at once; one is usual.
const BACKLOG: i32 = 16;
/// The longest path that an address takes: `sun_path` with the NUL at its end.
const LONGEST: usize = 107;

/// A socket that is listened on.
#[derive(Debug)]
pub struct Endpoint {
    /// Connections are taken from here.
    pub socket: OwnedFd,
    /// By which this process and others on the host connect to it for as long as this exists.
    pub address: PathBuf,
    /// What the address goes through, if it does.
    _directory: Option<OwnedFd>,
}

impl Endpoint {
    /// Listens for packets (`SOCK_SEQPACKET`) at a path.
    ///
    /// # Errors
    ///
    /// The kernel's, or `EINVAL` if the path does not end with a name.
    pub fn listen(path: &Path, flags: SocketFlags) -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | flags, None)?;
        let mut address = path.to_owned();
        let mut directory = None;
        if path.as_os_str().len() > LONGEST {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(Errno::INVAL.into());
            };
            let opened = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            address = through(&opened, name);
            directory = Some(opened);
        }
        bind(&socket, &SocketAddrUnix::new(address.as_os_str().as_bytes())?)?;
        listen(&socket, BACKLOG)?;
        Ok(Self { socket, address, _directory: directory })
    }
}

/// Not `/proc/self`: other processes use it, too.
fn through(directory: &OwnedFd, name: &OsStr) -> PathBuf {
    let process = rustix::process::getpid();
    Path::new(&format!("/proc/{process}/fd/{}", directory.as_raw_fd())).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    use rustix::net::{accept, connect};

    #[test]
    fn a_path_may_be_longer_than_an_address() {
        let scratch = tempfile::tempdir().expect("a directory");
        for length in [1, 90, 100, 108, 200, 255] {
            let directory = scratch.path().join("d".repeat(length));
            std::fs::create_dir(&directory).expect("made");
            let path = directory.join("socket");
            let endpoint = Endpoint::listen(&path, SocketFlags::empty()).expect("listens");
            assert!(path.exists());
            let client = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a socket");
            let address = SocketAddrUnix::new(&endpoint.address).expect("short enough");
            connect(&client, &address).expect("connected");
            accept(&endpoint.socket).expect("accepted");
        }
    }
}
