//! The tree's users and groups by name.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use kiln_api::ModuleError;

use super::tree::Tree;

/// Numbers of the tree's users and groups; empty as long as the tree has none.
#[derive(Default)]
pub(super) struct Accounts {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

impl Accounts {
    /// Reads the tree's `passwd` and `group`.
    pub(super) fn read(tree: &Tree) -> Result<Self, ModuleError> {
        Ok(Self { users: numbers(tree, "etc/passwd")?, groups: numbers(tree, "etc/group")? })
    }

    /// A user's number, by name or as `#` and the number.
    pub(super) fn user(&self, name: &str) -> Option<u32> {
        number(&self.users, name)
    }

    /// A group's number, by name or as `#` and the number.
    pub(super) fn group(&self, name: &str) -> Option<u32> {
        number(&self.groups, name)
    }
}

fn number(known: &HashMap<String, u32>, name: &str) -> Option<u32> {
    match name.strip_prefix('#') {
        Some(digits) => digits.parse().ok(),
        None => known.get(name).copied(),
    }
}

fn numbers(tree: &Tree, path: &str) -> Result<HashMap<String, u32>, ModuleError> {
    let path = Path::new(path);
    if tree.status_followed(path)?.is_none() {
        return Ok(HashMap::new());
    }
    let mut bytes = Vec::new();
    tree.read(path)?.read_to_end(&mut bytes).map_err(ModuleError::io("read", tree.path().join(path)))?;
    let text = String::from_utf8_lossy(&bytes);
    let parse = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    Ok(text.lines().filter_map(parse).collect())
}
