//! Progress as lines: what begins and ends, for logs and pipes.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use kiln_api::source::DownloadEvent;
use kiln_engine::event::Event;
use kiln_engine::plan::{bytes, count};

use super::{say, seconds};

/// How often a long download says how far it is.
const INTERVAL: Duration = Duration::from_secs(5);

/// Prints lines to standard error.
#[derive(Default)]
pub(crate) struct Plain {
    download: Mutex<Download>,
}

#[derive(Default)]
struct Download {
    done: i64,
    total: u64,
    last: Option<Instant>,
}

impl Plain {
    pub(super) fn event(&self, event: &Event<'_>) {
        match event {
            Event::FetchStarted { source, pipeline, items, bytes: total, .. } => {
                if *items > 0 {
                    let whom = pipeline.map(|name| format!(" for `{name}`")).unwrap_or_default();
                    let size = if *total > 0 { format!(", {}", bytes(*total)) } else { String::new() };
                    say(format_args!("fetch {source}: {}{size}{whom}", count(*items, "item")));
                }
                if let Ok(mut download) = self.download.lock() {
                    *download = Download { done: 0, total: *total, last: Some(Instant::now()) };
                }
            }
            Event::Download { event, .. } => self.download(event),
            Event::FetchFinished { source, failed, duration, .. } => {
                let done = self.download.lock().map(|download| download.done).unwrap_or_default();
                if *failed > 0 {
                    say(format_args!("fetch {source}: {} failed", count(*failed, "item")));
                } else if done > 0 {
                    let done = bytes(done.unsigned_abs());
                    say(format_args!("fetch {source}: done, {done} in {}", seconds(*duration)));
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

    fn download(&self, event: &DownloadEvent<'_>) {
        match event {
            DownloadEvent::Progress { bytes: arrived, .. } => {
                let Ok(mut download) = self.download.lock() else { return };
                download.done += arrived;
                if download.last.is_some_and(|last| last.elapsed() >= INTERVAL) {
                    download.last = Some(Instant::now());
                    let done = bytes(u64::try_from(download.done).unwrap_or(0));
                    let total = if download.total > 0 {
                        format!(" of {}", bytes(download.total))
                    } else {
                        String::new()
                    };
                    say(format_args!("fetch: {done}{total}"));
                }
            }
            DownloadEvent::Retry { reason, .. } => say(format_args!("fetch: trying again: {reason}")),
            DownloadEvent::Failed { item, reason } => say(format_args!("fetch: {item}: {reason}")),
            DownloadEvent::Started { .. } | DownloadEvent::Finished { .. } => {}
        }
    }
}
