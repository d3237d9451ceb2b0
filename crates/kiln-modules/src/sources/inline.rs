//! `org.osbuild.inline`: content that stands in the manifest itself.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::Ordering;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::source::{DownloadEvent, DownloadRequest, ItemResult, Source};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::content::{Workspace, is_cached};
use super::curl::item::Key;
use crate::checksum::Checksum;

/// Takes content from the manifest itself.
///
/// Items are named by the checksum of their content, which is verified after decoding. For small files and
/// scripts that belong to the manifest.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only the schema is used: items are read one by one")]
struct Description {
    /// The content, by checksum.
    items: BTreeMap<Key, Item>,
}

/// Encoded content.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Item {
    /// How `data` is encoded.
    encoding: Encoding,
    /// The encoded content.
    data: String,
}

/// How content is encoded.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum Encoding {
    #[serde(rename = "base64")]
    Base64,
    /// Base64 of a file that `xz` or `lzma` made.
    #[serde(rename = "lzma+base64")]
    LzmaBase64,
}

/// Padding is as strict as in the reference.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

pub(crate) struct Inline;

impl Source for Inline {
    fn name(&self) -> &'static str {
        "org.osbuild.inline"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema::of::<Description>()
    }

    fn content_type(&self) -> &'static str {
        super::FILES
    }

    fn cached(&self, cache: &Path, checksum: &str) -> bool {
        Checksum::parse(checksum)
            .is_ok_and(|checksum| is_cached(&cache.join(self.content_type()), &checksum, None))
    }

    fn download(
        &self,
        request: &DownloadRequest<'_>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult> {
        let directory = request.cache.join(self.content_type());
        let mut workspace = None;
        let items = request.items.iter();
        items
            .map(|(key, description)| {
                let result = if request.interrupted.load(Ordering::Relaxed) {
                    Err(ModuleError::Interrupted)
                } else {
                    provide(key, description, &directory, &mut workspace, events)
                };
                let checksum = key.clone();
                match result {
                    Ok(cached) => {
                        events(DownloadEvent::Finished { item: key, cached });
                        ItemResult { checksum, cached, error: None }
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        events(DownloadEvent::Failed { item: key, reason: &reason });
                        ItemResult { checksum, cached: false, error: Some(reason) }
                    }
                }
            })
            .collect()
    }
}

/// Puts one item into the cache; `true` if it was there.
fn provide(
    key: &str,
    description: &Value,
    directory: &Path,
    workspace: &mut Option<Workspace>,
    events: &(dyn Fn(DownloadEvent<'_>) + Sync),
) -> Result<bool, ModuleError> {
    let checksum = Checksum::parse(key).map_err(|error| ModuleError::invalid(error.to_string()))?;
    if is_cached(directory, &checksum, None) {
        return Ok(true);
    }
    let item = Item::deserialize(description).map_err(|error| ModuleError::option(key, error.to_string()))?;
    let content = decode(&item).map_err(|reason| ModuleError::option(format!("{key}.data"), reason))?;
    let size = content.len() as u64;
    events(DownloadEvent::Started { item: key, origin: "the manifest", size: Some(size) });
    let mut hasher = checksum.algorithm().hasher();
    hasher.update(&content);
    let found = hasher.finish();
    if found != checksum {
        return Err(ModuleError::option(key, format!("the content has another checksum: {found}")));
    }
    let workspace = match workspace {
        Some(workspace) => workspace,
        None => workspace.insert(Workspace::create(directory)?),
    };
    let mut target = workspace.file(&checksum)?;
    target.file.write_all(&content).map_err(ModuleError::io("write", target.path()))?;
    target.commit()?;
    let bytes = i64::try_from(size).unwrap_or(i64::MAX);
    events(DownloadEvent::Progress { item: key, bytes });
    Ok(false)
}

fn decode(item: &Item) -> Result<Vec<u8>, String> {
    // The reference's decoder skips what is not of the alphabet, line breaks for example.
    let mut text: Vec<u8> = item.data.bytes().collect();
    text.retain(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte));
    let data = BASE64.decode(text).map_err(|error| format!("not valid base64: {error}"))?;
    match item.encoding {
        Encoding::Base64 => Ok(data),
        Encoding::LzmaBase64 => {
            let stream = liblzma::stream::Stream::new_auto_decoder(u64::MAX, liblzma::stream::CONCATENATED)
                .map_err(|error| error.to_string())?;
            let mut content = Vec::new();
            liblzma::read::XzDecoder::new_stream(data.as_slice(), stream)
                .read_to_end(&mut content)
                .map_err(|error| format!("not valid lzma: {error}"))?;
            Ok(content)
        }
    }
}
