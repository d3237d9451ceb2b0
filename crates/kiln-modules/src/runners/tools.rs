//! What runners have the build root's own tools do. A tool that the build root lacks is left out: a minimal
//! build root has nothing that would need its work.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_sys::command::Run;

/// Where tools are looked for, in this order: the search path of a build root.
const DIRECTORIES: &[&str] = &["usr/sbin", "usr/bin"];

/// Makes the cache of the dynamic linker.
pub(crate) fn ldconfig(root: &Path) -> Result<(), ModuleError> {
    let Some(tool) = find(root, "ldconfig") else { return Ok(()) };
    // Without its configuration it works, but warns.
    let path = root.join("etc/ld.so.conf");
    OpenOptions::new().append(true).create(true).open(&path).map_err(ModuleError::io("create", &path))?;
    let mut run = Run::new(tool);
    if !is_own(root) {
        run = run.arg("-r").arg(root);
    }
    Ok(run.run()?)
}

/// Makes the users and groups that packages declare.
pub(crate) fn sysusers(root: &Path) -> Result<(), ModuleError> {
    let Some(tool) = find(root, "systemd-sysusers") else { return Ok(()) };
    // It tells every user that it makes: nothing that belongs into a stage's output.
    with_root(Run::new(tool), root).output()?;
    Ok(())
}

/// Makes the files and directories that packages declare.
pub(crate) fn tmpfiles(root: &Path) -> Result<(), ModuleError> {
    let Some(tool) = find(root, "systemd-tmpfiles") else { return Ok(()) };
    // May fail: packages declare owners that do not exist before they are configured.
    let _ = with_root(Run::new(tool).arg("--create"), root).run();
    Ok(())
}

/// Removes a name service configuration: `nss-resolve` has nobody to ask in a system that was not booted.
pub(crate) fn nsswitch(root: &Path) -> Result<(), ModuleError> {
    let path = root.join("etc/nsswitch.conf");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ModuleError::io("remove", &path)(error)),
        _ => Ok(()),
    }
}

fn find(root: &Path, name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| root.join(directory).join(name)).find(|path| path.exists())
}

fn with_root(run: Run, root: &Path) -> Run {
    if is_own(root) { run } else { run.arg(format!("--root={}", root.display())) }
}

fn is_own(root: &Path) -> bool {
    root == Path::new("/")
}
