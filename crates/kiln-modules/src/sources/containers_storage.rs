//! `org.osbuild.containers-storage`: images that are in the host's own storage of containers.
//!
//! Nothing is fetched and nothing comes into the cache: it is only looked whether an image is there. Somebody may remove it
//! before a stage uses it; copying it is what this source is there to avoid.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::source::{CopyRequest, DownloadEvent, DownloadRequest, ItemResult, Source};
use schemars::JsonSchema;
use serde::Deserialize;

use super::copy::each;
use super::skopeo::command::{SKOPEO, last_words};
use super::skopeo::item::{ImageId, image_id};
use super::tool::{self, Failure, SLICE, side_by_side, without_secrets};
use crate::checksum::Checksum;
use crate::container_storage::ContainerStorage;

/// How many images are looked at the same time.
const PARALLEL: usize = 4;

/// What `skopeo` says of an image that is not there, in the words of several of its versions; the last ones, when what is no
/// image's id is taken for a name, which must not look like one.
const ABSENT: [&str; 4] = [
    "identifier is not an image",
    "does not resolve to an image ID",
    "image not known",
    "cannot specify 64-byte hexadecimal strings",
];

/// Takes images of containers from the host's own storage.
///
/// Items are named by the image's id, as `podman images` shows it. The images must be there: nothing is fetched, and
/// nothing is kept in the cache. Where the storage is says `/etc/containers/storage.conf`, or else
/// `/usr/share/containers/storage.conf`. The host needs `skopeo`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only the schema is used: the keys say everything")]
struct Description {
    /// The images, by their ids.
    #[serde(default)]
    #[schemars(with = "BTreeMap<ImageId, Item>")]
    items: Option<BTreeMap<ImageId, Item>>,
}

/// An image, of which its id says everything.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Item {}

pub(crate) struct ContainersStorage;

type Events<'a> = &'a (dyn Fn(DownloadEvent<'_>) + Sync);

impl Source for ContainersStorage {
    fn name(&self) -> &'static str {
        "org.osbuild.containers-storage"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema::of::<Description>()
    }

    fn content_type(&self) -> &'static str {
        "org.osbuild.containers-storage"
    }

    /// Never: only the storage knows, and it is asked by each run.
    fn cached(&self, _cache: &Path, _checksum: &str) -> bool {
        false
    }

    fn download(&self, request: &DownloadRequest<'_>, events: Events<'_>) -> Vec<ItemResult> {
        download(request, events, Path::new("/"))
    }

    /// Nothing: the images are where they are for every cache of this host.
    fn copy(&self, request: &CopyRequest<'_>, events: Events<'_>) -> Vec<ItemResult> {
        each(request, events, &mut |_| Ok(true))
    }
}

fn download(request: &DownloadRequest<'_>, events: Events<'_>, root: &Path) -> Vec<ItemResult> {
    let storage = ContainerStorage::of_host(root).map_err(|error| error.to_string());
    let look = |key: &String| {
        let storage = storage.as_ref().map_err(Clone::clone)?;
        let id = image_id(key)?;
        match look(request, storage, &id) {
            Ok(()) => Ok(true),
            Err(Failure::Interrupted) => Err(tool::INTERRUPTED.to_owned()),
            Err(Failure::Passing(reason) | Failure::Permanent(reason)) => Err(reason),
        }
    };
    side_by_side(request, events, request.items.keys().collect(), PARALLEL, look)
}

/// Looks whether an image is in a storage.
fn look(request: &DownloadRequest<'_>, storage: &ContainerStorage, id: &Checksum) -> Result<(), Failure> {
    let digits = id.as_str().split_once(':').map_or("", |(_, digits)| digits);
    let image = storage.image(digits);
    let run = SKOPEO.run(request.environment)?.args(["inspect", "--raw", "--config", "--"]).arg(&image);
    let place = storage.graph_root();
    let place = place.display();
    let configuration = match run.watched(SLICE, &mut || !request.interrupted.load(Ordering::Relaxed)) {
        Ok(Some(configuration)) => configuration,
        Ok(None) => return Err(Failure::Interrupted),
        Err(error) if ABSENT.iter().any(|text| error.stderr.contains(text)) => {
            return Err(Failure::Permanent(format!(
                "the image {id} is not in the host's storage of containers `{place}`: \
                 fetch it with `podman pull` or `skopeo copy`"
            )));
        }
        Err(error) => {
            let words = without_secrets(&last_words(&error.stderr));
            let reason = if words.is_empty() { format!("it failed with {}", error.status) } else { words };
            return Err(Failure::Permanent(format!(
                "cannot look for the image {id} in `{place}`: skopeo: {reason}"
            )));
        }
    };
    let mut hasher = id.algorithm().hasher();
    hasher.update(&configuration);
    let found = hasher.finish();
    if found == *id {
        return Ok(());
    }
    let error = ModuleError::invalid(format!(
        "the image {id} in `{place}` is damaged: its configuration has the id {found}"
    ));
    Err(Failure::permanent(&error))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::atomic::AtomicBool;

    use kiln_api::module::Kind;
    use kiln_testkit::host::{is_root, provided};
    use kiln_testkit::registry::{ARCHITECTURE, Layout, SKOPEO as NEED};
    use serde_json::{Map, json};
    use tempfile::TempDir;

    use super::*;
    use crate::schema_agreement::Agreement;

    const ID: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    /// A host with a storage of its own.
    struct Host {
        root: TempDir,
        environment: BTreeMap<String, String>,
        interrupted: AtomicBool,
    }

    impl Host {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a directory");
            let configuration = root.path().join("etc/containers/storage.conf");
            fs::create_dir_all(configuration.parent().expect("a directory")).expect("made");
            let place = root.path().display();
            let text = format!(
                "[storage]\ndriver = \"vfs\"\ngraphroot = \"{place}/graph\"\nrunroot = \"{place}/run\"\n"
            );
            fs::write(configuration, text).expect("written");
            let environment = [("PATH", "/usr/bin:/bin".to_owned()), ("HOME", place.to_string())];
            let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
            Self { root, environment, interrupted: AtomicBool::new(false) }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        /// Puts an image into the storage, and says its id.
        fn store(&self) -> String {
            // An archive without files.
            let layout = Layout::write(&self.path("layout"), &[(ARCHITECTURE, &[&[0; 1024]])]);
            let place = self.root.path().display();
            let mut command = Command::new("skopeo");
            command.args(["copy", "--quiet"]).arg(format!("oci:{place}/layout"));
            command.arg(format!("containers-storage:[vfs@{place}/graph+{place}/run]localhost/image:1"));
            let output = command.output().expect("skopeo");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            layout.images[0].id.clone()
        }

        fn look(&self, ids: &[&str]) -> Vec<(bool, Option<String>)> {
            let items: Map<_, _> = ids.iter().map(|id| ((*id).to_owned(), json!({}))).collect();
            let request = DownloadRequest {
                items: &items,
                options: &json!({}),
                cache: &self.path("sources"),
                environment: &self.environment,
                parallel: None,
                interrupted: &self.interrupted,
                room: &|_| Ok(()),
            };
            let results = download(&request, &|_| (), self.root.path());
            results.into_iter().map(|result| (result.cached, result.error)).collect()
        }
    }

    #[test]
    fn schema() {
        let agreement = || Agreement::of(Kind::Source, ContainersStorage.name(), ContainersStorage.schema());
        agreement().member("items").accepts([json!({}), json!({ID: {}})]).refuses([
            json!([]),
            json!({"x": {}}),
            json!({ID: {"name": "x"}}),
            json!({ID: "x"}),
        ]);
        agreement().member("digests").refuses([json!({})]);
    }

    #[test]
    fn root_images_are_looked_for_in_the_storage_that_is_configured() {
        if !is_root() || !provided("looking for images", &[NEED]) {
            return;
        }
        let host = Host::new();
        let id = host.store();
        let results = host.look(&[ID, &id, "sha256:00"]);
        let place = host.path("graph");
        let absent =
            format!("the image {ID} is not in the host's storage of containers `{}`: ", place.display());
        assert!(results[0].1.as_deref().is_some_and(|error| error.starts_with(&absent)), "{results:?}");
        assert_eq!(results[1], (true, None));
        assert!(results[2].1.as_deref().is_some_and(|error| error.contains("is no checksum")), "{results:?}");
        assert!(!ContainersStorage.cached(&host.path("sources"), &id), "nothing is in the cache");
        assert!(!host.path("sources").exists());
    }

    #[test]
    fn what_keeps_it_from_looking_is_said() {
        let mut host = Host::new();
        host.environment.insert("PATH".to_owned(), "/nowhere".to_owned());
        let error = host.look(&[ID])[0].1.clone().expect("it fails");
        assert!(error.starts_with("the program `skopeo` is not installed"), "{error}");
        fs::write(host.path("etc/containers/storage.conf"), "[storage").expect("written");
        let error = host.look(&[ID])[0].1.clone().expect("it fails");
        assert!(error.contains("is not valid TOML"), "{error}");
        let host = Host::new();
        host.interrupted.store(true, Ordering::Relaxed);
        if provided("being interrupted", &[NEED]) {
            assert_eq!(host.look(&[ID]), [(false, Some("interrupted".to_owned()))]);
        }
        let text = "[storage]\ndriver = \"no-driver\"\ngraphroot = \"/nowhere\"\nrunroot = \"/nowhere\"\n";
        fs::write(host.path("etc/containers/storage.conf"), text).expect("written");
        host.interrupted.store(false, Ordering::Relaxed);
        if provided("a storage that cannot be used", &[NEED]) {
            let error = host.look(&[ID])[0].1.clone().expect("it fails");
            assert!(
                error.starts_with(&format!("cannot look for the image {ID} in `/nowhere`: skopeo: ")),
                "{error}"
            );
        }
    }
}
