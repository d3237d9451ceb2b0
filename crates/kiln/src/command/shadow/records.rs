//! What two sequences of monitor records have to have in common: what began and ended, in which order and context,
//! how far it was, and what came of it.
//!
//! What modules wrote is cut into records as it arrives, and what programs on the host write comes from threads: the
//! first is one record here, the second none.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// The members that are compared.
const MEMBERS: [&str; 4] = ["message", "result", "progress", "options"];

/// The records without what is never twice the same, each with its whole context.
pub(super) fn outline(records: &[Value]) -> Vec<Value> {
    let mut contexts = HashMap::new();
    let mut outline: Vec<Value> = Vec::new();
    for record in records {
        let context = &record["context"];
        let id = context["id"].as_str().unwrap_or_default();
        if context["origin"].is_string() {
            contexts.insert(id, context);
        }
        let context = contexts.get(id).copied().unwrap_or(context);
        let message = record["message"].as_str().unwrap_or_default();
        if is_of_a_service(message) {
            continue;
        }
        let mut told: Map<String, Value> = Map::new();
        told.insert("context".to_owned(), context.clone());
        let written = context["origin"].as_str().is_some_and(|origin| origin.starts_with("stages/"));
        for member in MEMBERS.into_iter().filter(|member| !written || *member != "message") {
            told.insert(member.to_owned(), record[member].clone());
        }
        if let Some(progress) = told.get_mut("progress").and_then(Value::as_object_mut) {
            // How far downloads are is told by Kiln only.
            let name = progress.get("progress").and_then(|inner| inner["name"].as_str());
            if name.is_some_and(|name| name.starts_with("source: ")) {
                progress.remove("progress");
            }
        }
        let told = Value::Object(told);
        if !(written && outline.last() == Some(&told)) {
            outline.push(told);
        }
    }
    outline
}

/// Whether a message is what a program on the host wrote: `input/tree (org.osbuild.tree): …`.
fn is_of_a_service(message: &str) -> bool {
    let kinds = ["source/", "input/", "device/", "mount/"];
    kinds.iter().any(|kind| message.starts_with(kind)) && message.contains("): ")
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn contexts_are_whole_and_outputs_are_one_record() {
        let stage = json!({"id": "s", "origin": "stages/org.osbuild.x", "pipeline": {"name": "p"}});
        let records = [
            json!({"context": {"id": "b", "origin": "osbuild.monitor"}, "message": "Starting", "timestamp": 1.0}),
            json!({"context": {"id": "b"}, "message": "source/curl (org.osbuild.curl): Downloaded x"}),
            json!({"context": stage, "message": "one"}),
            json!({"context": {"id": "s"}, "message": "two"}),
            json!({"context": {"id": "b"}, "result": {"success": true}, "duration": 2.0}),
        ];
        let outline = outline(&records);
        let origins: Vec<_> =
            outline.iter().map(|record| record["context"]["origin"].as_str().unwrap_or_default()).collect();
        assert_eq!(origins, ["osbuild.monitor", "stages/org.osbuild.x", "osbuild.monitor"]);
        assert_eq!(outline[1]["message"], Value::Null);
        assert_eq!(outline[2]["result"], json!({"success": true}));
    }
}
