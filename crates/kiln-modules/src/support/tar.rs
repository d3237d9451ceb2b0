//! Archives by the build root's `tar`, such that equal trees give equal archives.

use std::ffi::OsStr;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_sys::command::Run;

/// Where the build root's programs are: `tar` gets an environment of its own.
const PATH: &str = "/usr/sbin:/usr/bin";

/// Names in the order of their bytes, instead of that of the directory.
pub(crate) const SORTED: &str = "--sort=name";

/// Times of reading and of changes to the inode differ from build to build, and so may the names of headers. For
/// archives in posix format, to which tar switches for what only these can hold.
pub(crate) const STEADY: &str = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime";

/// The options for what only archives in posix format can hold; with [`STEADY`] if there is any of it.
pub(crate) fn attributes(acls: bool, selinux: bool, xattrs: bool) -> Vec<&'static str> {
    let mut options = Vec::new();
    for (wanted, words) in [
        (acls, &["--acls"][..]),
        (selinux, &["--selinux"]),
        (xattrs, &["--xattrs", "--xattrs-include", "*"]),
        (acls || selinux || xattrs, &[STEADY]),
    ] {
        if wanted {
            options.extend(words);
        }
    }
    options
}

/// Packs entries of a directory into an archive.
pub(crate) fn pack(
    directory: &Path,
    entries: impl IntoIterator<Item = impl AsRef<OsStr>>,
    archive: &Path,
    options: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<(), ModuleError> {
    Run::new("tar")
        // No variable may change what the archive holds; threads do not change what `xz` makes of it.
        .env_clear()
        .env("PATH", PATH)
        .env("XZ_OPT", "--threads 0")
        .args(options)
        .arg("-cf")
        .arg(archive)
        .arg("-C")
        .arg(directory)
        .arg("--")
        .args(entries)
        .run()?;
    Ok(())
}
