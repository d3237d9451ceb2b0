//! Downloads: one source module fetches what one pipeline needs.

use std::time::Instant;

use kiln_api::module::Kind;
use kiln_api::source::{DownloadEvent, DownloadRequest, ItemResult, Source};
use kiln_store::object::ObjectError;
use serde_json::{Map, Value};

use super::{Context, FetchResult, RunError};
use crate::chain;
use crate::event::{Event, Events};
use crate::host::{External, ExternalSource, Pump};
use crate::index::Origin;
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
    let source = manifest.sources.get(&fetch.source);
    let program = match context.index.origin(Kind::Source, &fetch.source) {
        Some(Origin::Library(path)) => Some(path),
        _ => None,
    };
    let module = context.index.modules().source(&fetch.source);
    let Some(source) = source.filter(|_| program.is_some() || module.is_some()) else {
        return Err(RunError::UnknownModule { kind: "source", name: fetch.source.clone() });
    };
    let items: Map<String, Value> = fetch
        .items
        .iter()
        .filter_map(|item| Some((item.checksum.clone(), source.items.get(&item.checksum)?.to_value())))
        .collect();
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
        context.store.cache().expect_downloads().map_err(ObjectError::from)?;
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
        results.extend(match (program, context.index.library(), module) {
            (Some(program), Some(library), _) => Pump::new().during(events, |log| {
                let id = format!("source/{name}");
                let interrupted = context.interrupted;
                let external = External { id, program, library, log: log.clone(), interrupted };
                ExternalSource(external).download(&request, &report)
            }),
            (.., Some(module)) => module.download(&request, &report),
            _ => Vec::new(),
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
