//! Sources: each fetches content into the cache, on the host.

use kiln_api::source::Source;

mod arriving;
mod containers_storage;
mod content;
mod copy;
mod curl;
mod inline;
mod librepo;
mod ostree;
mod secrets;
mod skopeo;
mod skopeo_index;
mod tool;
mod web;

/// The content type of plain files.
const FILES: &str = "org.osbuild.files";

/// All native sources, sorted by name.
pub(crate) const SOURCES: &[&dyn Source] = &[
    &containers_storage::ContainersStorage,
    &curl::Curl,
    &inline::Inline,
    &librepo::Librepo,
    &ostree::Ostree,
    &skopeo::Skopeo,
    &skopeo_index::SkopeoIndex,
];
