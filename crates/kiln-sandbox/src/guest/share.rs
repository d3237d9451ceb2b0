//! Directories of the host in the guest, by virtiofs.
//!
//! Each has a server on the host. The servers of QEMU 7 and of the later project of its own understand the same options, those of the
//! first.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kiln_sys::command::die_with_parent;
use serde::{Deserialize, Serialize};

use super::GuestError;

/// Where the server is, as a rule on no search path.
const SERVERS: [&str; 4] =
    ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd", "/usr/bin/virtiofsd"];

/// A directory of the host that the guest may write to, under the same path.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The name that the guest mounts it by.
    pub(super) tag: String,
    /// The directory, without symbolic links.
    pub(super) path: PathBuf,
}

impl Share {
    /// Shares a directory.
    pub fn new(path: &Path) -> Result<Self, GuestError> {
        let path = path.canonicalize().map_err(GuestError::io("find", path))?;
        Ok(Self { tag: String::new(), path })
    }
}

/// A running server; dropping it ends it.
#[derive(Debug)]
pub(super) struct Server(Child);

impl Server {
    /// Finds the program.
    pub(super) fn program() -> Result<PathBuf, GuestError> {
        let found = SERVERS.iter().map(PathBuf::from).find(|path| path.is_file());
        found.ok_or_else(|| GuestError::NoProgram {
            program: "virtiofsd".to_owned(),
            // Debian 12 has it with the emulator.
            packages: ("virtiofsd` or `qemu-system-common", "virtiofsd"),
        })
    }

    /// Starts a server and returns the emulator's end of the connection.
    pub(super) fn start(program: &Path, directory: &Path) -> Result<(Self, OwnedFd), GuestError> {
        Self::connected(program, directory)
            .map_err(|source| GuestError::Start { program: program.to_owned(), source })
    }

    fn connected(program: &Path, directory: &Path) -> io::Result<(Self, OwnedFd)> {
        // It takes nothing but a socket that it can accept connections from. One that is made, connected and removed before the server
        // runs can be found by nobody else.
        let place = tempfile::Builder::new().prefix("kiln-share-").tempdir()?;
        let address = place.path().join("socket");
        let listener = UnixListener::bind(&address)?;
        let connection = UnixStream::connect(&address)?;
        drop(place);
        let mut source = OsString::from("source=");
        source.push(directory);
        let mut command = Command::new(program);
        command
            .arg("--fd=0")
            .arg("-o")
            .arg(source)
            // The other way, namespaces, is not there in every container.
            .args(["-o", "sandbox=chroot", "-o", "cache=auto", "-o", "xattr", "-o", "posix_acl"])
            // Attributes of overlays and the like: the guest's root is root here.
            .args(["-o", "modcaps=+sys_admin"])
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // A Ctrl-C at the terminal is for Kiln alone, which ends them.
        command.process_group(0);
        die_with_parent(&mut command);
        Ok((Self(command.spawn()?), connection.into()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
