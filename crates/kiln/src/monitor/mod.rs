//! Monitors: what callers of `osbuild` follow a build by.
//!
//! They are the reference's, with the same names and the same words; programs read them. A monitor is told of the
//! engine's events in the reference's terms: a source or a pipeline begins, a stage begins, something was written,
//! a source or a stage has a result, a source or a pipeline ends.
//!
//! Whatever becomes of the reader, the build goes on: see [`Descriptor`].

mod descriptor;
mod download;
mod json_seq;
mod log;

use std::sync::{Mutex, PoisonError};

use clap::ValueEnum;
use kiln_api::source::{DownloadEvent, ItemResult};
use kiln_engine::event::{Event, StageResult};
use kiln_engine::index::Index;
use kiln_engine::manifest::json::Json;
use kiln_engine::manifest::{Manifest, Pipeline, Source, Stage};

pub(crate) use descriptor::Descriptor;
use json_seq::JsonSeqMonitor;
use log::LogMonitor;

/// The monitors there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Reports nothing
    #[value(name = "NullMonitor")]
    Null,
    /// Reports what is done and written, for people
    #[value(name = "LogMonitor")]
    Log,
    /// Reports everything as a sequence of JSON records (RFC 7464), for programs
    #[value(name = "JSONSeqMonitor")]
    JsonSeq,
}

/// The origin of what the program itself says.
const PROGRAM: &str = "osbuild.main_cli";

/// The source whose downloads are reported one by one, as the reference's does.
const REPORTING_SOURCE: &str = "org.osbuild.curl";

/// What a monitor is told.
trait Observer: Send {
    /// A source begins, and fetches so many items, and so many bytes as far as that is known.
    fn begin_source(&mut self, _source: &Source, _items: usize, _bytes: u64) {}
    fn begin_pipeline(&mut self, _pipeline: &Pipeline) {}
    fn begin_stage(&mut self, _stage: &Stage) {}
    /// Something was written: by a stage, a source (which has no origin of its own) or the program.
    fn log(&mut self, _text: &str, _origin: Option<&str>) {}
    /// Something happened to an item of the source.
    fn download(&mut self, _event: &DownloadEvent<'_>) {}
    fn source_result(&mut self, _source: &str, _results: &[ItemResult]) {}
    fn stage_result(&mut self, _result: &StageResult) {}
    /// A source or a pipeline has ended.
    fn finish(&mut self, _name: &str) {}
}

/// The monitor that reports nothing.
struct NullMonitor;

impl Observer for NullMonitor {}

/// The monitor of a build.
pub(crate) struct Monitor<'a> {
    manifest: &'a Manifest,
    observer: Mutex<Box<dyn Observer + 'a>>,
}

impl<'a> Monitor<'a> {
    /// A monitor that writes to a descriptor; without one it reports nothing. `steps` is how many sources and
    /// pipelines there will be.
    pub(crate) fn new(
        target: Option<(Kind, Descriptor)>,
        manifest: &'a Manifest,
        index: &'a Index,
        host_runner: &'a str,
        steps: usize,
    ) -> Self {
        let observer: Box<dyn Observer + 'a> = match target {
            None | Some((Kind::Null, _)) => Box::new(NullMonitor),
            Some((Kind::Log, out)) => Box::new(LogMonitor::new(out, index, host_runner)),
            Some((Kind::JsonSeq, out)) => Box::new(JsonSeqMonitor::new(out, steps)),
        };
        Self { manifest, observer: Mutex::new(observer) }
    }

    /// Reports what the program itself has to say.
    pub(crate) fn say(&self, text: &str) {
        self.tell(|observer| observer.log(text, Some(PROGRAM)));
    }

    /// Reports an event of the engine. Events may come from any thread.
    pub(crate) fn event(&self, event: &Event<'_>) {
        match event {
            Event::FetchStarted { source, items, bytes, .. } => {
                if let Some(source) = self.manifest.sources.get(*source) {
                    self.tell(|observer| observer.begin_source(source, *items, *bytes));
                }
            }
            Event::Download { event, .. } => self.download(event),
            Event::FetchFinished { source, results, .. } => self.tell(|observer| {
                observer.source_result(source, results);
                observer.finish(source);
            }),
            Event::PipelineStarted { pipeline, .. } => {
                if let Some(pipeline) = self.manifest.pipelines.get(*pipeline) {
                    self.tell(|observer| observer.begin_pipeline(pipeline));
                }
            }
            Event::StageStarted { pipeline, id, .. } => {
                let pipeline = self.manifest.pipelines.get(*pipeline);
                let stage =
                    pipeline.and_then(|pipeline| pipeline.stages.iter().find(|stage| stage.id == **id));
                if let Some(stage) = stage {
                    self.tell(|observer| observer.begin_stage(stage));
                }
            }
            Event::Output { stage, text, .. } => {
                self.tell(|observer| observer.log(text, Some(&origin_of(stage))));
            }
            Event::Service { service, text } => {
                self.tell(|observer| observer.log(&format!("{service}: {text}\n"), None));
            }
            Event::StageFinished { result, .. } => self.tell(|observer| {
                // The reference reports the end of the output too: what was left in the pipe, which is nothing.
                observer.log("", Some(&origin_of(&result.name)));
                observer.stage_result(result);
            }),
            Event::PipelineFinished { pipeline, .. } => self.tell(|observer| observer.finish(pipeline)),
            Event::Waiting { .. }
            | Event::ShellStarted { .. }
            | Event::ExportStarted { .. }
            | Event::ExportFinished { .. }
            | Event::Warning { .. } => {}
        }
    }

    fn download(&self, event: &DownloadEvent<'_>) {
        self.tell(|observer| observer.download(event));
        let DownloadEvent::Finished { item, cached: false } = event else { return };
        let source = self.manifest.sources.get(REPORTING_SOURCE);
        let Some(description) = source.and_then(|source| source.items.get(*item)) else { return };
        if let Some(url) = description.as_str().or_else(|| description.get("url").and_then(Json::as_str)) {
            let line = format!("source/{REPORTING_SOURCE} ({REPORTING_SOURCE}): Downloaded {url}\n");
            self.tell(|observer| observer.log(&line, None));
        }
    }

    fn tell(&self, what: impl FnOnce(&mut dyn Observer)) {
        what(self.observer.lock().unwrap_or_else(PoisonError::into_inner).as_mut());
    }
}

fn origin_of(stage: &str) -> String {
    format!("stages/{stage}")
}
