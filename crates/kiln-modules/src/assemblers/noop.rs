//! `org.osbuild.noop`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

/// Makes nothing.
///
/// Takes no options, says so, and leaves the result empty. Useful for tests.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {}

pub(crate) struct Noop;

impl Stage for Noop {
    const NAME: &'static str = "org.osbuild.noop";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { options_optional: true, ..ModuleSchema::of::<Options>() }
    }

    fn run(_options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        context.say("Not doing anything with these options: {}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::assembler::<Noop>().accepts([json!({})]).refuses([json!({"a": 1})]);
    }

    #[test]
    fn says_what_the_reference_says() {
        let mut fixture = Fixture::new();
        fixture.input("tree", &[("a", "content")]);
        let said = fixture.run::<Noop>(json!({})).expect("it cannot fail");
        assert_eq!(said, "Not doing anything with these options: {}\n");
        assert_eq!(fixture.listing().len(), 2, "{:?}", fixture.listing());
        if let Some(there) = fixture.run_reference_assembler(Noop::NAME, json!({})) {
            assert_eq!(there, (true, said));
        }
    }
}
