//! Sources: modules that fetch content into the cache, on the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value};

use crate::module::ModuleSchema;

/// What a source is asked for.
pub struct DownloadRequest<'a> {
    /// The items to fetch, by checksum (`sha256:…`). Only what the build needs, unless everything was asked for.
    pub items: &'a Map<String, Value>,
    /// The source's options; for format-1 manifests its whole description.
    pub options: &'a Value,
    /// The cache's `sources` directory; content goes to `sources/CONTENT-TYPE/CHECKSUM`.
    pub cache: &'a Path,
    /// The environment of the program: proxies, certificates. Modules do not read the process environment.
    pub environment: &'a BTreeMap<String, String>,
    /// How many items may be fetched at the same time; `None` leaves it to the source.
    pub parallel: Option<usize>,
    /// Set when the run is interrupted: stop soon and report what is missing.
    pub interrupted: &'a AtomicBool,
    /// Asks, before content of so many bytes is written (0 if that is not known), whether there is room for it; the
    /// answer may be why there is none.
    pub room: &'a (dyn Fn(u64) -> Result<(), String> + Sync),
}

/// What happens during a download. Sent from any thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownloadEvent<'a> {
    /// An item's transfer begins; its size if it is known.
    Started {
        /// The item's checksum.
        item: &'a str,
        /// The URL or a name for people.
        origin: &'a str,
        /// Bytes to come.
        size: Option<u64>,
    },
    /// So many more bytes are there, those that an earlier run has left included. What has to be fetched again, and what
    /// there is of an item that fails, is taken back by a negative number.
    Progress {
        /// The item's checksum.
        item: &'a str,
        /// Bytes since the last event.
        bytes: i64,
    },
    /// A try failed and another one follows, perhaps after a pause.
    Retry {
        /// The item's checksum.
        item: &'a str,
        /// Why the try failed.
        reason: &'a str,
    },
    /// The item is in the cache and its checksum is right.
    Finished {
        /// The item's checksum.
        item: &'a str,
        /// Whether it was there already.
        cached: bool,
    },
    /// The item could not be had.
    Failed {
        /// The item's checksum.
        item: &'a str,
        /// Why.
        reason: &'a str,
    },
}

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemResult {
    /// The item's checksum.
    pub checksum: String,
    /// Whether it was in the cache already.
    pub cached: bool,
    /// Why it could not be had; `None` is success.
    pub error: Option<String>,
}

/// What a source is asked for when content goes from one cache to another.
pub struct CopyRequest<'a> {
    /// The items to copy, by checksum.
    pub items: &'a Map<String, Value>,
    /// The source's options; for format-1 manifests its whole description.
    pub options: &'a Value,
    /// The `sources` directory that has the content.
    pub from: &'a Path,
    /// The `sources` directory of the other cache.
    pub to: &'a Path,
    /// The environment of the program. Modules do not read the process environment.
    pub environment: &'a BTreeMap<String, String>,
    /// Set when the run is interrupted: stop soon and report what is missing.
    pub interrupted: &'a AtomicBool,
}

/// A module that fetches content.
pub trait Source: Sync {
    /// The module's name, as `org.osbuild.curl`.
    fn name(&self) -> &'static str;
    /// Schemas: `options` is the schema of the whole description (`{items, options}`).
    fn schema(&self) -> ModuleSchema;
    /// The directory below `sources` that this source fills, as `org.osbuild.files`.
    fn content_type(&self) -> &'static str;
    /// Whether an item is in the cache.
    fn cached(&self, cache: &Path, checksum: &str) -> bool {
        cache.join(self.content_type()).join(checksum).exists()
    }
    /// Where below `sources` an item is or will be: what must not be evicted while it is needed.
    fn place(&self, checksum: &str) -> PathBuf {
        Path::new(self.content_type()).join(checksum)
    }
    /// How many bytes an item is known to have, from its description alone.
    fn expected_size(&self, _description: &Value) -> Option<u64> {
        None
    }
    /// Fetches what is not there yet. One result per item, in the order of the items; failures do not stop
    /// the other items.
    fn download(
        &self,
        request: &DownloadRequest<'_>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult>;
    /// Copies what is in one cache to another one, verified like a download. One result per item, in the order of the
    /// items; `cached` says that it was there already. Failures do not stop the other items.
    fn copy(&self, request: &CopyRequest<'_>, events: &(dyn Fn(DownloadEvent<'_>) + Sync))
    -> Vec<ItemResult>;
}
