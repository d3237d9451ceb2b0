//! Lines of `/etc/passwd`, and what belongs to an account outside of it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, fchown};

use kiln_api::ModuleError;

use crate::support::root::Root;

/// The file of accounts, below the tree.
const PASSWD: &str = "etc/passwd";

/// What this stage needs to know of an account.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// The user's number, as it is written.
    pub(super) uid: String,
    gid: String,
    /// The home directory; may be empty.
    pub(super) home: String,
}

impl Account {
    /// Finds an account of the tree.
    pub(super) fn find(tree: &Root, name: &str) -> Result<Option<Self>, ModuleError> {
        for line in BufReader::new(tree.read(PASSWD)?).split(b'\n') {
            let line = line.map_err(ModuleError::io("read", tree.shown(PASSWD)))?;
            // Descriptions of old may be in any encoding.
            let line = String::from_utf8_lossy(&line);
            let fields: Vec<_> = line.split(':').collect();
            if let [found, _, uid, gid, _, home, ..] = fields.as_slice()
                && *found == name
            {
                let [uid, gid, home] = [uid, gid, home].map(|field| (*field).to_owned());
                return Ok(Some(Self { uid, gid, home }));
            }
        }
        Ok(None)
    }

    /// Finds an account that must be there by now.
    pub(super) fn get(tree: &Root, name: &str) -> Result<Self, ModuleError> {
        let missing =
            || ModuleError::invalid(format!("`{}` has no user `{name}`", tree.shown(PASSWD).display()));
        Self::find(tree, name)?.ok_or_else(missing)
    }

    /// Adds keys to the account's `~/.ssh/authorized_keys`.
    pub(super) fn authorize(&self, tree: &Root, keys: &[&str]) -> Result<(), ModuleError> {
        let directory = format!("{}/.ssh", self.home);
        let path = format!("{directory}/authorized_keys");
        let number = |text: &str| text.parse::<u32>().ok();
        let (uid, gid) = (number(&self.uid), number(&self.gid));
        if !tree.exists(&directory) {
            tree.make_directory(&directory, 0o700)?;
            let real = tree.resolve(&directory)?;
            std::os::unix::fs::chown(&real, uid, gid)
                .map_err(ModuleError::io("change the owner of", &real))?;
        }
        let mut file = tree.append(&path)?;
        file.write_all(format!("{}\n", keys.join("\n")).as_bytes())
            .and_then(|()| fchown(&file, uid, gid))
            .and_then(|()| file.set_permissions(PermissionsExt::from_mode(0o600)))
            .map_err(ModuleError::io("write", tree.shown(&path)))
    }
}
