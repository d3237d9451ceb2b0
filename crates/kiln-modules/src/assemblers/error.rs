//! `org.osbuild.error`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::number::Number;

/// Fails.
///
/// Says with which status it was asked to fail and does so, without a result. Useful to test what happens around an
/// assembler that fails. As with any process, a status that is a multiple of 256 is success.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The status to fail with.
    #[serde(default = "default_status")]
    returncode: Number,
}

pub(crate) struct Fail;

impl Stage for Fail {
    const NAME: &'static str = "org.osbuild.error";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { options_optional: true, ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let status = options.returncode;
        context.say(format_args!("Error assembler will now return error: {status}"));
        match status.whole("returncode") {
            Ok(number) if number.rem_euclid(256) == 0 => Ok(()),
            _ => Err(ModuleError::invalid(format!("failed on request with exit status {status}"))),
        }
    }
}

fn default_status() -> Number {
    Number::from(255)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::assembler::<Fail>()
            .accepts([json!({}), json!({"returncode": 1}), json!({"returncode": -1.5})])
            .refuses([json!({"returncode": "1"}), json!({"code": 1})]);
    }

    #[test]
    fn fails_when_the_reference_does() {
        for (options, succeeds) in
            [(json!({}), false), (json!({"returncode": 256}), true), (json!({"returncode": 1}), false)]
        {
            let result = Fixture::new().run::<Fail>(options.clone());
            assert_eq!(result.is_ok(), succeeds, "{options}");
            let Some(there) = Fixture::new().run_reference_assembler(Fail::NAME, options.clone()) else {
                continue;
            };
            assert_eq!(there.0, succeeds, "{options}");
            if let Ok(said) = result {
                assert_eq!(there.1, said, "{options}");
            }
        }
    }
}
