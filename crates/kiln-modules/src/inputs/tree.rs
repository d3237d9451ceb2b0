//! `org.osbuild.tree`: the finished tree of another pipeline, read-only.

use kiln_api::ModuleError;
use kiln_api::input::{Input, InputReply, InputRequest, Store};
use kiln_api::module::ModuleSchema;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Hands the tree of another pipeline to a stage.
///
/// Takes exactly one reference to a pipeline. The stage sees its finished tree, read-only.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {}

pub(crate) struct Tree;

impl Input for Tree {
    fn name(&self) -> &'static str {
        "org.osbuild.tree"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            references: Some(references()),
            origins: &["org.osbuild.pipeline"],
            ..ModuleSchema::of::<Options>()
        }
    }

    fn map(&self, request: &InputRequest<'_>, store: &dyn Store) -> Result<InputReply, ModuleError> {
        let mut ids = request.references.keys();
        let (Some(id), None) = (ids.next(), ids.next()) else {
            return Err(ModuleError::option("references", "expected exactly one pipeline"));
        };
        if id.is_empty() || !store.read_tree_at(id, request.target, None)? {
            return Err(ModuleError::invalid(format!("there is no tree of the pipeline `{id}`")));
        }
        Ok(InputReply { path: request.target.to_owned(), members: Map::new() })
    }
}

fn references() -> Value {
    let none = json!({"type": "object", "additionalProperties": false});
    json!({
        "description": "The pipeline",
        "anyOf": [
            {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "string"}},
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
            },
            {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": none}
        ]
    })
}

#[cfg(test)]
mod tests {
    use kiln_api::module::Kind;

    use super::*;
    use crate::inputs::fixture::{Fixture, map};
    use crate::schema_agreement::Agreement;

    const PIPELINE: &str = "org.osbuild.pipeline";

    #[test]
    fn schema() {
        Agreement::of(Kind::Input, Tree.name(), Tree.schema())
            .member("references")
            .around(json!({"type": Tree.name(), "origin": PIPELINE}))
            .accepts([
                json!(["name:tree"]),
                json!([{"id": "name:tree"}]),
                json!([{"id": "name:tree", "options": {}}]),
                json!({"name:tree": {}}),
            ])
            .refuses([
                json!([]),
                json!({}),
                json!(["a", "b"]),
                json!({"a": {}, "b": {}}),
                json!({"a": {"b": 1}}),
            ]);
    }

    #[test]
    fn the_tree_is_mounted_at_the_target() {
        let fixture = Fixture::new();
        fixture.tree("1234", "etc/hosts");
        let reply = map(&Tree, PIPELINE, &json!({"1234": {}}), &fixture).expect("mapped");
        assert_eq!(reply, InputReply { path: fixture.target(), members: Map::new() });
        assert_eq!(fixture.mounts(), [("1234".to_owned(), fixture.target(), None)]);
    }

    #[test]
    fn only_one_known_tree_will_do() {
        let fixture = Fixture::new();
        for references in [json!({}), json!({"": {}}), json!({"5678": {}}), json!({"a": {}, "b": {}})] {
            map(&Tree, PIPELINE, &references, &fixture).expect_err("no such tree");
        }
    }
}
