//! What a manifest says of packages and their mirrors.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

/// Downloads packages from the mirrors of a repository.
///
/// Items are named by the checksum of their content and kept in the cache. Each names a mirror of the options, which is a
/// URL, or a list of them: a `mirrorlist` or a `metalink`. Packages come from the server that is the fastest so far;
/// one that fails or is much slower than others is replaced by the next, and what has arrived is kept. Lists are read
/// by Kiln itself: nothing is needed on the host.
///
/// Secrets: `org.osbuild.mtls` takes a client certificate from the environment variables
/// `OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT`, `OSBUILD_SOURCES_CURL_SSL_CLIENT_KEY` and
/// `OSBUILD_SOURCES_CURL_SSL_CA_CERT` (optional), `org.osbuild.rhsm` from the system's subscriptions.
/// Proxies are those of `OSBUILD_SOURCES_CURL_PROXY`, or of the usual variables (`https_proxy`, `no_proxy`, …).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only the schema is used: items are read one by one")]
pub(super) struct Description {
    /// The packages to fetch, by checksum.
    #[serde(default)]
    #[schemars(with = "BTreeMap<Key, Package>")]
    items: Option<BTreeMap<Key, Package>>,
    /// Where packages come from.
    #[serde(default)]
    #[schemars(with = "Options")]
    options: Option<Options>,
}

/// A checksum, with the reference's pattern.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Key(String);

impl JsonSchema for Key {
    fn schema_name() -> Cow<'static, str> {
        "Checksum".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^(sha1|sha256|sha384|sha512):[0-9a-f]{40,128}$"})
    }
}

/// The name of a mirror, with the reference's pattern.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct MirrorId(String);

impl JsonSchema for MirrorId {
    fn schema_name() -> Cow<'static, str> {
        "MirrorId".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9a-zA-Z-._:]+$"})
    }
}

/// A package to fetch.
#[derive(Deserialize, JsonSchema)]
#[schemars(transform = untyped)]
pub(super) struct Package {
    /// The package's path below the URL of each server.
    pub(super) path: String,
    /// The mirror, by its name in the options.
    pub(super) mirror: String,
    /// The package's size in bytes, for progress, plans and an early check; Kiln's own, not part of any stage's id.
    #[serde(default)]
    #[schemars(with = "u64")]
    pub(super) size: Option<u64>,
}

/// Where packages come from.
#[derive(Deserialize, JsonSchema)]
#[schemars(transform = untyped)]
pub(super) struct Options {
    /// The mirrors, by the names that packages use.
    #[schemars(with = "BTreeMap<MirrorId, Mirror>")]
    pub(super) mirrors: BTreeMap<String, Mirror>,
}

/// A mirror: one server, or a list of them.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = untyped)]
pub(super) struct Mirror {
    /// The URL of the list, or of the server.
    pub(super) url: String,
    /// What the URL is of.
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    /// How many packages are fetched at the same time at most.
    #[serde(default)]
    #[schemars(with = "f64")]
    pub(super) max_parallels: Option<f64>,
    /// Whether to begin with the servers that answer soonest instead of in the order of the list.
    #[serde(default)]
    pub(super) fastest_mirror: bool,
    /// Whether to accept any certificate of the servers.
    #[serde(default)]
    pub(super) insecure: bool,
    /// What proves to the servers that packages may be had.
    #[serde(default)]
    #[schemars(with = "Secrets")]
    pub(super) secrets: Option<Secrets>,
}

/// What the URL of a mirror is of.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A list of URLs, one in each line.
    Mirrorlist,
    /// A list in XML, with preferences.
    Metalink,
    /// The server itself.
    Baseurl,
}

/// What proves to the servers that packages may be had.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Secrets {
    /// The provider: `org.osbuild.mtls` or `org.osbuild.rhsm`.
    pub(super) name: String,
}

/// The reference's schema does not say that these are objects; what they hold is said when it is read.
fn untyped(schema: &mut Schema) {
    schema.remove("type");
}

#[cfg(test)]
mod tests {
    use kiln_api::module::{Kind, ModuleSchema};
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;

    const KEY: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn agreement() -> Agreement {
        Agreement::of(Kind::Source, "org.osbuild.librepo", ModuleSchema::of::<Description>())
    }

    #[test]
    fn schema_of_items() {
        agreement()
            .member("items")
            .accepts([json!({}), json!({KEY: {"path": "a/b.rpm", "mirror": "fedora"}})])
            .refuses([
                json!([]),
                json!({KEY: {}}),
                json!({KEY: {"path": "a"}}),
                json!({KEY: {"path": 1, "mirror": "x"}}),
                json!({"md5:900150983cd24fb0d6963f7d28e17f72": {"path": "a", "mirror": "x"}}),
                json!({"x": {"path": "a", "mirror": "x"}}),
            ]);
    }

    #[test]
    fn schema_of_options() {
        let full = json!({
            "url": "https://h.invalid/metalink?repo=x",
            "type": "metalink",
            "max-parallels": 3,
            "fastest-mirror": true,
            "insecure": true,
            "secrets": {"name": "org.osbuild.rhsm", "more": 1},
        });
        let mirrors = |mirror: serde_json::Value| json!({"mirrors": {"a-Z.0:_": mirror}});
        agreement()
            .accepts([
                json!({"mirrors": {}}),
                mirrors(full.clone()),
                mirrors(json!({"url": "file:///x", "type": "baseurl", "max-parallels": 0.5, "more": 1})),
                mirrors(json!({"url": "", "type": "mirrorlist"})),
            ])
            .refuses([
                json!({}),
                json!({"mirrors": []}),
                json!({"mirrors": {"a b": full}}),
                mirrors(json!({"url": "x"})),
                mirrors(json!({"url": "x", "type": "ftp"})),
                mirrors(json!({"url": "x", "type": "baseurl", "insecure": "x"})),
                mirrors(json!({"url": "x", "type": "baseurl", "fastest-mirror": 1})),
                mirrors(json!({"url": "x", "type": "baseurl", "max-parallels": "1"})),
                mirrors(json!({"url": "x", "type": "baseurl", "secrets": {}})),
            ]);
    }
}
