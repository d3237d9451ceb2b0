//! `org.osbuild.curl`: downloads files from URLs.
//!
//! [`item`] is what the manifest says; everything else is the work of [`web`].

use std::path::Path;

use kiln_api::module::ModuleSchema;
use kiln_api::source::{CopyRequest, DownloadEvent, DownloadRequest, ItemResult, Source};
use serde_json::Value;

use super::copy::copy_files;
use super::web::{self, Patience, Web};

pub(super) mod item;

pub(crate) struct Curl;

impl Source for Curl {
    fn name(&self) -> &'static str {
        "org.osbuild.curl"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema::of::<item::Description>()
    }

    fn content_type(&self) -> &'static str {
        super::FILES
    }

    fn cached(&self, cache: &Path, checksum: &str) -> bool {
        web::is_file_cached(cache, checksum)
    }

    fn expected_size(&self, description: &Value) -> Option<u64> {
        item::stated_size(description)
    }

    fn download(
        &self,
        request: &DownloadRequest<'_>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult> {
        download(request, events, &Patience::default())
    }

    fn copy(
        &self,
        request: &CopyRequest<'_>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult> {
        copy_files(self.content_type(), request, events)
    }
}

/// Downloads with another patience than usual, as tests do.
pub(super) fn download(
    request: &DownloadRequest<'_>,
    events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    patience: &Patience<'_>,
) -> Vec<ItemResult> {
    let web = Web::new(request, events, patience);
    let mut files = Vec::new();
    for (index, (key, description)) in request.items.iter().enumerate() {
        match item::parse(key, description) {
            Ok(wanted) if web.has(index, &wanted.checksum, wanted.size) => {}
            Ok(wanted) => files.push((index, wanted)),
            Err(reason) => web.report(index, Err(reason)),
        }
    }
    web.fetch(files);
    web.finish()
}
