//! Removing what would make two installations of the same packages differ, or two machines the same.
//!
//! | what | why |
//! |---|---|
//! | logs of dpkg, alternatives, apt | hold the time of the build |
//! | backups of dpkg's, debconf's and the account files | depend on the order of unimportant steps |
//! | ldconfig's auxiliary cache | holds inode numbers and times |
//! | a new `/etc/machine-id` emptied, D-Bus's removed | must differ from machine to machine; made at the first boot |
//! | random seed | must be nobody else's |
//! | ssh host keys | must be nobody else's; a unit makes them at the first boot |

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;

/// Files that only the build made: never worth keeping.
const LEFTOVERS: [&str; 13] = [
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/passwords.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/status-old",
];

/// Files that are removed unless they were in the tree before.
const NEW_ONLY: [&str; 6] = [
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/log/alternatives.log",
    "var/log/apt/history.log",
    "var/log/apt/term.log",
    "var/log/dpkg.log",
];

const MACHINE_ID: &str = "etc/machine-id";
const SSH: &str = "etc/ssh";
const UNIT: &str = "etc/systemd/system/ssh-host-keys.service";
const UNIT_LINK: &str = "etc/systemd/system/ssh.service.requires/ssh-host-keys.service";

/// Makes missing host keys before the ssh server starts.
const UNIT_TEXT: &str = "\
[Unit]
Description=Make missing OpenSSH host keys
Before=ssh.service
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
RequiredBy=ssh.service
";

/// What was in the tree before the packages came.
pub(super) struct Before {
    known: BTreeSet<PathBuf>,
    machine_id: Option<Vec<u8>>,
    host_keys: BTreeSet<PathBuf>,
}

impl Before {
    /// Notes what is there.
    pub(super) fn look(tree: &Path) -> Self {
        Self {
            known: NEW_ONLY.iter().map(|path| tree.join(path)).filter(|path| path.exists()).collect(),
            machine_id: fs::read(tree.join(MACHINE_ID)).ok(),
            host_keys: host_keys(tree),
        }
    }

    /// Removes what is not to stay.
    pub(super) fn tidy(&self, tree: &Path) -> Result<(), ModuleError> {
        for path in LEFTOVERS {
            remove(&tree.join(path))?;
        }
        for path in NEW_ONLY.map(|path| tree.join(path)) {
            if !self.known.contains(&path) {
                remove(&path)?;
            }
        }
        // systemd fills an empty one when it is configured: what somebody put there before comes back.
        let machine_id = tree.join(MACHINE_ID);
        let wanted = self.machine_id.as_deref().unwrap_or_default();
        if machine_id.is_file() && fs::read(&machine_id).ok().as_deref() != Some(wanted) {
            fs::write(&machine_id, wanted).map_err(ModuleError::io("write", &machine_id))?;
        }
        let mut removed = false;
        for key in host_keys(tree).difference(&self.host_keys) {
            remove(key)?;
            removed = true;
        }
        if removed && self.host_keys.is_empty() {
            let (unit, link) = (tree.join(UNIT), tree.join(UNIT_LINK));
            fs::write(&unit, UNIT_TEXT).map_err(ModuleError::io("write", &unit))?;
            let wants = link.parent().unwrap_or(tree);
            fs::create_dir_all(wants).map_err(ModuleError::io("create directory", wants))?;
            let target = Path::new("/").join(UNIT);
            std::os::unix::fs::symlink(target, &link).map_err(ModuleError::io("create link", &link))?;
        }
        Ok(())
    }
}

fn host_keys(tree: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(tree.join(SSH)).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("ssh_host_"))
        .map(|entry| entry.path())
        .collect()
}

fn remove(path: &Path) -> Result<(), ModuleError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound && error.kind() != ErrorKind::NotADirectory => {
            Err(ModuleError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().expect("scratch directory");
        for directory in ["etc/ssh", "etc/systemd/system", "var/log", "var/lib/dbus", "var/lib/systemd"] {
            fs::create_dir_all(scratch.path().join(directory)).expect("directory");
        }
        for file in files {
            fs::write(scratch.path().join(file), "old").expect("file");
        }
        scratch
    }

    fn change(tree: &Path) {
        for file in [MACHINE_ID, "var/lib/dbus/machine-id", "var/log/dpkg.log", "etc/ssh/ssh_host_rsa_key"] {
            fs::write(tree.join(file), "new").expect("file");
        }
    }

    #[test]
    fn what_only_this_machine_has_does_not_stay() {
        let tree = tree(&[]);
        let before = Before::look(tree.path());
        change(tree.path());
        before.tidy(tree.path()).expect("tidies");
        assert_eq!(fs::read(tree.path().join(MACHINE_ID)).expect("file"), b"");
        for file in ["var/lib/dbus/machine-id", "var/log/dpkg.log", "etc/ssh/ssh_host_rsa_key"] {
            assert!(!tree.path().join(file).exists(), "{file}");
        }
        let link = fs::read_link(tree.path().join(UNIT_LINK)).expect("the unit is enabled");
        assert_eq!(link, Path::new("/").join(UNIT));
        assert!(tree.path().join(UNIT).is_file());
    }

    #[test]
    fn what_was_there_before_stays() {
        let tree = tree(&[MACHINE_ID, "var/log/dpkg.log", "etc/ssh/ssh_host_rsa_key"]);
        let before = Before::look(tree.path());
        change(tree.path());
        before.tidy(tree.path()).expect("tidies");
        assert_eq!(fs::read(tree.path().join(MACHINE_ID)).expect("file"), b"old");
        for file in ["var/log/dpkg.log", "etc/ssh/ssh_host_rsa_key"] {
            assert!(tree.path().join(file).exists(), "{file}");
        }
        assert!(!tree.path().join(UNIT).exists());
    }
}
