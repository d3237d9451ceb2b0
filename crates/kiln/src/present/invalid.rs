//! The reference's JSON object for an invalid manifest.

use kiln_engine::manifest::place::{JsonPath, Step};
use serde_json::{Value, json};

/// One error of it: what is wrong, and the path.
pub(crate) fn fault(message: &str, path: &JsonPath) -> Value {
    let path: Vec<Value> = path
        .0
        .iter()
        .map(|step| match step {
            Step::Key(key) => json!(key),
            Step::Index(index) => json!(index),
        })
        .collect();
    json!({"message": message, "path": path})
}

/// The object with all errors.
pub(crate) fn invalid(errors: &[Value]) -> Value {
    json!({
        "type": "https://osbuild.org/validation-error",
        "title": "JSON Schema validation failed",
        "success": false,
        "errors": errors,
    })
}
