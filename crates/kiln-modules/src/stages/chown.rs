//! `org.osbuild.chown`

use indexmap::IndexMap;
use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::number::Number;
use crate::support::tree_path::TreePath;

/// Changes the owners of files and directories of the tree.
///
/// Users and groups are names that the tree knows, or numbers; at least one of them must be given. Items are
/// changed in the given order, by the tree's own `chown` in a change root, so that names mean what they mean in
/// the tree. The build root must have `chroot`, the tree `chown`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// What to change, by its path in the tree.
    items: Option<IndexMap<TreePath, Change>>,
}

/// Who becomes the owner of one path.
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("anyOf" = [{"required": ["user"]}, {"required": ["group"]}]))]
struct Change {
    /// The user, by name or number.
    user: Option<User>,
    /// The group, by name or number.
    group: Option<Group>,
    /// Whether to change everything below the path as well.
    #[serde(default)]
    recursive: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum User {
    Name(#[schemars(extend("pattern" = "^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}$"))] String),
    Number(#[schemars(range(min = 0))] Number),
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Group {
    Name(#[schemars(extend("pattern" = "^[A-Za-z0-9_][A-Za-z0-9_-]{0,31}$"))] String),
    Number(#[schemars(range(min = 0))] Number),
}

pub(crate) struct Chown;

impl Stage for Chown {
    const NAME: &'static str = "org.osbuild.chown";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let items = options.items.ok_or_else(|| ModuleError::option("items", "it is missing"))?;
        for (path, change) in &items {
            let run = Run::new("/usr/sbin/chroot").arg(context.tree()).arg("chown").arg(owner(change)?);
            let run = if change.recursive { run.arg("--recursive") } else { run };
            run.arg("--").arg(path.as_str()).run()?;
        }
        Ok(())
    }
}

/// `USER`, `USER:GROUP` or `:GROUP`. A colon without a group would mean the user's own group.
fn owner(change: &Change) -> Result<String, ModuleError> {
    let user = match &change.user {
        None => String::new(),
        Some(User::Name(name)) => name.clone(),
        Some(User::Number(number)) => number.whole("user")?.to_string(),
    };
    Ok(match &change.group {
        None => user,
        Some(Group::Name(name)) => format!("{user}:{name}"),
        Some(Group::Number(number)) => format!("{user}:{}", number.whole("group")?),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn one(path: &str, change: &Value) -> Value {
        json!({"items": {path: change}})
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Chown>()
            .accepts([
                json!({}),
                one("/a", &json!({"user": "root"})),
                one("/a/b", &json!({"user": 0, "group": 1000.0, "recursive": true})),
                one("/a", &json!({"group": "_a-b", "ignored": 1})),
                one("/a", &json!({"user": ".a"})),
            ])
            .refuses([
                one("/a", &json!({})),
                one("/a", &json!({"recursive": true})),
                one("/a", &json!({"user": -1})),
                one("/a", &json!({"user": ""})),
                one("/a", &json!({"user": "-a"})),
                one("/a", &json!({"group": "a.b"})),
                one("/a", &json!({"group": null})),
                one("a", &json!({"user": "root"})),
                one("/../a", &json!({"user": "root"})),
            ]);
        Agreement::stage::<Chown>().member("inputs").refuses([json!({})]);
    }

    #[test]
    fn owners_are_put_together_as_chown_reads_them() {
        for (change, expected) in [
            (json!({"user": "a"}), "a"),
            (json!({"group": "b"}), ":b"),
            (json!({"user": 0, "group": 5.0}), "0:5"),
        ] {
            let change = serde_json::from_value(change).expect("valid");
            assert_eq!(owner(&change).expect("whole numbers"), expected);
        }
    }

    fn prepare(fixture: &mut Fixture) {
        fixture.programs(&["chown"]);
        fixture.file("etc/passwd", "root:x:0:0::/:/bin/sh\nkiln:x:1234:1235::/:/bin/sh\n");
        fixture.file("etc/group", "root:x:0:\nkilns:x:4321:\n");
        fixture.file("srv/sub/file", "").file("srv/other", "");
        symlink("/srv", fixture.tree().join("link")).expect("a link");
    }

    #[test]
    fn root_names_are_those_of_the_tree() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        let options = one("/srv", &json!({"user": "kiln", "group": "kilns", "recursive": true}));
        fixture.run::<Chown>(options).expect("changed");
        fixture.run::<Chown>(one("/link", &json!({"user": 7}))).expect("changed");
        let owner = |path: &str| {
            let status = fixture.tree().join(path).metadata().expect(path);
            (status.uid(), status.gid())
        };
        assert_eq!(owner("srv/sub/file"), (1234, 4321));
        assert_eq!(owner("srv"), (7, 4321));
        let error = fixture.run::<Chown>(one("/srv", &json!({"user": "nobody"}))).expect_err("unknown");
        assert!(error.to_string().contains("invalid user"), "{error}");
    }

    #[test]
    fn root_trees_equal_the_reference() {
        for options in [
            one("/srv", &json!({"user": "kiln"})),
            one("/srv", &json!({"group": "kilns", "recursive": true})),
            one("/srv/other", &json!({"user": 12, "group": 13})),
            one("/missing", &json!({"user": 12})),
            one("/srv", &json!({"user": "stranger"})),
        ] {
            side_by_side::<Chown>(prepare, &options);
        }
    }
}
