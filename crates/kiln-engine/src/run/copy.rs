//! Copies what a manifest's sources have fetched to another cache.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use kiln_api::module::Modules;
use kiln_api::source::{CopyRequest, DownloadEvent, ItemResult, Source};
use serde_json::Value;

use super::fetch::{Place, described, place_of};
use super::{FetchResult, RunError};
use crate::event::{Event, Events};
use crate::host::{External, ExternalSource, Pump};
use crate::index::Index;
use crate::manifest::json::to_map;
use crate::manifest::{Id, Manifest};
use crate::plan::{Cached, Fetch, PlanError, Request, plan};

/// What copying between caches works with.
pub struct CopyContext<'a> {
    /// The modules there are.
    pub index: &'a Index,
    /// The `sources` directory that has the content.
    pub from: &'a Path,
    /// The `sources` directory of the other cache.
    pub to: &'a Path,
    /// The environment that sources see.
    pub environment: &'a BTreeMap<String, String>,
    /// Set when the user interrupts.
    pub interrupted: &'a AtomicBool,
}

/// Finds what a build of some pipelines would need if nothing was there yet; without any, all items of all sources.
pub fn sources_of(
    manifest: &Manifest,
    modules: &Modules,
    pipelines: &[String],
) -> Result<Vec<Fetch>, PlanError> {
    struct Nothing;
    impl Cached for Nothing {
        fn object(&self, _: &Id, _: &str) -> bool {
            false
        }
        fn item(&self, _: &str, _: &str) -> bool {
            false
        }
    }
    let request =
        Request { builds: pipelines.to_vec(), everything: pipelines.is_empty(), ..Request::default() };
    Ok(plan(manifest, modules, &request, &Nothing)?.fetches)
}

/// Copies items from one cache to the other. What fails stops nobody else.
pub fn copy_sources(
    context: &CopyContext<'_>,
    manifest: &Manifest,
    fetches: &[Fetch],
    events: Events<'_>,
) -> Result<Vec<FetchResult>, RunError> {
    fetches.iter().enumerate().map(|(index, fetch)| copy(context, manifest, index, fetch, events)).collect()
}

fn copy(
    context: &CopyContext<'_>,
    manifest: &Manifest,
    index: usize,
    fetch: &Fetch,
    events: Events<'_>,
) -> Result<FetchResult, RunError> {
    let start = Instant::now();
    let (source, place) = place_of(context.index, manifest, &fetch.source)?;
    let (name, items) = (fetch.source.as_str(), described(source, fetch));
    let bytes = fetch.items.iter().filter_map(|item| item.size).sum();
    let pipeline = fetch.pipeline.as_deref();
    events(Event::FetchStarted { fetch: index, source: name, pipeline, items: items.len(), bytes });
    let request = CopyRequest {
        items: &items,
        options: &Value::Object(to_map(&source.options)),
        from: context.from,
        to: context.to,
        environment: context.environment,
        interrupted: context.interrupted,
    };
    let report = |event: DownloadEvent<'_>| events(Event::Download { fetch: index, event });
    let results: Vec<ItemResult> = match place {
        Place::Library { program, library } => Pump::new().during(events, |log| {
            let id = format!("source/{name}");
            let interrupted = context.interrupted;
            let external = External { id, program, library, log: log.clone(), interrupted };
            ExternalSource(external).copy(&request, &report)
        }),
        Place::Native(module) => module.copy(&request, &report),
    };
    let failed = results.iter().filter(|result| result.error.is_some()).count();
    let duration = start.elapsed();
    events(Event::FetchFinished { fetch: index, source: name, failed, results: &results, duration });
    Ok(FetchResult { source: fetch.source.clone(), results, duration })
}
