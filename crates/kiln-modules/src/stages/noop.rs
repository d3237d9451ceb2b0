//! `org.osbuild.noop`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Does nothing.
///
/// Accepts any options and inputs, prints them as JSON, and leaves the tree as it is. Useful for tests, and to
/// change the ids of the stages that follow.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Options {
    #[serde(flatten)]
    any: Map<String, Value>,
}

pub(crate) struct Noop;

impl Stage for Noop {
    const NAME: &'static str = "org.osbuild.noop";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            inputs: Some(json!({"type": "object"})),
            ..ModuleSchema::of::<Options>()
        }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        context.say(format_args!("Not doing anything with these options: {}", json!(options.any)));
        let inputs = context.arguments.inputs.clone();
        for (name, input) in &inputs {
            context.say(format_args!("Not doing anything with Input '{name}' {}", json!(input)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema_agreement::Agreement;

    #[test]
    fn accepts_everything() {
        Agreement::stage::<Noop>().accepts([json!({}), json!({"a": [{"b": null}], "c": 1.5})]);
        Agreement::stage::<Noop>().member("inputs").accepts([json!({}), json!({"tree": {"type": "x"}})]);
        Agreement::stage::<Noop>().member("devices").accepts([json!({"disk": {"type": "x"}})]);
        Agreement::stage::<Noop>().member("mounts").accepts([json!([])]);
    }
}
