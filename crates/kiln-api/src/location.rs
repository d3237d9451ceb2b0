//! Addresses that stages use for files: `tree:///etc/hosts`, `mount://root/boot`, `input://packages/NAME`,
//! and plain paths, which mean the tree.
//!
//! A location never leaves its root by `..`: the path is normalised from `/` before it is joined. Symbolic
//! links inside the root are a matter of whoever opens the path.

use std::path::{Component, Path, PathBuf};

use crate::ModuleError;
use crate::stage::StageArguments;

/// A location split into the root it names and the path below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The tree, a mount point, or an input's directory.
    pub root: PathBuf,
    /// Normalised path below the root, without a leading `/`; empty for the root itself.
    pub path: PathBuf,
    /// The location ended with `/`: the directory's content is meant, not the directory.
    pub content: bool,
}

impl Location {
    /// Resolves a location against a stage's arguments.
    pub fn parse(location: &str, arguments: &StageArguments) -> Result<Self, ModuleError> {
        let refuse = |reason: String| ModuleError::option(location, reason);
        let (scheme, rest) = location.split_once("://").unwrap_or(("tree", location));
        let (name, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None if scheme == "tree" && !location.contains("://") => ("", rest),
            None => (rest, ""),
        };
        if !path.starts_with('/') {
            return Err(refuse("the path of a location must start with `/`".to_owned()));
        }
        let root = match scheme {
            "tree" => arguments.tree.clone(),
            "mount" if name.is_empty() => arguments.paths.mounts.clone(),
            "mount" => arguments
                .mounts
                .get(name)
                .and_then(|mount| mount.path.clone())
                .ok_or_else(|| refuse(unknown("mount", name, arguments.mounts.keys())))?,
            "input" => arguments
                .inputs
                .get(name)
                .map(|input| input.path.clone())
                .ok_or_else(|| refuse(unknown("input", name, arguments.inputs.keys())))?,
            other => return Err(refuse(format!("unknown scheme `{other}`: use `tree`, `mount` or `input`"))),
        };
        Ok(Self { root, path: normalise(Path::new(path)), content: path.ends_with('/') })
    }

    /// The absolute path; ends in `/.` if the directory's content is meant, as `cp` understands it.
    pub fn to_path(&self) -> PathBuf {
        let path = self.root.join(&self.path);
        if self.content { path.join(".") } else { path }
    }
}

/// Removes `.`, `..` and the leading `/`, treating `..` at the root as the root.
pub fn normalise(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    result
}

fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<_> = known.map(|name| format!("`{name}`")).collect();
    match known.as_slice() {
        [] => format!("unknown {kind} `{name}`: the stage has no {kind}s"),
        names => format!("unknown {kind} `{name}`: the stage has {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arguments() -> StageArguments {
        serde_json::from_value(json!({
            "tree": "/run/osbuild/tree",
            "paths": {"devices": "/dev", "inputs": "/run/osbuild/inputs", "mounts": "/run/osbuild/mounts"},
            "mounts": {"root": {"path": "/run/osbuild/mounts/r"}},
            "inputs": {"packages": {"path": "/run/osbuild/inputs/packages", "data": {}}},
            "meta": {"id": "0"},
        }))
        .expect("valid arguments")
    }

    #[test]
    fn locations_resolve_below_their_root() {
        let cases = [
            ("/etc/hosts", "/run/osbuild/tree/etc/hosts"),
            ("tree:///etc/hosts", "/run/osbuild/tree/etc/hosts"),
            ("tree:///", "/run/osbuild/tree/."),
            ("tree:///a/../../../b", "/run/osbuild/tree/b"),
            ("mount://root/boot/", "/run/osbuild/mounts/r/boot/."),
            ("mount:///x", "/run/osbuild/mounts/x"),
            ("input://packages/a.deb", "/run/osbuild/inputs/packages/a.deb"),
        ];
        for (location, expected) in cases {
            let path = Location::parse(location, &arguments()).expect(location).to_path();
            assert_eq!(path.as_os_str(), expected, "{location}");
        }
    }

    #[test]
    fn bad_locations_say_what_is_wrong() {
        let cases = [
            ("mount://boot/x", "unknown mount `boot`: the stage has `root`"),
            ("input://files/x", "unknown input `files`: the stage has `packages`"),
            ("http://example/x", "unknown scheme `http`"),
            ("tree://", "must start with `/`"),
            ("relative", "must start with `/`"),
        ];
        for (location, expected) in cases {
            let message = Location::parse(location, &arguments()).expect_err(location).to_string();
            assert!(message.contains(expected), "{location}: {message}");
        }
    }
}
