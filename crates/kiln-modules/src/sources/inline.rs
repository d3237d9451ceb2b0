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
use kiln_api::source::{CopyRequest, DownloadEvent, DownloadRequest, ItemResult, Source};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::content::{Workspace, is_cached};
use super::copy::copy_files;
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

/// Base64 without padding, which is looked after here.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
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
                    provide(key, description, &directory, &mut workspace, request.room, events)
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

    fn copy(
        &self,
        request: &CopyRequest<'_>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult> {
        copy_files(self.content_type(), request, events)
    }
}

/// Puts one item into the cache; `true` if it was there.
fn provide(
    key: &str,
    description: &Value,
    directory: &Path,
    workspace: &mut Option<Workspace>,
    room: &dyn Fn(u64) -> Result<(), String>,
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
    room(size).map_err(ModuleError::invalid)?;
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
    let data = from_base64(&item.data)?;
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

/// Decodes as the reference's decoder does: what is not of the alphabet is skipped, line breaks for example, and so is
/// padding that pads nothing; the padding that completes a group of four digits is the end.
fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    const GROUP: usize = 4;
    let mut digits = Vec::with_capacity(text.len());
    let (mut padding, mut ended) = (0, false);
    for byte in text.bytes() {
        if byte == b'=' {
            padding += 1;
            let group = digits.len() % GROUP;
            ended = group >= 2 && group + padding >= GROUP;
            if ended {
                break;
            }
        } else if byte.is_ascii_alphanumeric() || b"+/".contains(&byte) {
            padding = 0;
            digits.push(byte);
        }
    }
    if !ended && digits.len() % GROUP != 0 {
        return Err("not valid base64: the end is missing".to_owned());
    }
    BASE64.decode(digits).map_err(|error| format!("not valid base64: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    use kiln_api::module::Kind;
    use serde_json::{Map, json};

    use super::*;
    use crate::schema_agreement::{Agreement, reference};

    /// Two checksums of `abc`, and one of nothing.
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const ABC_MD5: &str = "md5:900150983cd24fb0d6963f7d28e17f72";
    const NOTHING: &str = "md5:d41d8cd98f00b204e9800998ecf8427e";

    /// `abc` in a file of `xz`, the first part of that file, `a` and `bc` in two files one after the other, and `abc` in
    /// a file of `lzma`.
    const XZ: &str = "/Td6WFoAAAFpIt42AgAhARYAAAB0L+WjAQACYWJjAADCQSQ1AAEXAwdgDLyQQpkNAQAAAAABWVo=";
    const XZ_CUT: &str = "/Td6WFoAAAFpIt42AgAhARYAAAB0L+WjAQACYWJjAADCQSQ1AAEXAwdgDLyQQpkN";
    const XZ_TWO: &str = "/Td6WFoAAAFpIt42AgAhARYAAAB0L+WjAQAAYQAAAABDvrfoAAEVAaljNGCQQpkNAQAAAAABWVr9N3pYWgAAA\
                          Wki3jYCACEBFgAAAHQv5aMBAAFiYwAAADgrqcIAARYC0GEQ0pBCmQ0BAAAAAAFZWg==";
    const LZMA: &str = "XQAAgAD//////////wAwmIikSo6f//ZjgAA=";

    fn item(encoding: &str, data: &str) -> Value {
        json!({"encoding": encoding, "data": data})
    }

    /// The results, and what was reported, one line each.
    fn download(
        cache: &Path,
        items: &Map<String, Value>,
        interrupted: bool,
    ) -> (Vec<ItemResult>, Vec<String>) {
        let log = Mutex::new(Vec::new());
        let request = DownloadRequest {
            items,
            options: &json!({}),
            cache,
            environment: &BTreeMap::new(),
            parallel: None,
            interrupted: &AtomicBool::new(interrupted),
            room: &|_| Ok(()),
        };
        let results = Inline.download(&request, &|event| {
            log.lock().expect("not poisoned").push(match event {
                DownloadEvent::Started { origin, size, .. } => format!("started: {origin}, {size:?}"),
                DownloadEvent::Progress { bytes, .. } => format!("progress: {bytes}"),
                DownloadEvent::Retry { reason, .. } => format!("retry: {reason}"),
                DownloadEvent::Finished { cached, .. } => format!("finished: cached {cached}"),
                DownloadEvent::Failed { reason, .. } => format!("failed: {reason}"),
            });
        });
        (results, log.into_inner().expect("not poisoned"))
    }

    fn one(key: &str, description: Value) -> Map<String, Value> {
        [(key.to_owned(), description)].into_iter().collect()
    }

    fn names(cache: &Path) -> Vec<String> {
        let entries = fs::read_dir(cache.join("org.osbuild.files")).into_iter().flatten();
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn schema() {
        let agreement = || Agreement::of(Kind::Source, Inline.name(), Inline.schema()).member("items");
        agreement()
            .accepts([
                json!({}),
                json!({ABC: item("base64", "YWJj"), ABC_MD5: item("lzma+base64", XZ)}),
                json!({ABC: item("base64", "")}),
            ])
            .refuses([
                json!([]),
                json!({"abc": item("base64", "YWJj")}),
                json!({ABC: "YWJj"}),
                json!({ABC: item("xz", "YWJj")}),
                json!({ABC: {"encoding": "base64"}}),
                json!({ABC: {"data": "YWJj"}}),
                json!({ABC: {"encoding": "base64", "data": "YWJj", "url": "x"}}),
            ]);
        agreement().around(json!({"options": {}})).refuses([json!({})]);
    }

    #[test]
    fn content_is_decoded_once() {
        for (key, encoding, data) in [
            (ABC, "base64", "YWJj"),
            (ABC_MD5, "base64", "YW\nJj\n"),
            (ABC, "lzma+base64", XZ),
            (ABC, "lzma+base64", XZ_TWO),
            (ABC_MD5, "lzma+base64", LZMA),
        ] {
            let cache = tempfile::tempdir().expect("tempdir");
            let items = one(key, item(encoding, data));
            assert!(!Inline.cached(cache.path(), key));
            let (results, log) = download(cache.path(), &items, false);
            assert_eq!(results, [ItemResult { checksum: key.to_owned(), cached: false, error: None }]);
            assert_eq!(log, ["started: the manifest, Some(3)", "progress: 3", "finished: cached false"]);
            assert_eq!(names(cache.path()), [key], "nothing else stays");
            let path = cache.path().join(Inline.content_type()).join(key);
            assert_eq!(fs::read(path).expect("content"), b"abc");
            assert!(Inline.cached(cache.path(), key));

            let (results, log) = download(cache.path(), &items, false);
            assert_eq!(results, [ItemResult { checksum: key.to_owned(), cached: true, error: None }]);
            assert_eq!(log, ["finished: cached true"]);
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_reported_and_the_rest_provided() {
        let other_checksum = format!("invalid option `{ABC}`: the content has another checksum: sha256:");
        let data = format!("invalid option `{ABC}.data`: ");
        let cases = [
            (item("base64", "YWJk"), other_checksum.clone()),
            (item("base64", ""), other_checksum),
            (item("base64", "YWJ"), format!("{data}not valid base64: the end is missing")),
            (item("lzma+base64", "YWJj"), format!("{data}not valid lzma: ")),
            (item("lzma+base64", XZ_CUT), format!("{data}not valid lzma: ")),
            (item("xz", "YWJj"), format!("invalid option `{ABC}`: unknown variant `xz`")),
            (json!({"encoding": "base64"}), format!("invalid option `{ABC}`: missing field `data`")),
        ];
        for (description, expected) in cases {
            let cache = tempfile::tempdir().expect("tempdir");
            let mut items = one(ABC, description);
            items.insert(NOTHING.to_owned(), item("base64", ""));
            let (results, log) = download(cache.path(), &items, false);
            let error = results[0].error.clone().unwrap_or_default();
            assert!(error.starts_with(&expected), "{error}, expected: {expected}");
            assert!(log.contains(&format!("failed: {error}")), "{log:?}");
            assert!(!results[0].cached);
            assert_eq!(results[1], ItemResult { checksum: NOTHING.to_owned(), cached: false, error: None });
            assert_eq!(names(cache.path()), [NOTHING]);
        }
        let cache = tempfile::tempdir().expect("tempdir");
        let (results, _) = download(cache.path(), &one("sha256:abc", item("base64", "YWJj")), false);
        assert!(results[0].error.is_some(), "it is no checksum");
    }

    #[test]
    fn an_interruption_leaves_nothing() {
        let cache = tempfile::tempdir().expect("tempdir");
        let (results, log) = download(cache.path(), &one(ABC, item("base64", "YWJj")), true);
        assert_eq!(results[0].error, Some(ModuleError::Interrupted.to_string()));
        assert_eq!(log, [format!("failed: {}", ModuleError::Interrupted)]);
        assert_eq!(names(cache.path()), [""; 0]);
    }

    #[test]
    fn base64_is_read_as_the_reference_reads_it() {
        let cases = [
            ("YWJj", Some("abc")),
            ("YWJjZA==", Some("abcd")),
            (" YW-\nJj\n_", Some("abc")),
            ("YWJj====", Some("abc")),
            ("=YWJj", Some("abc")),
            ("YQ==YQ==", Some("a")),
            ("YQ=YWJj", None),
            ("YR==", Some("a")),
            ("YWJjZA", None),
            ("YQ=", None),
            ("Y", None),
            ("Y===", None),
            ("", Some("")),
        ];
        for (text, expected) in cases {
            let found = from_base64(text).ok().map(|bytes| String::from_utf8(bytes).expect("text"));
            assert_eq!(found.as_deref(), expected, "{text:?}");
            if reference("base64").is_none() {
                continue;
            }
            let program = "import base64, sys; sys.stdout.buffer.write(base64.b64decode(sys.argv[1]))";
            let output = Command::new("python3").args(["-c", program, text]).output().expect("python3 runs");
            let there = output.status.success().then(|| String::from_utf8(output.stdout).expect("text"));
            assert_eq!(there.as_deref(), expected, "{text:?} there");
        }
    }
}
