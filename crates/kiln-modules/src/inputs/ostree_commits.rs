//! What the inputs that take commits have in common: where a reference leads to.

use std::fs;

use kiln_api::ModuleError;
use kiln_api::input::{InputRequest, Store};
use kiln_sys::command::Run;
use serde_json::Value;

use crate::ostree::{Digest, Repository};

/// Where commits may come from.
pub(super) const ORIGINS: &[&str] = &["org.osbuild.source", "org.osbuild.pipeline"];

/// A commit that a reference leads to.
pub(super) struct Commit<'a> {
    pub(super) commit: Digest,
    pub(super) repository: Repository,
    /// The reference's options.
    pub(super) options: &'a Value,
}

/// Finds the commits of all references.
pub(super) fn commits<'a>(
    request: &InputRequest<'a>,
    store: &dyn Store,
) -> Result<Vec<Commit<'a>>, ModuleError> {
    let find = |(reference, options): (&String, &'a Value)| {
        let (name, root) = match request.origin {
            "org.osbuild.pipeline" => {
                let tree = store.read_tree(reference)?.ok_or_else(|| {
                    ModuleError::invalid(format!("there is no tree of the pipeline `{reference}`"))
                })?;
                let path = tree.join("compose.json");
                let text = fs::read(&path).map_err(ModuleError::io("read", &path))?;
                let compose: Value = serde_json::from_slice(&text).unwrap_or_default();
                let commit = compose.get("ostree-commit").and_then(Value::as_str).ok_or_else(|| {
                    ModuleError::invalid(format!("`{}` names no `ostree-commit`", path.display()))
                })?;
                (commit.to_owned(), tree)
            }
            _ => (reference.clone(), store.source("org.osbuild.ostree")),
        };
        let commit = Digest::parse(&name).ok_or_else(|| {
            let reason = format!("`{name}` is no commit: expected 64 hexadecimal digits");
            ModuleError::option(format!("references.{reference}"), reason)
        })?;
        let repository = Repository::at(root.join("repo"));
        if !repository.has(&commit) {
            let place = repository.path().display();
            return Err(ModuleError::invalid(format!("the commit `{name}` is not in `{place}`")));
        }
        Ok(Commit { commit, repository, options })
    };
    request.references.iter().map(find).collect()
}

/// Runs `ostree`, which pipelines whose repositories have other modes need.
pub(super) fn tool(run: Run) -> Result<(), ModuleError> {
    run.output().map(drop).map_err(|mut error| {
        if error.status.contains("not found") {
            error.status.push_str(" (it comes with the package `ostree`)");
        }
        error.into()
    })
}

#[cfg(test)]
pub(super) mod fixture {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use kiln_api::input::{Input, InputReply};
    use kiln_testkit::host::{Need, provided};
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    /// A commit in a repository, which is that of the cache and of the tree of the pipeline `id`.
    pub(in crate::inputs) struct Commits {
        directory: TempDir,
        pub(in crate::inputs) commit: Digest,
    }

    impl Commits {
        pub(in crate::inputs) fn new(test: &str, mode: &str) -> Option<Self> {
            let needs = [("ostree", "ostree"), ("setfattr", "attr")];
            let needs = needs.map(|(program, package)| Need { program, package });
            if !provided(test, &needs) {
                return None;
            }
            let directory = tempfile::tempdir().expect("tempdir");
            let content = directory.path().join("content");
            fs::create_dir_all(content.join("etc/empty")).expect("made");
            fs::create_dir(directory.path().join("target")).expect("made");
            fs::write(content.join("etc/hosts"), "127.0.0.1 h\n").expect("written");
            fs::write(content.join("etc/same"), "127.0.0.1 h\n").expect("written");
            fs::write(content.join("nothing"), "").expect("written");
            fs::write(content.join("tool"), vec![7; 300_000]).expect("written");
            symlink("etc/hosts", content.join("link")).expect("linked");
            let mode_of = |path: &str, mode| {
                fs::set_permissions(content.join(path), fs::Permissions::from_mode(mode)).expect("set");
            };
            mode_of("tool", 0o4755);
            mode_of("etc/empty", 0o1777);
            mode_of("etc/same", 0o600);
            std::os::unix::fs::lchown(content.join("etc/hosts"), Some(7), Some(8)).expect("owned");
            std::os::unix::fs::lchown(content.join("link"), Some(9), Some(10)).expect("owned");
            for path in ["tool", "etc"] {
                let mut set = Command::new("setfattr");
                let status =
                    set.args(["-n", "user.kiln", "-v", "x"]).arg(content.join(path)).status().expect("run");
                assert!(status.success());
            }
            let mut commits = Self { directory, commit: Digest::parse(&"0".repeat(64)).expect("one") };
            commits.ostree(&commits.repository(), &["init", &format!("--mode={mode}")]);
            let content = content.to_str().expect("UTF-8");
            let commit = commits.ostree(&commits.repository(), &["commit", "--branch=b", content]);
            commits.commit = Digest::parse(commit.trim()).expect("a commit");
            let compose = json!({"ostree-commit": commits.commit.as_str()});
            fs::write(commits.directory.path().join("compose.json"), compose.to_string()).expect("written");
            Some(commits)
        }

        pub(in crate::inputs) fn target(&self) -> PathBuf {
            self.directory.path().join("target")
        }

        pub(in crate::inputs) fn repository(&self) -> PathBuf {
            self.directory.path().join("repo")
        }

        /// Runs the tool, which has to succeed.
        pub(in crate::inputs) fn ostree(&self, repository: &Path, arguments: &[&str]) -> String {
            let repository = format!("--repo={}", repository.display());
            let output = Command::new("ostree").args(arguments).arg(repository).output().expect("run");
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("UTF-8")
        }

        pub(in crate::inputs) fn map(
            &self,
            input: &dyn Input,
            origin: &str,
            references: &Value,
        ) -> Result<InputReply, ModuleError> {
            let references = references.as_object().expect("references");
            let request = InputRequest { origin, references, target: &self.target(), options: &json!({}) };
            input.map(&request, self)
        }
    }

    impl Store for Commits {
        fn read_tree(&self, id: &str) -> Result<Option<PathBuf>, ModuleError> {
            Ok((id == "id").then(|| self.directory.path().to_owned()))
        }

        fn read_tree_at(&self, _: &str, _: &Path, _: Option<&str>) -> Result<bool, ModuleError> {
            Err(ModuleError::invalid("commits are read where they are"))
        }

        fn bind(&self, _: &Path, _: &Path) -> Result<(), ModuleError> {
            Err(ModuleError::invalid("commits are not bound"))
        }

        fn mkdtemp(&self, _: &str) -> Result<PathBuf, ModuleError> {
            Err(ModuleError::invalid("no test needs a directory"))
        }

        fn source(&self, content_type: &str) -> PathBuf {
            assert_eq!(content_type, "org.osbuild.ostree");
            self.directory.path().to_owned()
        }
    }
}
