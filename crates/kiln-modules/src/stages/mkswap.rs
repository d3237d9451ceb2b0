//! `org.osbuild.mkswap`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage_devices::{self, flag};

/// Makes a swap area on the device `device`.
///
/// Runs `mkswap` of the build root.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// UUID of the swap area.
    uuid: String,
    /// Label of the swap area.
    #[schemars(length(max = 12))]
    label: Option<String>,
}

pub(crate) struct Mkswap;

impl Stage for Mkswap {
    const NAME: &'static str = "org.osbuild.mkswap";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?;
        Ok(Run::new("mkswap")
            .args(["--uuid", &options.uuid])
            .args(flag("--label", options.label.as_deref()))
            .arg(device)
            .run()?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::{self, UUID, attribute};

    #[test]
    fn schema() {
        Agreement::stage::<Mkswap>()
            .accepts([json!({"uuid": UUID}), json!({"uuid": UUID, "label": "swap"})])
            .refuses([json!({}), json!({"uuid": UUID, "label": "thirteen char"}), json!({"uuid": 1})]);
    }

    #[test]
    fn the_swap_area_is_as_asked() {
        let image = stage_test::run_on_file::<Mkswap>(1 << 20, &json!({"uuid": UUID, "label": "swap"}))
            .expect("mkswap");
        assert_eq!(attribute(image.path(), "TYPE"), "swap");
        assert_eq!(attribute(image.path(), "UUID"), UUID);
        assert_eq!(attribute(image.path(), "LABEL"), "swap");
    }
}
