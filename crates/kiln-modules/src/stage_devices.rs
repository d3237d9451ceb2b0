//! What stages that work on the device `device` have in common.

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::StageContext;
use schemars::JsonSchema;
use serde_json::json;

/// The schemas of a stage that needs a device named `device`.
pub(crate) fn schema<Options: JsonSchema>() -> ModuleSchema {
    let devices = json!({
        "type": "object",
        "required": ["device"],
        "properties": {"device": {"type": "object"}},
    });
    ModuleSchema { devices: Some(devices), ..ModuleSchema::of::<Options>() }
}

/// The node of the device named `device`.
pub(crate) fn device(context: &StageContext) -> Result<&Path, ModuleError> {
    let device = context.arguments.devices.get("device");
    device
        .map(|device| device.path.as_path())
        .ok_or_else(|| ModuleError::option("devices", "the stage needs a device named `device`"))
}

/// Arguments `FLAG VALUE` if there is a value and it is not empty.
pub(crate) fn flag(flag: &'static str, value: Option<&str>) -> impl Iterator<Item = String> {
    let value = value.filter(|value| !value.is_empty());
    value.into_iter().flat_map(move |value| [flag.to_owned(), value.to_owned()])
}
