//! The kernel of the virtual machines in which tests run that need what the host's kernel may lack.
//!
//! It is Debian's small one for virtual machines, unpacked and not installed: nothing is ever booted from it but guests. Tests only look for it;
//! [`provide`] fetches it.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_sys::command::Run;

use crate::host::{self, Apt, HostError};

/// Where it is unpacked.
const PLACE: &str = "/var/cache/kiln/guest-kernel";
/// The variable that names another place.
const VARIABLE: &str = "KILN_VM_KERNEL";
/// The package that depends on the newest one.
const PACKAGE: &str =
    if cfg!(target_arch = "aarch64") { "linux-image-cloud-arm64" } else { "linux-image-cloud-amd64" };

/// The directory with the kernel: that of the environment, or where it is unpacked.
fn place() -> PathBuf {
    std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map_or_else(|| PLACE.into(), PathBuf::from)
}

fn is_kernel(place: &Path) -> bool {
    ["lib/modules", "usr/lib/modules"].iter().any(|modules| place.join(modules).is_dir())
}

/// Sees to it that there is a kernel, and says where.
pub fn provide() -> Result<PathBuf, HostError> {
    let place = place();
    if is_kernel(&place) {
        return Ok(place);
    }
    let file = |source| HostError::File { path: place.clone(), source };
    let above = place.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(above).map_err(file)?;
    let unpacked = tempfile::tempdir_in(above).map_err(file)?;
    let archive = Apt::of_host().fetch_newest(PACKAGE, unpacked.path())?;
    let tree = unpacked.path().join("tree");
    let command = Run::new("dpkg-deb").arg("--extract").arg(&archive).arg(&tree);
    command.output().map_err(|source| HostError::Install {
        packages: vec![PACKAGE.to_owned()],
        command: format!("dpkg-deb --extract {} {}", archive.display(), place.display()),
        source,
    })?;
    match fs::rename(&tree, &place) {
        // Another process was faster.
        Err(_) if is_kernel(&place) => Ok(place),
        result => result.map(|()| place.clone()).map_err(file),
    }
}

/// The directory with the kernel, for a test. Without one the test is to return: this has said that it is skipped and why; in CI it
/// panics.
pub fn provided(what: &str) -> Option<PathBuf> {
    let place = place();
    if is_kernel(&place) {
        return Some(place);
    }
    host::skip(&format!("{what} needs a kernel for virtual machines: `cargo xtask guest-test` fetches it"));
    None
}
