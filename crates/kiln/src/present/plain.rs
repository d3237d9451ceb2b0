//! Progress as lines: what begins and ends, for logs and pipes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kiln_api::source::DownloadEvent;
use kiln_engine::event::Event;
use kiln_engine::plan::{bytes, count};

use super::{say, seconds};
use crate::downloads::Downloads;

/// How often a long download says how far it is.
const INTERVAL: Duration = Duration::from_secs(5);

/// How many items are named that take long.
const NAMED: usize = 4;

/// Prints lines to standard error.
#[derive(Default)]
pub(crate) struct Plain {
    downloads: Mutex<HashMap<usize, Fetch>>,
}

/// A download that runs.
struct Fetch {
    source: String,
    downloads: Downloads,
    last: Instant,
}

impl Plain {
    pub(super) fn event(&self, event: &Event<'_>) {
        match event {
            Event::FetchStarted { fetch, source, pipeline, items, bytes: total } => {
                if *items > 0 {
                    let whom = pipeline.map(|name| format!(" for `{name}`")).unwrap_or_default();
                    let size = if *total > 0 { format!(", {}", bytes(*total)) } else { String::new() };
                    say(format_args!("fetch {source}: {}{size}{whom}", count(*items, "item")));
                }
                let last = Instant::now();
                let downloads = Downloads::new(*items, *total, last);
                self.downloads().insert(*fetch, Fetch { source: (*source).to_owned(), downloads, last });
            }
            Event::Download { fetch, event } => self.download(*fetch, event),
            Event::FetchFinished { fetch, source, failed, duration, .. } => {
                let fetch = self.downloads().remove(fetch);
                let done = fetch.map_or(0, |fetch| fetch.downloads.state(Instant::now()).arrived);
                if *failed > 0 {
                    say(format_args!("fetch {source}: {} failed", count(*failed, "item")));
                } else if done > 0 {
                    say(format_args!("fetch {source}: done, {} in {}", bytes(done), seconds(*duration)));
                }
            }
            Event::Waiting { pipeline } => {
                say(format_args!("{pipeline}: waiting for another program that builds it"));
            }
            Event::PipelineStarted { pipeline, id, stages } => {
                say(format_args!("{pipeline}: {} ({id})", count(*stages, "stage")));
            }
            Event::StageStarted { pipeline, index, stage, .. } => {
                say(format_args!("{pipeline}: [{}] {stage}", index + 1));
            }
            Event::StageFinished { pipeline, result } => {
                if !result.success {
                    let reason = result.reason.as_deref().unwrap_or("it failed");
                    say(format_args!("{pipeline}: {} failed: {reason}", result.name));
                }
            }
            Event::PipelineFinished { pipeline, success, duration } => {
                let word = if *success { "done" } else { "failed" };
                say(format_args!("{pipeline}: {word} in {}", seconds(*duration)));
            }
            Event::ExportFinished { name, duration } => {
                say(format_args!("export {name}: {}", seconds(*duration)));
            }
            Event::Warning { message } => say(format_args!("warning: {message}")),
            // What went wrong is in the error.
            Event::Output { .. }
            | Event::Service { .. }
            | Event::ShellStarted { .. }
            | Event::ExportStarted { .. } => {}
        }
    }

    fn download(&self, fetch: usize, event: &DownloadEvent<'_>) {
        match event {
            DownloadEvent::Retry { reason, .. } => say(format_args!("fetch: trying again: {reason}")),
            DownloadEvent::Failed { item, reason } => say(format_args!("fetch: {item}: {reason}")),
            DownloadEvent::Started { .. }
            | DownloadEvent::Progress { .. }
            | DownloadEvent::Finished { .. } => {}
        }
        let now = Instant::now();
        let mut all = self.downloads();
        let Some(fetch) = all.get_mut(&fetch) else { return };
        fetch.downloads.event(event, now);
        if now.duration_since(fetch.last) >= INTERVAL {
            fetch.last = now;
            say(format_args!("fetch {}: {}", fetch.source, fetch.downloads.words(now)));
            for (name, state) in fetch.downloads.running(INTERVAL, now).take(NAMED) {
                say(format_args!("  {name}: {}", state.words()));
            }
        }
    }

    fn downloads(&self) -> MutexGuard<'_, HashMap<usize, Fetch>> {
        self.downloads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
