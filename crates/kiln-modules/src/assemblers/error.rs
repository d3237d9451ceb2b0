//! `org.osbuild.error`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};

use crate::stages::error::{self, Options};

pub(crate) struct Fail;

impl Stage for Fail {
    const NAME: &'static str = error::Fail::NAME;
    type Options = Options;

    fn schema() -> ModuleSchema {
        error::Fail::schema()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        error::fail(&options, "assembler", context)
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
