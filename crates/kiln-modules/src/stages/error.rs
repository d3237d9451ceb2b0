//! `org.osbuild.error`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::number::Number;

/// Fails.
///
/// Says with which status it was asked to fail and does so, without touching the tree. Useful to test what
/// happens around a stage or an assembler that fails. As with any process, a status that is a multiple of 256 is
/// success.
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
        fail(&options, "stage", context)
    }
}

/// Fails as it was asked to; the assembler of the same name does, too.
pub(crate) fn fail(options: &Options, noun: &str, context: &mut StageContext) -> Result<(), ModuleError> {
    let status = &options.returncode;
    context.say(format_args!("Error {noun} will now return error: {status}"));
    match status.whole("returncode") {
        Ok(number) if number.rem_euclid(256) == 0 => Ok(()),
        _ => Err(ModuleError::invalid(format!("failed on request with exit status {status}"))),
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
    use crate::stage_fixture::{Fixture, side_by_side};

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Fail>()
            .accepts([json!({}), json!({"returncode": 1}), json!({"returncode": -1.5})])
            .refuses([json!({"returncode": "1"}), json!({"code": 1})]);
        Agreement::stage::<Fail>().member("inputs").refuses([json!({}), json!({"tree": {}})]);
    }

    #[test]
    fn fails_with_the_status_asked_for() {
        let error = Fixture::new().run::<Fail>(json!({})).expect_err("it fails");
        assert_eq!(error.to_string(), "failed on request with exit status 255");
        let said = Fixture::new().run::<Fail>(json!({"returncode": 0})).expect("zero is success");
        assert_eq!(said, "Error stage will now return error: 0\n");
    }

    #[test]
    fn fails_when_the_reference_does() {
        for options in
            [json!({}), json!({"returncode": 0}), json!({"returncode": 256}), json!({"returncode": -1})]
        {
            side_by_side::<Fail>(|_| {}, &options);
        }
    }
}
