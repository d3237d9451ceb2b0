//! `org.osbuild.ostree.checkout`: the files of commits, each in a directory that is named by its commit.
//!
//! Commits are found as by `org.osbuild.ostree`. The reply's `data` is `{"refs": {COMMIT: {"path": COMMIT}}}`.

use kiln_api::ModuleError;
use kiln_api::input::{Input, InputReply, InputRequest, Store};
use kiln_api::module::ModuleSchema;
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::ostree_commits::{ORIGINS, commits, tool};

/// Hands the files of commits to a stage.
///
/// From sources (`org.osbuild.source`), references are commits. From pipelines (`org.osbuild.pipeline`), the commit is
/// the one that `compose.json` in the pipeline's tree names, and its repository is `repo` beside it. The files are
/// in directories that have the commits' names.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {}

pub(crate) struct OstreeCheckout;

impl Input for OstreeCheckout {
    fn name(&self) -> &'static str {
        "org.osbuild.ostree.checkout"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            references: Some(references()),
            origins: ORIGINS,
            ..ModuleSchema::of::<Options>()
        }
    }

    fn map(&self, request: &InputRequest<'_>, store: &dyn Store) -> Result<InputReply, ModuleError> {
        let mut refs = Map::new();
        for found in commits(request, store)? {
            let commit = found.commit.as_str();
            let target = request.target.join(commit);
            if found.repository.is_archive()? {
                found.repository.check_out(&found.commit, &target)?;
            } else {
                // Files may be links to those of the repository: stages see inputs read-only.
                let run = Run::new("ostree").args(["checkout", commit]).arg(&target);
                tool(run.arg("--repo").arg(found.repository.path()))?;
            }
            refs.insert(commit.to_owned(), json!({"path": commit}));
        }
        let members = Map::from_iter([("data".to_owned(), json!({"refs": refs}))]);
        Ok(InputReply { path: request.target.to_owned(), members })
    }
}

fn references() -> Value {
    let none = json!({"type": "object", "additionalProperties": false});
    json!({
        "description": "Commits, or the pipelines that made them",
        "oneOf": [
            {"type": "array", "items": {"type": "string"}},
            {"type": "object", "minProperties": 1, "additionalProperties": none},
            {
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["id"],
                    "properties": {"id": {"type": "string"}, "options": none}
                }
            }
        ]
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use kiln_api::module::Kind;

    use super::super::ostree_commits::fixture::Commits;
    use super::*;
    use crate::schema_agreement::Agreement;

    #[test]
    fn schema() {
        for origin in ORIGINS {
            Agreement::of(Kind::Input, OstreeCheckout.name(), OstreeCheckout.schema())
                .member("references")
                .around(json!({"type": OstreeCheckout.name(), "origin": origin}))
                .accepts([
                    json!([]),
                    json!(["a", "b"]),
                    json!({"a": {}}),
                    json!([{"id": "a", "options": {}}]),
                ])
                .refuses([
                    json!({}),
                    json!([{"id": "a"}, {"id": "b"}]),
                    json!([{}]),
                    json!({"a": {"ref": "x"}}),
                ]);
        }
    }

    /// What is in a directory, with owners, modes, links and attributes; times of directories only, as the tool gives
    /// files the time of the checkout.
    fn listing(directory: &Path) -> String {
        let script = r"cd $0; find . -printf '%y %U:%G %m %p %l ' \( -type d -printf '%T@\n' -o -type f -printf '%s\n' \
            -o -printf '\n' \) | sort; find . -type f | sort | xargs sha256sum; getfattr -hRm - -d . 2>/dev/null";
        let output = Command::new("sh").args(["-c", script]).arg(directory).output().expect("sh");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    #[test]
    fn root_a_checkout_is_what_the_tool_makes() {
        for (origin, mode) in [("org.osbuild.source", "archive"), ("org.osbuild.pipeline", "bare-user")] {
            let Some(commits) = Commits::new("root_a_checkout_is_what_the_tool_makes", mode) else { return };
            let commit = commits.commit.as_str();
            let key = if mode == "archive" { commit } else { "id" };
            let reply = commits.map(&OstreeCheckout, origin, &json!({key: {}})).expect("mapped");
            assert_eq!(reply.path, commits.target());
            assert_eq!(reply.members["data"], json!({"refs": {commit: {"path": commit}}}));
            let theirs = commits.target().join("theirs");
            commits.ostree(&commits.repository(), &["checkout", commit, theirs.to_str().expect("UTF-8")]);
            let listed = listing(&commits.target().join(commit));
            assert!(listed.contains("user.kiln") && listed.contains("4755"), "{listed}");
            assert_eq!(listed, listing(&theirs), "{mode}");
        }
    }
}
