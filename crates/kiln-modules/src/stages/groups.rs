//! `org.osbuild.groups`

use indexmap::IndexMap;
use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::number::Number;

/// Adds groups.
///
/// The build root's `groupadd` adds them to the tree, in the given order; it chooses the numbers of those that
/// come without one. A group or a number that is in use already is an error, unless `force` is set.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The groups, by name.
    groups: Option<IndexMap<GroupName, Group>>,
    /// Whether groups may exist already. A number that is in use is replaced by a free one then.
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(transparent)]
#[schemars(extend("pattern" = "^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}$"))]
struct GroupName(String);

/// One group.
#[derive(Deserialize, JsonSchema)]
struct Group {
    /// The group's number; 0 leaves the choice to `groupadd`.
    gid: Option<Number>,
}

pub(crate) struct Groups;

impl Stage for Groups {
    const NAME: &'static str = "org.osbuild.groups";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let groups = options.groups.ok_or_else(|| ModuleError::option("groups", "it is missing"))?;
        for (name, group) in &groups {
            let mut run = Run::new("groupadd").arg("--root").arg(context.tree());
            let number = group.gid.as_ref().map_or(Ok(0), |number| number.whole("gid"))?;
            if number != 0 {
                run = run.arg("--gid").arg(number.to_string());
            }
            if options.force {
                run = run.arg("--force");
            }
            run.arg(&name.0).run()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Groups>()
            .accepts([
                json!({}),
                json!({"groups": {}, "force": true}),
                json!({"groups": {"a": {}, ".b-c": {"gid": 1000, "ignored": 1}, "d": {"gid": -1.5}}}),
            ])
            .refuses([
                json!({"groups": []}),
                json!({"groups": {"-a": {}}}),
                json!({"groups": {"": {}}}),
                json!({"groups": {"a": {"gid": "1000"}}}),
                json!({"groups": {"a": null}}),
                json!({"force": 1}),
            ]);
        Agreement::stage::<Groups>().member("inputs").refuses([json!({})]);
    }

    fn prepare(fixture: &mut Fixture) {
        fixture.file("etc/group", "root:x:0:\nwheel:x:10:\n").file("etc/gshadow", "root:*::\nwheel:*::\n");
        fixture.file("etc/passwd", "root:x:0:0::/:/bin/sh\n");
    }

    fn cases() -> Vec<(Value, bool)> {
        vec![
            (json!({}), false),
            (json!({"groups": {"builders": {"gid": 4000}, "admins": {}, "zero": {"gid": 0}}}), true),
            (json!({"groups": {"wheel": {}}}), false),
            (json!({"groups": {"wheel": {}}, "force": true}), true),
            (json!({"groups": {"other": {"gid": 10}}}), false),
            (json!({"groups": {"a": {"gid": 1.5}}}), false),
        ]
    }

    #[test]
    fn root_groups_are_added() {
        for (options, succeeds) in cases() {
            let mut fixture = Fixture::new();
            prepare(&mut fixture);
            let result = fixture.run::<Groups>(options.clone());
            assert_eq!(result.is_ok(), succeeds, "{options}: {result:?}");
        }
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        fixture.run::<Groups>(json!({"groups": {"b": {"gid": 4000}, "a": {}}})).expect("added");
        let text = std::fs::read_to_string(fixture.tree().join("etc/group")).expect("it is there");
        assert_eq!(text, "root:x:0:\nwheel:x:10:\nb:x:4000:\na:x:4001:\n");
    }

    #[test]
    fn root_trees_equal_the_reference() {
        for (options, _) in cases() {
            side_by_side::<Groups>(prepare, &options);
        }
    }
}
