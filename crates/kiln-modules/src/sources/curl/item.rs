//! Items: what a manifest says of a file to fetch.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

use crate::checksum::Checksum;
use crate::sources::web::{Place, Places, Wanted};

/// Downloads files from URLs.
///
/// Items are named by the checksum of their content and kept in the cache. URLs may have the schemes `http`,
/// `https` and `file`; paths are percent-quoted, so they are written plainly. Several items are fetched at the same
/// time; tries that fail for a passing reason are repeated up to ten times, with pauses that grow. What has arrived is
/// kept, also of a run that was interrupted, and the rest is asked for; `mirrors` names further URLs of a file.
///
/// Secrets: `org.osbuild.mtls` takes a client certificate from the environment variables
/// `OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT`, `OSBUILD_SOURCES_CURL_SSL_CLIENT_KEY` and
/// `OSBUILD_SOURCES_CURL_SSL_CA_CERT` (optional), `org.osbuild.rhsm` from the system's subscriptions.
/// Proxies are those of `OSBUILD_SOURCES_CURL_PROXY`, or of the usual variables (`https_proxy`, `no_proxy`, …).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["items"]}, {"required": ["urls"]}]))]
#[expect(dead_code, reason = "only the schema is used: items are read one by one")]
pub(super) struct Description {
    /// What to fetch, by checksum.
    #[serde(default)]
    #[schemars(with = "BTreeMap<Key, File>")]
    items: Option<BTreeMap<Key, File>>,
    /// What to fetch, by checksum, as format 1 and older manifests have it.
    #[serde(default)]
    #[schemars(with = "BTreeMap<Key, File>")]
    urls: Option<BTreeMap<Key, File>>,
}

/// A checksum, with the reference's pattern.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sources) struct Key(String);

impl JsonSchema for Key {
    fn schema_name() -> Cow<'static, str> {
        "Checksum".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "(md5|sha1|sha256|sha384|sha512):[0-9a-f]{32,128}"})
    }
}

/// A file to fetch.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum File {
    /// The file's URL.
    Url(String),
    /// The file's URL and how to fetch it.
    Full(Full),
}

/// A file's URL and how to fetch it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Full {
    /// The file's URL.
    url: String,
    /// Whether to accept any certificate of the server.
    #[serde(default)]
    insecure: bool,
    /// What proves to the server that the file may be had.
    #[serde(default)]
    #[schemars(with = "Secrets")]
    secrets: Option<Secrets>,
    /// The file's size in bytes, for progress, plans and an early check; Kiln's own, not part of any stage's id.
    #[serde(default)]
    #[schemars(with = "u64")]
    size: Option<u64>,
    /// Further URLs of the same file, fetched with the same secrets: tried in turn where one fails or is much slower
    /// than others; Kiln's own, not part of any stage's id.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    mirrors: Option<Vec<String>>,
}

/// What proves to the server that the file may be had.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Secrets {
    /// The provider: `org.osbuild.mtls` or `org.osbuild.rhsm`.
    name: String,
}

/// Reads an item of a manifest.
pub(super) fn parse(key: &str, description: &Value) -> Result<Wanted, String> {
    let checksum = Checksum::parse(key).map_err(|error| error.to_string())?;
    let full = match File::deserialize(description) {
        Ok(File::Full(full)) => full,
        Ok(File::Url(url)) => Full { url, insecure: false, secrets: None, size: None, mirrors: None },
        Err(_) => return Err(format!("`{key}` is neither a URL nor an object with a `url`")),
    };
    let secrets = full.secrets.map(|secrets| secrets.name);
    let urls = std::iter::once(&full.url).chain(full.mirrors.iter().flatten());
    let places: Result<_, _> = urls.map(|url| Place::parse(url, full.insecure, secrets.clone())).collect();
    Ok(Wanted { checksum, size: full.size, places: Places::Listed(places?) })
}

/// The size that an item's description states.
pub(super) fn stated_size(description: &Value) -> Option<u64> {
    description.get("size")?.as_u64()
}

#[cfg(test)]
mod tests {
    use kiln_api::module::{Kind, ModuleSchema};
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;

    const KEY: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn agreement() -> Agreement {
        Agreement::of(Kind::Source, "org.osbuild.curl", ModuleSchema::of::<Description>())
    }

    #[test]
    fn schema() {
        let full =
            json!({"url": "http://h.invalid/", "insecure": true, "secrets": {"name": "org.osbuild.mtls"}});
        agreement()
            .member("items")
            .accepts([json!({}), json!({KEY: "http://h.invalid/"}), json!({KEY: full})])
            .refuses([
                json!([]),
                json!({"x": "http://h.invalid/"}),
                json!({KEY: null}),
                json!({KEY: {}}),
                json!({KEY: {"url": "x", "secrets": null}}),
                json!({KEY: {"url": "x", "secrets": {"name": "x", "more": 1}}}),
                json!({KEY: {"url": "x", "insecure": 1}}),
                json!({KEY: {"url": "x", "size": -1}}),
                json!({KEY: {"url": "x", "mirrors": "y"}}),
            ]);
        agreement().member("urls").accepts([json!({KEY: "http://h.invalid/"})]).refuses([json!(1)]);
        agreement().member("urls").around(json!({"items": {}})).refuses([json!({})]);
    }

    #[test]
    fn size_is_known_from_the_description() {
        assert_eq!(stated_size(&json!({"url": "x", "size": 7})), Some(7));
        assert_eq!(stated_size(&json!("http://h.invalid/")), None);
    }

    #[test]
    fn what_cannot_be_fetched_is_said() {
        let cases = [
            ("sha256:00", json!("http://h.invalid/"), "64"),
            (KEY, json!("ftp://u:p@h.invalid/x"), "invalid URL `ftp://h.invalid/x`: unknown scheme `ftp`"),
            (
                KEY,
                json!({"url": "http://h.invalid/x", "mirrors": ["x"]}),
                "invalid URL `x`: it has no scheme",
            ),
            (KEY, json!(7), "neither"),
        ];
        for (key, description, expected) in cases {
            let error = parse(key, &description).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}
