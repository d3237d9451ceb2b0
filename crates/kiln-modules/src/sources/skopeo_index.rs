//! `org.osbuild.skopeo-index`: lists of the images of several architectures, from registries or storages of this host.
//!
//! An index is one file of the content type of plain files, named by its digest. It is fetched by `skopeo` into a
//! directory of the form `dir`, hashed, and moved to its place like any other file.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::source::{CopyRequest, DownloadEvent, DownloadRequest, ItemResult, Source};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::content::{Workspace, is_cached};
use super::copy::copy_files;
use super::skopeo::Pause;
use super::skopeo::command::{Origin, Transport};
use super::skopeo::item::{ImageId, image_id, yes};
use super::tool::{self, Failure, Tries, side_by_side};
use crate::checksum::Checksum;

/// How many are fetched at the same time; each is a request or two.
const PARALLEL: usize = 6;

/// Fetches indexes of images of containers from registries, by `skopeo`.
///
/// Items are named by the digest of the index. An index lists the images of several architectures; stages that copy one of
/// them keep the index with it. The host needs `skopeo`; see `org.osbuild.skopeo`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["items"]}, {"required": ["digests"]}]))]
#[expect(dead_code, reason = "only the schema is used: items are read one by one")]
struct Description {
    /// The indexes to fetch, by their digests.
    #[serde(default)]
    #[schemars(with = "BTreeMap<ImageId, Item>")]
    items: Option<BTreeMap<ImageId, Item>>,
    /// The indexes to fetch, as older manifests have it.
    #[serde(default)]
    #[schemars(with = "BTreeMap<ImageId, Item>")]
    digests: Option<BTreeMap<ImageId, Item>>,
}

/// An index to fetch.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Item {
    image: Described,
}

/// Where an index is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Described {
    /// The image's name, with its registry.
    name: String,
    /// Whether the registry is reached over TLS only, with a certificate that is verified.
    #[serde(default = "yes")]
    tls_verify: bool,
    /// What the index is copied from.
    #[serde(default)]
    containers_transport: Transport,
    /// Where the storage is that it is copied from.
    #[serde(default)]
    storage_location: String,
}

pub(crate) struct SkopeoIndex;

type Events<'a> = &'a (dyn Fn(DownloadEvent<'_>) + Sync);

impl Source for SkopeoIndex {
    fn name(&self) -> &'static str {
        "org.osbuild.skopeo-index"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema::of::<Description>()
    }

    fn content_type(&self) -> &'static str {
        super::FILES
    }

    fn cached(&self, cache: &Path, checksum: &str) -> bool {
        Checksum::parse(checksum).is_ok_and(|digest| is_cached(&cache.join(super::FILES), &digest, None))
    }

    fn download(&self, request: &DownloadRequest<'_>, events: Events<'_>) -> Vec<ItemResult> {
        download(request, events, &tool::pause)
    }

    fn copy(&self, request: &CopyRequest<'_>, events: Events<'_>) -> Vec<ItemResult> {
        copy_files(super::FILES, request, events)
    }
}

fn download(request: &DownloadRequest<'_>, events: Events<'_>, pause: Pause<'_>) -> Vec<ItemResult> {
    let directory = request.cache.join(super::FILES);
    let fetch = |(key, description): (&String, &Value)| {
        let (digest, origin) = parse(key, description)?;
        if is_cached(&directory, &digest, None) {
            return Ok(true);
        }
        let shown = origin.shown();
        if !request.interrupted.load(Ordering::Relaxed) {
            events(DownloadEvent::Started { item: key, origin: &shown, size: None });
        }
        let tries = Tries { events, interrupted: request.interrupted, pause };
        match tries.run(key, || attempt(request, &directory, &digest, &origin)) {
            Ok(bytes) => {
                events(DownloadEvent::Progress { item: key, bytes });
                Ok(false)
            }
            Err(reason) if reason == tool::INTERRUPTED => Err(reason),
            Err(reason) => Err(format!("cannot fetch the index {shown}: {reason}")),
        }
    };
    side_by_side(request, events, request.items.iter().collect(), PARALLEL, fetch)
}

fn parse(key: &str, description: &Value) -> Result<(Checksum, Origin), String> {
    let digest = image_id(key)?;
    let item = Item::deserialize(description).map_err(|error| format!("invalid option `{key}`: {error}"))?;
    let image = item.image;
    let origin = Origin {
        name: image.name,
        digest: digest.as_str().to_owned(),
        verify: image.tls_verify,
        transport: image.containers_transport,
        storage: image.storage_location,
    };
    Ok((digest, origin))
}

/// Fetches an index to its place, and says how many bytes it has.
fn attempt(
    request: &DownloadRequest<'_>,
    directory: &Path,
    digest: &Checksum,
    origin: &Origin,
) -> Result<i64, Failure> {
    let permanent = |error: ModuleError| Failure::permanent(&error);
    (request.room)(0).map_err(Failure::Permanent)?;
    let workspace = Workspace::create(directory).map_err(permanent)?;
    let target = workspace.path().join("index");
    let mut go_on = || !request.interrupted.load(Ordering::Relaxed);
    origin.copy(&["--multi-arch=index-only"], &target, request.environment, &mut go_on)?;
    let path = target.join("manifest.json");
    let text = fs::read(&path).map_err(ModuleError::io("read", &path)).map_err(permanent)?;
    check(&text, digest).map_err(Failure::Permanent)?;
    let mut file = workspace.file(digest).map_err(permanent)?;
    file.file.write_all(&text).map_err(ModuleError::io("write", file.path())).map_err(permanent)?;
    file.commit().map_err(permanent)?;
    Ok(i64::try_from(text.len()).unwrap_or(i64::MAX))
}

/// Whether a text is an index, and the one that is meant.
fn check(text: &[u8], digest: &Checksum) -> Result<(), String> {
    let manifest: Value =
        serde_json::from_slice(text).map_err(|error| format!("the manifest cannot be read: {error}"))?;
    if !is_index(&manifest) {
        return Err("it is the manifest of one image, not an index".to_owned());
    }
    let mut hasher = digest.algorithm().hasher();
    hasher.update(text);
    let found = hasher.finish();
    if found == *digest { Ok(()) } else { Err(format!("the index has another digest: {found}")) }
}

/// An index says so by its media type, which is optional; then it is known by its list.
fn is_index(manifest: &Value) -> bool {
    match manifest.get("mediaType") {
        None | Some(Value::Null) => manifest.get("manifests").is_some_and(|list| !list.is_null()),
        Some(kind) => {
            kind == "application/vnd.docker.distribution.manifest.list.v2+json"
                || kind == "application/vnd.oci.image.index.v1+json"
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_api::module::Kind;
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;

    const ID: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn schema() {
        let agreement = || Agreement::of(Kind::Source, SkopeoIndex.name(), SkopeoIndex.schema());
        let full = json!({"image": {
            "name": "h.invalid/a", "tls-verify": false,
            "containers-transport": "containers-storage", "storage-location": "/x",
        }});
        for member in ["items", "digests"] {
            agreement()
                .member(member)
                .accepts([json!({}), json!({ID: full}), json!({ID: {"image": {"name": "a"}}})])
                .refuses([
                    json!([]),
                    json!({"x": full}),
                    json!({ID: {}}),
                    json!({ID: {"image": {}}}),
                    json!({ID: {"image": {"name": "a", "digest": ID}}}),
                ]);
        }
        agreement().member("digests").around(json!({"items": {}})).refuses([json!({})]);
    }

    #[test]
    fn only_the_index_that_is_meant_will_do() {
        let index = r#"{"manifests": []}"#;
        let digest =
            Checksum::parse("sha256:a7e03c00dd8c9dd7dd6d6c0a8b8f1a1e6b4c5c2a7a5d0d5d0b7a3f4b6c8d9e0f")
                .expect("one");
        let error = check(index.as_bytes(), &digest).expect_err("another digest");
        let found = error.strip_prefix("the index has another digest: ").expect("the digest");
        check(index.as_bytes(), &Checksum::parse(found).expect("a digest")).expect("it is right");
        for (manifest, expected) in [
            (json!({"mediaType": "application/vnd.oci.image.index.v1+json"}), true),
            (json!({"mediaType": "application/vnd.docker.distribution.manifest.list.v2+json"}), true),
            (json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "manifests": []}), false),
            (json!({"manifests": []}), true),
            (json!({"manifests": null}), false),
            (json!({"config": {}}), false),
            (json!([]), false),
        ] {
            assert_eq!(is_index(&manifest), expected, "{manifest}");
        }
        assert!(check(b"{}", &digest).expect_err("no index").contains("not an index"));
        assert!(check(b"", &digest).expect_err("no text").contains("cannot be read"));
    }

    #[test]
    fn items_are_read() {
        let (digest, origin) =
            parse(ID, &json!({"image": {"name": "h/a", "tls-verify": false}})).expect("read");
        assert_eq!((digest.as_str(), origin.shown(), origin.verify), (ID, format!("h/a@{ID}"), false));
        parse("sha256:00", &json!({"image": {"name": "a"}})).expect_err("no digest");
        parse(ID, &json!({"image": {}})).expect_err("no name");
    }
}
