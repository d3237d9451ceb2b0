//! `org.osbuild.noop`: hands the references on and nothing else.

use kiln_api::ModuleError;
use kiln_api::input::{Input, InputReply, InputRequest, Store};
use kiln_api::module::ModuleSchema;
use schemars::JsonSchema;
use serde_json::{Map, json};

/// Tells a stage the references, as they are.
///
/// There is no content. Any origin, references and options will do.
#[derive(JsonSchema)]
struct Options {}

pub(crate) struct Noop;

impl Input for Noop {
    fn name(&self) -> &'static str {
        "org.osbuild.noop"
    }

    fn schema(&self) -> ModuleSchema {
        let mut schema = ModuleSchema { options_optional: true, ..ModuleSchema::of::<Options>() };
        schema.options = json!({"description": schema.documentation()});
        schema
    }

    fn map(&self, request: &InputRequest<'_>, _store: &dyn Store) -> Result<InputReply, ModuleError> {
        let data = json!({"refs": request.references});
        let members = Map::from_iter([("data".to_owned(), data)]);
        Ok(InputReply { path: request.target.to_owned(), members })
    }
}

#[cfg(test)]
mod tests {
    use kiln_api::module::Kind;

    use super::*;
    use crate::inputs::fixture::{Fixture, map};
    use crate::schema_agreement::Agreement;

    #[test]
    fn schema() {
        let around = json!({"type": Noop.name(), "origin": "org.osbuild.source"});
        Agreement::of(Kind::Input, Noop.name(), Noop.schema()).around(around.clone()).accepts([
            json!({}),
            json!({"any": [1]}),
            json!("x"),
        ]);
        Agreement::of(Kind::Input, Noop.name(), Noop.schema()).member("references").around(around).accepts([
            json!({}),
            json!([]),
            json!({"a": {"b": 1}}),
            json!(["a"]),
        ]);
    }

    #[test]
    fn references_are_handed_on() {
        let fixture = Fixture::new();
        let references = json!({"b": {"x": 1}, "a": {}});
        let reply = map(&Noop, "org.osbuild.source", &references, &fixture).expect("mapped");
        assert_eq!(reply.path, fixture.target());
        assert_eq!(serde_json::Value::Object(reply.members), json!({"data": {"refs": references}}));
    }
}
