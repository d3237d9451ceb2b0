//! `org.osbuild.chmod`

use indexmap::IndexMap;
use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;
use crate::support::tree_path::TreePath;

/// Changes the modes of files and directories of the tree.
///
/// Modes are what `chmod` understands, octal (`0750`) or symbolic (`u+rwX,o-w`). Items are changed in the given
/// order, by the build root's `chmod`; each must exist.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// What to change, by its path in the tree.
    items: Option<IndexMap<TreePath, Change>>,
}

/// What becomes of one path.
#[derive(Deserialize, JsonSchema)]
struct Change {
    /// The mode, octal or symbolic.
    mode: String,
    /// Whether to change everything below the path as well.
    #[serde(default)]
    recursive: bool,
}

pub(crate) struct Chmod;

impl Stage for Chmod {
    const NAME: &'static str = "org.osbuild.chmod";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let items = options.items.ok_or_else(|| ModuleError::option("items", "it is missing"))?;
        let tree = Root::open(context.tree())?;
        for (path, change) in &items {
            let path = tree.resolve(path.as_str())?;
            let run = Run::new("chmod").arg(&change.mode);
            let run = if change.recursive { run.arg("--recursive") } else { run };
            run.arg("--").arg(path).run()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn one(path: &str, mode: &str, recursive: bool) -> Value {
        json!({"items": {path: {"mode": mode, "recursive": recursive}}})
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Chmod>()
            .accepts([
                json!({}),
                json!({"items": {}}),
                one("/a/b", "0755", true),
                json!({"items": {"/a": {"mode": "", "ignored": 1}, "/a/..": {"mode": "u+x"}}}),
            ])
            .refuses([
                json!({"items": []}),
                json!({"items": {"/a": {"mode": 493}}}),
                json!({"items": {"/a": {}}}),
                one("a", "0755", true),
                one("/", "0755", true),
                one("/../a", "0755", true),
                one("/a/../b", "0755", true),
            ]);
        Agreement::stage::<Chmod>().member("inputs").refuses([json!({})]);
    }

    fn prepare(fixture: &mut Fixture) {
        fixture.file("dir/sub/file", "").file("dir/tool", "");
        symlink("dir", fixture.tree().join("link")).expect("a link");
    }

    #[test]
    fn trees_equal_the_reference() {
        for options in [
            json!({}),
            one("/dir/tool", "0750", false),
            one("/dir/tool", "u=rws,g+x,o=", false),
            one("/dir", "g+w,o-rX", true),
            one("/dir", "-w", true),
            one("/link", "0700", false),
            one("/missing", "0700", false),
            one("/dir/tool", "nonsense", false),
            json!({"items": {"/dir": {"mode": "0700", "recursive": true}, "/dir/sub": {"mode": "1777"}}}),
        ] {
            side_by_side::<Chmod>(prepare, &options);
        }
    }

    #[test]
    fn items_are_changed_in_order() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        let options = r#"{"items": {"/dir/tool": {"mode": "0111"}, "/dir": {"mode": "0700", "recursive": true},
                          "/dir/sub/file": {"mode": "0444"}}}"#;
        fixture.run::<Chmod>(serde_json::from_str(options).expect("JSON")).expect("changed");
        let mode =
            |path: &str| fixture.tree().join(path).metadata().expect(path).permissions().mode() & 0o7777;
        assert_eq!((mode("dir/tool"), mode("dir/sub/file"), mode("dir")), (0o700, 0o444, 0o700));
    }

    #[test]
    fn a_link_does_not_lead_out_of_the_tree() {
        let fixture = Fixture::new();
        let outside = tempfile::NamedTempFile::new().expect("a file");
        symlink(outside.path(), fixture.tree().join("out")).expect("a link");
        let before = outside.path().metadata().expect("it exists").permissions();
        fixture.run::<Chmod>(one("/out", "0777", false)).expect_err("nothing of that name in the tree");
        assert_eq!(outside.path().metadata().expect("it exists").permissions(), before);
    }
}
