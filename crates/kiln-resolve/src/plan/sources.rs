//! The content that a manifest brings along or names by checksum.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::apt::Record;

/// The items of the manifest's sources, by checksum.
#[derive(Default)]
pub(super) struct Sources {
    curl: BTreeMap<String, Value>,
    inline: BTreeMap<String, Value>,
}

impl Sources {
    /// Adds a package's file and returns its checksum.
    pub(super) fn package(&mut self, record: &Record) -> String {
        let checksum = format!("sha256:{}", record.sha256);
        let item = json!({ "url": record.url, "size": record.size });
        self.curl.entry(checksum.clone()).or_insert(item);
        checksum
    }

    /// Adds a text and returns its checksum.
    pub(super) fn text(&mut self, text: &str) -> String {
        let digest = Sha256::digest(text.as_bytes());
        let checksum: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let checksum = format!("sha256:{checksum}");
        let item = json!({ "encoding": "base64", "data": STANDARD.encode(text) });
        self.inline.insert(checksum.clone(), item);
        checksum
    }

    pub(super) fn finish(self) -> Value {
        let mut sources = serde_json::Map::new();
        for (name, items) in [("org.osbuild.curl", self.curl), ("org.osbuild.inline", self.inline)] {
            if !items.is_empty() {
                let items: serde_json::Map<_, _> = items.into_iter().collect();
                sources.insert(name.to_owned(), json!({ "items": items }));
            }
        }
        Value::Object(sources)
    }
}
