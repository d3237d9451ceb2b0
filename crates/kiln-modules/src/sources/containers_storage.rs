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

/// What `skopeo` says of an image that is not there, in the words of several of its versions.
const ABSENT: [&str; 2] = ["identifier is not an image", "does not resolve to an image ID"];

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
