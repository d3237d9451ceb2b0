//! Downloads: one source module fetches what one pipeline needs.

use std::path::PathBuf;
use std::time::Instant;

use kiln_api::module::Kind;
use kiln_api::source::{DownloadEvent, DownloadRequest, ItemResult, Source};
use kiln_store::object::ObjectError;
use serde_json::{Map, Value};

use super::{Context, FetchResult, RunError};
use crate::chain;
use crate::event::{Event, Events};
use crate::host::{External, ExternalSource, Pump};
use crate::index::{Index, Library, Origin};
use crate::manifest::Manifest;
use crate::manifest::json::to_map;
use crate::plan::Fetch;

/// Carries out the download with that index in the plan; if asked to, reports what was in the cache too.
pub(super) fn fetch(
    context: &Context<'_>,
    manifest: &Manifest,
    index: usize,
    fetch: &Fetch,
    report_cached: bool,
    events: Events<'_>,
) -> Result<FetchResult, RunError> {
    let start = Instant::now();
    let (source, place) = place_of(context.index, manifest, &fetch.source)?;
    let items = described(source, fetch);
    let name = fetch.source.as_str();
    let bytes = fetch.items.iter().filter_map(|item| item.size).sum();
    let cache = context.store.cache();
    if !items.is_empty()
        && let Some(full) = cache.make_free(bytes).map_err(ObjectError::from)?
    {
        return Err(RunError::DiskFull(full));
    }
    events(Event::FetchStarted {
        fetch: index,
        source: name,
        pipeline: fetch.pipeline.as_deref(),
        items: items.len(),
        bytes,
    });
    let present = fetch.present.iter().filter(|_| report_cached);
    let mut results: Vec<ItemResult> = present
        .map(|checksum| ItemResult { checksum: checksum.clone(), cached: true, error: None })
        .collect();
    if !items.is_empty() {
        let content_type = match &place {
            Place::Native(module) => Some(module.content_type()),
            Place::Library { .. } => None,
        };
        cache.expect_downloads(content_type).map_err(ObjectError::from)?;
        let request = DownloadRequest {
            items: &items,
            options: &Value::Object(to_map(&source.options)),
            cache: &context.store.sources_dir(),
            environment: context.environment,
            parallel: context.downloads,
            interrupted: context.interrupted,
            room: &|bytes| match cache.make_free(bytes) {
                Ok(None) => Ok(()),
                Ok(Some(full)) => Err(format!("too little room: {full}")),
                Err(error) => Err(chain(&error)),
            },
        };
        let report = |event: DownloadEvent<'_>| events(Event::Download { fetch: index, event });
        results.extend(match place {
            Place::Library { program, library } => Pump::new().during(events, |log| {
                let id = format!("source/{name}");
                let interrupted = context.interrupted;
                let external = External { id, program, library, log: log.clone(), interrupted };
                ExternalSource(external).download(&request, &report)
            }),
            Place::Native(module) => module.download(&request, &report),
        });
    }
    let failed = results.iter().filter(|result| result.error.is_some()).count();
    let duration = start.elapsed();
    events(Event::FetchFinished { fetch: index, source: name, failed, results: &results, duration });
    if failed > 0 && context.is_interrupted() {
        return Err(RunError::Interrupted);
    }
    Ok(FetchResult { source: fetch.source.clone(), results, duration: start.elapsed() })
}

/// Where a source's module is.
pub(super) enum Place<'a> {
    Native(&'static dyn Source),
    Library { program: PathBuf, library: &'a Library },
}

/// Finds a source of a manifest and its module.
pub(super) fn place_of<'a>(
    index: &'a Index,
    manifest: &'a Manifest,
    name: &str,
) -> Result<(&'a crate::manifest::Source, Place<'a>), RunError> {
    let native = || index.modules().source(name).map(Place::Native);
    let place = match (index.origin(Kind::Source, name), index.library()) {
        (Some(Origin::Library(program)), Some(library)) => Some(Place::Library { program, library }),
        _ => native(),
    };
    let unknown = || RunError::UnknownModule { kind: "source", name: name.to_owned() };
    manifest.sources.get(name).zip(place).ok_or_else(unknown)
}

/// The items of a download as the manifest describes them.
pub(super) fn described(source: &crate::manifest::Source, fetch: &Fetch) -> Map<String, Value> {
    let items = fetch.items.iter();
    items
        .filter_map(|item| Some((item.checksum.clone(), source.items.get(&item.checksum)?.to_value())))
        .collect()
}
