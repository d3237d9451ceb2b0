//! Items: what a manifest says of an image to fetch.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

use super::command::{Origin, Transport};
use crate::checksum::Checksum;

/// Fetches images of containers from registries, by `skopeo`.
///
/// Items are named by the image's id, which is the checksum of its configuration and what `podman images` shows. The
/// digest in the registry may be that of an index; then the image for this machine's architecture is taken. Images are
/// kept in the form `dir`, which keeps manifests and signatures as they are. Several are fetched at the same time; what
/// fails for a reason that may pass is tried again.
///
/// The host needs `skopeo`. Where it finds credentials, certificates, mirrors and proxies is its own configuration
/// (`REGISTRY_AUTH_FILE`, `/etc/containers/registries.conf`, `/etc/containers/certs.d`, `https_proxy`, …).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["items"]}, {"required": ["digests"]}]))]
#[expect(dead_code, reason = "only the schema is used: items are read one by one")]
pub(super) struct Description {
    /// The images to fetch, by their ids.
    #[serde(default)]
    #[schemars(with = "BTreeMap<ImageId, Item>")]
    items: Option<BTreeMap<ImageId, Item>>,
    /// The images to fetch, as older manifests have it.
    #[serde(default)]
    #[schemars(with = "BTreeMap<ImageId, Item>")]
    digests: Option<BTreeMap<ImageId, Item>>,
}

/// An id or digest, with the reference's pattern.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sources) struct ImageId(String);

impl JsonSchema for ImageId {
    fn schema_name() -> Cow<'static, str> {
        "ImageId".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "sha256:[0-9a-f]{64}"})
    }
}

/// An image to fetch.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Item {
    image: Described,
}

/// Where an image is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Described {
    /// The image's name, with its registry.
    name: String,
    /// The digest of the image's manifest, or of an index with it.
    digest: ImageId,
    /// Whether the registry is reached over TLS only, with a certificate that is verified.
    #[serde(default = "yes")]
    tls_verify: bool,
    /// What the image is copied from.
    #[serde(default)]
    containers_transport: Transport,
    /// Where the storage is that it is copied from.
    #[serde(default)]
    storage_location: String,
    /// How many bytes are to be fetched, for progress, plans and an early check; Kiln's own, not part of any stage's id.
    #[serde(default)]
    #[schemars(with = "u64")]
    size: Option<u64>,
}

pub(in crate::sources) fn yes() -> bool {
    true
}

/// An image, ready to be fetched.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) id: Checksum,
    pub(super) origin: Origin,
    pub(super) size: Option<u64>,
}

impl Wanted {
    /// Reads an item of a manifest.
    pub(super) fn parse(key: &str, description: &Value) -> Result<Self, String> {
        let id = image_id(key)?;
        let item =
            Item::deserialize(description).map_err(|error| format!("invalid option `{key}`: {error}"))?;
        let image = item.image;
        // It becomes part of a name: what only contains a digest must not get through.
        let digest = image_id(&image.digest.0)?.as_str().to_owned();
        let origin = Origin {
            name: image.name,
            digest,
            verify: image.tls_verify,
            transport: image.containers_transport,
            storage: image.storage_location,
        };
        Ok(Self { id, origin, size: image.size })
    }
}

/// An image's id, or a digest; exactly that, which the schema does not ensure.
pub(in crate::sources) fn image_id(text: &str) -> Result<Checksum, String> {
    let id = Checksum::parse(text).map_err(|error| error.to_string())?;
    if text.starts_with("sha256:") {
        Ok(id)
    } else {
        Err(format!("`{text}` is no id of an image: it is not a SHA-256"))
    }
}

/// The size that an item's description states.
pub(super) fn stated_size(description: &Value) -> Option<u64> {
    description.get("image")?.get("size")?.as_u64()
}

#[cfg(test)]
mod tests {
    use kiln_api::module::{Kind, ModuleSchema};
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;

    const ID: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn schema() {
        let agreement =
            || Agreement::of(Kind::Source, "org.osbuild.skopeo", ModuleSchema::of::<Description>());
        let full = json!({"image": {
            "name": "h.invalid/a", "digest": ID, "tls-verify": false,
            "containers-transport": "containers-storage", "storage-location": "/x",
        }});
        let image = |member: &str, value: Value| {
            let mut image = json!({"name": "a", "digest": ID});
            image[member] = value;
            json!({ID: {"image": image}})
        };
        for member in ["items", "digests"] {
            agreement()
                .member(member)
                .accepts([
                    json!({}),
                    json!({ID: full}),
                    image("name", json!("b")),
                    image("containers-transport", json!("docker")),
                ])
                .refuses([
                    json!([]),
                    json!({"x": full}),
                    json!({ID: {}}),
                    json!({ID: {"image": {"name": "a"}}}),
                    json!({ID: {"image": {"digest": ID}}}),
                    image("digest", json!("md5:00")),
                    image("containers-transport", json!("oci")),
                    image("tls-verify", json!("no")),
                    image("tls-verify", json!(null)),
                    image("size", json!(-1)),
                ]);
        }
        agreement().member("digests").around(json!({"items": {}})).refuses([json!({})]);
    }

    #[test]
    fn items_are_read() {
        let wanted =
            Wanted::parse(ID, &json!({"image": {"name": "h/a", "digest": ID, "size": 7}})).expect("read");
        assert_eq!(
            (wanted.id.as_str(), wanted.origin.shown(), wanted.size),
            (ID, format!("h/a@{ID}"), Some(7))
        );
        assert!(wanted.origin.verify);
        assert_eq!(wanted.origin.transport, Transport::Docker);
        assert_eq!(stated_size(&json!({"image": {"size": 7}})), Some(7));
        let image = |digest: &str| json!({"image": {"name": "a", "digest": digest}});
        for (key, description, expected) in [
            (&format!("{ID}/.."), image(ID), "is no checksum"),
            (&"md5:900150983cd24fb0d6963f7d28e17f72".to_owned(), image(ID), "it is not a SHA-256"),
            (&ID.to_owned(), image(&format!("{ID} x")), "is no checksum"),
            (&ID.to_owned(), json!({"image": {"name": "a"}}), "missing field `digest`"),
        ] {
            let error = Wanted::parse(key, &description).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}
