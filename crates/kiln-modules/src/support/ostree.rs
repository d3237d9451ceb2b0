//! Deployments in a tree that OSTree manages, named in the options of the stages that write into them.

use std::fs;
use std::path::{Component, Path, PathBuf};

use kiln_api::ModuleError;
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use super::number::Number;
use crate::ostree::Digest;

/// Which deployment is meant: `osname` and `ref`, or the only one there is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"properties": {"default": {"enum": [false]}}, "required": ["osname", "ref"]},
    {
        "properties": {"default": {"enum": [true]}},
        "not": {"anyOf": [{"required": ["osname"]}, {"required": ["ref"]}, {"required": ["serial"]}]},
    },
]))]
pub(crate) struct Deployment {
    /// The name of the state root.
    osname: Option<String>,
    /// The ref or commit that was deployed.
    #[serde(rename = "ref")]
    reference: Option<String>,
    /// The serial number of the deployment.
    #[serde(default = "first_serial")]
    serial: Number,
    /// Whether to find the only deployment instead.
    #[serde(default)]
    default: bool,
}

/// A deployment that was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The directory of its state root, below the tree's.
    pub(crate) state_root: PathBuf,
    /// Its root directory, below the tree's.
    pub(crate) root: PathBuf,
}

impl Deployment {
    /// The root directory of the deployment.
    pub(crate) fn root(&self, tree: &Path) -> Result<PathBuf, ModuleError> {
        Ok(tree.join(self.find(tree)?.root))
    }

    /// Where the deployment is in a tree.
    pub(crate) fn find(&self, tree: &Path) -> Result<Found, ModuleError> {
        let (osname, reference, serial) = if self.default {
            only_deployment(tree)?
        } else {
            let missing = || ModuleError::option("deployment", "`osname` and `ref` are needed");
            let osname = self.osname.clone().ok_or_else(missing)?;
            let reference = self.reference.clone().ok_or_else(missing)?;
            (osname, reference, self.serial.whole("serial")?.to_string())
        };
        let commit = commit(&tree.join("ostree/repo"), &reference)?;
        let state_root = PathBuf::from(format!("ostree/deploy/{osname}"));
        let root = state_root.join(format!("deploy/{commit}.{serial}"));
        Ok(Found { state_root, root })
    }
}

/// The commit that a ref is. What is neither a commit nor the name of one in the repository is left to `ostree`, which
/// knows abbreviations, parents and remotes.
fn commit(repository: &Path, reference: &str) -> Result<String, ModuleError> {
    if let Some(commit) = Digest::parse(reference) {
        return Ok(commit.as_str().to_owned());
    }
    let is_plain = |component| matches!(component, Component::Normal(_));
    if Path::new(reference).components().all(is_plain)
        && let Ok(text) = fs::read_to_string(repository.join("refs/heads").join(reference))
        && let Some(commit) = Digest::parse(text.trim())
    {
        return Ok(commit.as_str().to_owned());
    }
    let option = format!("--repo={}", repository.display());
    let commit = Run::new("ostree").args(["rev-parse", reference, &option]).output()?;
    Ok(String::from_utf8_lossy(&commit).trim().to_owned())
}

fn first_serial() -> Number {
    Number::from(0)
}

/// State root, commit and serial number of the only deployment with serial number 0.
fn only_deployment(tree: &Path) -> Result<(String, String, String), ModuleError> {
    let mut found = Vec::new();
    let base = tree.join("ostree/deploy");
    for osname in names(&base)? {
        let deployments = base.join(&osname).join("deploy");
        if !deployments.is_dir() {
            continue;
        }
        for name in names(&deployments)? {
            if let Some(commit) = name.strip_suffix(".0") {
                found.push((osname.clone(), commit.to_owned(), "0".to_owned()));
            }
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(ModuleError::invalid(format!("there is no deployment below `{}`", base.display()))),
        count => {
            Err(ModuleError::invalid(format!("there are {count} deployments below `{}`", base.display())))
        }
    }
}

/// The visible names in a directory, sorted; none if it does not exist.
fn names(directory: &Path) -> Result<Vec<String>, ModuleError> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(ModuleError::io("read directory", directory))? {
        let name = entry.map_err(ModuleError::io("read directory", directory))?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ref_of_the_repository_needs_no_program() {
        let repository = tempfile::tempdir().expect("a directory");
        let path = repository.path();
        let digest = "0123456789abcdef".repeat(4);
        fs::create_dir_all(path.join("refs/heads/fedora/x86_64")).expect("directories");
        fs::write(path.join("refs/heads/fedora/x86_64/coreos"), format!("{digest}\n")).expect("a ref");
        for reference in ["fedora/x86_64/coreos", &digest] {
            assert_eq!(commit(path, reference).expect(reference), digest);
        }
        fs::write(path.join("outside"), &digest).expect("a file");
        for reference in ["fedora/none", "../../outside", "", "/outside", "fedora"] {
            let error = commit(path, reference).expect_err(reference).to_string();
            assert!(error.starts_with("`ostree` failed with "), "{error}");
        }
    }

    #[test]
    fn the_only_deployment_is_found() {
        let tree = tempfile::tempdir().expect("a directory");
        let error = only_deployment(tree.path()).expect_err("none");
        assert!(error.to_string().starts_with("there is no deployment"), "{error}");
        let make = |path: &str| fs::create_dir_all(tree.path().join(path)).expect("a directory");
        make("ostree/deploy/fedora/deploy/abc.0");
        make("ostree/deploy/fedora/deploy/abc.1");
        make("ostree/deploy/fedora/var");
        let expected = ("fedora".to_owned(), "abc".to_owned(), "0".to_owned());
        assert_eq!(only_deployment(tree.path()).expect("one"), expected);
        make("ostree/deploy/other/deploy/def.0");
        let error = only_deployment(tree.path()).expect_err("two");
        assert!(error.to_string().starts_with("there are 2 deployments"), "{error}");
    }
}
