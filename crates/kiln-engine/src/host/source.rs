//! A source of a library directory.

use std::collections::HashMap;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::source::{CopyRequest, DownloadEvent, DownloadRequest, ItemResult, Source};
use serde_json::{Map, Value, json};

use super::External;
use super::service::Service;

/// A source that is a program.
pub(crate) struct ExternalSource<'a>(pub(crate) External<'a>);

impl Source for ExternalSource<'_> {
    fn name(&self) -> &'static str {
        "external"
    }

    /// Nothing: what an external module says of itself is in the index.
    fn schema(&self) -> ModuleSchema {
        ModuleSchema::default()
    }

    /// Only the program knows.
    fn content_type(&self) -> &'static str {
        ""
    }

    fn download(
        &self,
        request: &DownloadRequest<'_>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult> {
        let arguments = json!({
            "items": request.items,
            "options": request.options,
            "cache": request.cache,
            "output": null,
            "checksums": [],
        });
        self.ask("download", &arguments, request.items, events)
    }

    fn copy(
        &self,
        request: &CopyRequest<'_>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult> {
        let arguments = json!({
            "items": request.items,
            "options": request.options,
            "cache": request.from,
            "dst_cache": request.to,
        });
        self.ask("copy", &arguments, request.items, events)
    }
}

impl ExternalSource<'_> {
    fn ask(
        &self,
        method: &str,
        arguments: &Value,
        items: &Map<String, Value>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult> {
        let errors = self.call(method, arguments);
        let result = |checksum: &String| {
            let error = match &errors {
                Ok(errors) => errors.get(checksum).or_else(|| errors.get("")).cloned(),
                Err(error) => Some(error.to_string()),
            };
            events(match &error {
                // Whether it had to be fetched is for the program to say, and it has.
                None => DownloadEvent::Finished { item: checksum, cached: true },
                Some(reason) => DownloadEvent::Failed { item: checksum, reason },
            });
            ItemResult { checksum: checksum.clone(), cached: false, error }
        };
        items.keys().map(result).collect()
    }

    /// Has everything done; what failed by checksum, or by nothing where the program does not say which it was.
    fn call(&self, method: &str, arguments: &Value) -> Result<HashMap<String, String>, ModuleError> {
        let mut service = Service::start(&self.0)?;
        let reply = service.call(method, arguments, &self.0, None)?;
        service.stop()?;
        failures(&reply)
    }
}

pub(super) fn failures(reply: &Value) -> Result<HashMap<String, String>, ModuleError> {
    let success = reply
        .get("success")
        .and_then(Value::as_bool)
        .ok_or_else(|| ModuleError::invalid("the module's answer does not say whether it succeeded"))?;
    let text = |value: &Value, member: &str| value.get(member).and_then(Value::as_str).map(str::to_owned);
    let results = reply.get("results").and_then(Value::as_array);
    let mut failed: HashMap<String, String> = results
        .into_iter()
        .flatten()
        .filter(|result| result.get("success") != Some(&Value::Bool(true)))
        .map(|result| {
            let checksum = result.get("metadata").and_then(|metadata| text(metadata, "checksum"));
            let error = text(result, "error").filter(|error| !error.is_empty());
            (checksum.unwrap_or_default(), error.unwrap_or_else(|| "failed".to_owned()))
        })
        .collect();
    if !success && failed.is_empty() {
        failed.insert(String::new(), text(reply, "output").unwrap_or_else(|| "failed".to_owned()));
    }
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_what_failed() {
        let failed = |reply: Value| {
            let mut failed: Vec<_> = failures(&reply).expect("an answer").into_iter().collect();
            failed.sort();
            failed
        };
        assert!(failed(json!({"success": true, "results": [{"success": true}]})).is_empty());
        let one = json!({"success": false, "error": "404", "metadata": {"checksum": "sha256:a"}});
        assert_eq!(
            failed(json!({"success": false, "results": [one, {"success": false}, {"success": true}]})),
            [("".to_owned(), "failed".to_owned()), ("sha256:a".to_owned(), "404".to_owned())]
        );
        assert_eq!(failed(json!({"success": false, "output": "no"})), [("".to_owned(), "no".to_owned())]);
        assert!(failures(&json!({})).is_err());
    }
}
