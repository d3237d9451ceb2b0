//! What modules that run on the host have in common.

use std::error::Error;

use kiln_api::ModuleError;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A module's options as its type; none at all are empty ones.
pub(crate) fn options<Options: DeserializeOwned>(options: &Value) -> Result<Options, ModuleError> {
    let options = match options {
        Value::Null => Value::Object(Map::new()),
        options => options.clone(),
    };
    serde_json::from_value(options).map_err(|error| ModuleError::option("options", error.to_string()))
}

/// An error of the host with its sources, as one line.
pub(crate) fn invalid(error: &dyn Error) -> ModuleError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    ModuleError::invalid(text)
}
