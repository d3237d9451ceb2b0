//! What runners do to a build root, mostly with its own tools.
//!
//! A tool that the build root lacks is left out, and so are policies that it lacks: a minimal build root has nothing
//! that would need them. (The reference fails there.)

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_sys::command::Run;

/// Where tools are looked for, in this order: the search path of a build root.
const DIRECTORIES: &[&str] = &["usr/sbin", "usr/bin"];

/// The only user of a build root that has none.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n";

/// A machine id that is the same everywhere, so that what tools make of it is too.
const MACHINE_ID: &str = "ffffffffffffffffffffffffffffffff\n";

/// Where the libraries of Red Hat Enterprise Linux 7 for iSCSI are, which its installation programs need.
const ISCSI: &str = "/usr/lib64/iscsi\n";

/// Where the distribution keeps its default cryptographic policies, and where programs look for those in force.
const POLICIES: [&str; 2] = ["usr/share/crypto-policies/back-ends/DEFAULT", "etc/crypto-policies/back-ends"];

/// Makes sure that there is a user database.
pub(super) fn user_database(root: &Path) -> Result<(), ModuleError> {
    let path = root.join("etc/passwd");
    match File::create_new(&path) {
        Ok(mut file) => file.write_all(PASSWD.as_bytes()).map_err(ModuleError::io("write", &path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(ModuleError::io("create", &path)(error)),
    }
}

/// Makes the cache of the dynamic linker.
pub(super) fn ldconfig(root: &Path) -> Result<(), ModuleError> {
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

/// Makes the cache of the dynamic linker with the libraries for iSCSI.
pub(super) fn ldconfig_with_iscsi(root: &Path) -> Result<(), ModuleError> {
    let path = root.join("etc/ld.so.conf");
    fs::write(&path, ISCSI).map_err(ModuleError::io("write", &path))?;
    ldconfig(root)
}

/// Makes the users and groups that packages declare.
pub(super) fn sysusers(root: &Path) -> Result<(), ModuleError> {
    let Some(tool) = find(root, "systemd-sysusers") else { return Ok(()) };
    // It tells every user that it makes: nothing that belongs into a stage's output.
    with_root(Run::new(tool), root).output()?;
    Ok(())
}

/// Makes the files and directories that packages declare.
pub(super) fn tmpfiles(root: &Path) -> Result<(), ModuleError> {
    let Some(tool) = find(root, "systemd-tmpfiles") else { return Ok(()) };
    // May fail: packages declare owners that do not exist before they are configured.
    let _ = with_root(Run::new(tool).arg("--create"), root).run();
    Ok(())
}

/// Removes a name service configuration: `nss-resolve` has nobody to ask in a system that was not booted.
pub(super) fn no_nsswitch(root: &Path) -> Result<(), ModuleError> {
    remove(&root.join("etc/nsswitch.conf"))
}

/// Makes sure that there is a machine id, for what `systemd-tmpfiles` and installation scripts make of it.
pub(super) fn machine_id(root: &Path) -> Result<(), ModuleError> {
    let path = root.join("etc/machine-id");
    if path.exists() {
        return Ok(());
    }
    fs::write(&path, MACHINE_ID).map_err(ModuleError::io("write", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444))
        .map_err(ModuleError::io("set the permissions of", &path))
}

/// Puts the distribution's default cryptographic policies in force: `rpm` asks them whether it may read signatures of
/// older systems.
pub(super) fn crypto_policies(root: &Path) -> Result<(), ModuleError> {
    let [source, target] = POLICIES.map(|path| root.join(path));
    if !source.exists() {
        return Ok(());
    }
    copy_contents(&source, &target)
}

/// Links `python3` to where stages in Python look for it: on this distribution the link of `/usr/bin` leads to one in
/// `/etc`.
pub(super) fn python3(root: &Path) -> Result<(), ModuleError> {
    let directory = root.join("etc/alternatives");
    fs::create_dir_all(&directory).map_err(ModuleError::io("create directory", &directory))?;
    let path = directory.join("python3");
    match symlink("/usr/bin/python3.6", &path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(ModuleError::io("create symbolic link", &path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a file or link, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), ModuleError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ModuleError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Copies a directory with its permissions. Links are followed: what they lead to may change its place.
fn copy_contents(source: &Path, target: &Path) -> Result<(), ModuleError> {
    fs::create_dir_all(target).map_err(ModuleError::io("create directory", target))?;
    for entry in fs::read_dir(source).map_err(ModuleError::io("read directory", source))? {
        let entry = entry.map_err(ModuleError::io("read directory", source))?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        if from.is_dir() {
            copy_contents(&from, &to)?;
        } else {
            fs::copy(&from, &to).map_err(ModuleError::io("copy", &from))?;
        }
    }
    let permissions = fs::metadata(source).map_err(ModuleError::io("read", source))?.permissions();
    fs::set_permissions(target, permissions).map_err(ModuleError::io("set the permissions of", target))
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
