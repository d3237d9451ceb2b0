//! `org.osbuild.ostree`: a repository that has the commits that are referred to.
//!
//! Sources give commits; pipelines give the one that their `compose.json` names, of the repository `repo` in their
//! tree. Objects are linked, so mapping costs no space and little time; where the cache is on another file system, or
//! has as many links as it can, they are cloned or copied. The reply's `data` is `{"refs": {COMMIT: OPTIONS}}`.

use kiln_api::ModuleError;
use kiln_api::input::{Input, InputReply, InputRequest, Store};
use kiln_api::module::ModuleSchema;
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::ostree_commits::{ORIGINS, commits, tool};
use crate::ostree::Repository;

/// Hands commits to a stage, in a repository.
///
/// From sources (`org.osbuild.source`), references are commits. From pipelines (`org.osbuild.pipeline`), the commit is
/// the one that `compose.json` in the pipeline's tree names, and its repository is `repo` beside it. With `ref`, the
/// repository has that name for the commit.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {}

pub(crate) struct Ostree;

impl Input for Ostree {
    fn name(&self) -> &'static str {
        "org.osbuild.ostree"
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
        let repository = Repository::create_plain(request.target.join("repo"))?;
        let mut refs = Map::new();
        for found in commits(request, store)? {
            if found.repository.is_archive()? {
                repository.link(&found.commit, &found.repository)?;
            } else {
                // Files are there as they are: to pack them is the tool's business.
                let run = Run::new("ostree").arg("pull-local").arg(found.repository.path());
                tool(run.arg(found.commit.as_str()).arg("--repo").arg(repository.path()))?;
            }
            let name = found.options.get("ref").and_then(Value::as_str).unwrap_or_default();
            if !name.is_empty() {
                repository.name(name, &found.commit)?;
            }
            refs.insert(found.commit.as_str().to_owned(), found.options.clone());
        }
        let members = Map::from_iter([("data".to_owned(), json!({"refs": refs}))]);
        Ok(InputReply { path: repository.path().to_owned(), members })
    }
}

fn references() -> Value {
    let options = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {"ref": {"description": "The commit's name in the repository", "type": "string"}}
    });
    json!({
        "description": "Commits, or the pipelines that made them",
        "oneOf": [
            {"type": "array", "minItems": 1, "items": {"type": "string"}},
            {"type": "object", "minProperties": 1, "additionalProperties": options},
            {
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["id"],
                    "properties": {"id": {"type": "string"}, "options": options}
                }
            }
        ]
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use kiln_api::module::Kind;

    use super::super::ostree_commits::fixture::Commits;
    use super::*;
    use crate::schema_agreement::Agreement;

    const SOURCE: &str = "org.osbuild.source";
    const PIPELINE: &str = "org.osbuild.pipeline";

    #[test]
    fn schema() {
        for origin in ORIGINS {
            Agreement::of(Kind::Input, Ostree.name(), Ostree.schema())
                .member("references")
                .around(json!({"type": Ostree.name(), "origin": origin}))
                .accepts([
                    json!(["a"]),
                    json!(["a", "b"]),
                    json!({"a": {}, "b": {"ref": "x"}}),
                    json!([{"id": "a"}]),
                    json!([{"id": "a", "options": {"ref": "x"}}]),
                ])
                .refuses([
                    json!([]),
                    json!({}),
                    json!([{"id": "a"}, {"id": "b"}]),
                    json!([{}]),
                    json!({"a": {"other": 1}}),
                    json!({"a": {"ref": 1}}),
                ]);
        }
    }

    #[test]
    fn commits_are_linked_and_named() {
        let Some(commits) = Commits::new("commits_are_linked_and_named", "archive") else { return };
        let commit = commits.commit.as_str();
        let references = json!({commit: {"ref": "os/stable"}});
        let reply = commits.map(&Ostree, SOURCE, &references).expect("mapped");
        assert_eq!(reply.path, commits.target().join("repo"));
        assert_eq!(reply.members["data"], json!({"refs": references}));
        assert_eq!(commits.ostree(&reply.path, &["rev-parse", "os/stable"]).trim(), commit);
        commits.ostree(&reply.path, &["fsck"]);
        let name = format!("objects/{}/{}.commit", &commit[..2], &commit[2..]);
        assert_eq!(fs::metadata(reply.path.join(name)).expect("there").nlink(), 2, "it was copied");
    }

    #[test]
    fn commits_of_pipelines_are_found_in_their_tree_whatever_their_repository_is() {
        for mode in ["archive", "bare-user"] {
            let name = "commits_of_pipelines_are_found_in_their_tree_whatever_their_repository_is";
            let Some(commits) = Commits::new(name, mode) else { return };
            let reply = commits.map(&Ostree, PIPELINE, &json!({"id": {"ref": "r:x"}})).expect("mapped");
            assert_eq!(reply.members["data"], json!({"refs": {commits.commit.as_str(): {"ref": "r:x"}}}));
            let listed = commits.ostree(&reply.path, &["ls", "-R", "r:x"]);
            assert!(listed.contains("/etc/hosts"), "{listed}");
            commits.ostree(&reply.path, &["fsck"]);
        }
    }

    #[test]
    fn what_is_not_there_is_said() {
        let Some(commits) = Commits::new("what_is_not_there_is_said", "archive") else { return };
        let none = "0".repeat(64);
        let commit = commits.commit.as_str();
        let cases = [
            (SOURCE, json!({none.as_str(): {}}), "is not in"),
            (SOURCE, json!({"abcdef": {}}), "expected 64 hexadecimal digits"),
            (SOURCE, json!({commit: {"ref": "../x"}}), "is no name that OSTree allows"),
            (PIPELINE, json!({"none": {}}), "there is no tree of the pipeline `none`"),
        ];
        for (origin, references, expected) in cases {
            let error = commits.map(&Ostree, origin, &references).expect_err(expected).to_string();
            assert!(error.contains(expected), "{references}: {error}");
            fs::remove_dir_all(commits.target().join("repo")).expect("removed");
        }
    }
}
