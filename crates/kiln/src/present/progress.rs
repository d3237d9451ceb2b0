//! Live progress on a terminal: one line for the downloads and for each of them that takes long, one for each running pipeline with its stage and the
//! last line of its output.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kiln_api::source::DownloadEvent;
use kiln_engine::event::Event;

use super::seconds;
use crate::downloads::Downloads;

/// How often the picture is renewed.
const TICK: Duration = Duration::from_millis(100);
/// An item that takes longer has a line of its own.
const LONG: Duration = Duration::from_secs(1);
/// How many items have a line at the same time.
const NAMED: usize = 4;

/// Draws on standard error.
pub(crate) struct Progress {
    bars: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fetches: HashMap<usize, Fetch>,
    pipelines: HashMap<String, Pipeline>,
}

/// A download that runs: a line for all of it, and one for each item that takes long.
struct Fetch {
    downloads: Downloads,
    bar: ProgressBar,
    items: Vec<ProgressBar>,
    drawn: Instant,
}

struct Pipeline {
    bar: ProgressBar,
    stage: String,
    /// The line that has not ended yet.
    line: String,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { bars: MultiProgress::new(), state: Mutex::new(State::default()) }
    }

    /// A line that stays, above the live part.
    pub(super) fn note(&self, line: &str) {
        // A terminal that cannot be written to shows nothing anyway.
        let _ = self.bars.println(line);
    }

    pub(super) fn finish(&self) {
        let _ = self.bars.clear();
    }

    pub(super) fn event(&self, event: &Event<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::FetchStarted { fetch, source, pipeline, items, bytes } if *items > 0 => {
                let bar = ProgressBar::new(*bytes).with_style(style("{prefix:>12.cyan} {bar:20} {wide_msg}"));
                let source = source.trim_start_matches("org.osbuild.");
                let bar = self.bars.add(bar.with_prefix("fetch"));
                bar.set_message(format!("{source} {}", pipeline.unwrap_or_default()));
                bar.enable_steady_tick(TICK);
                let drawn = Instant::now();
                let downloads = Downloads::new(*items, *bytes, drawn);
                state.fetches.insert(*fetch, Fetch { downloads, bar, items: Vec::new(), drawn });
            }
            Event::FetchStarted { .. } => {}
            Event::Download { fetch, event } => self.download(&mut state, *fetch, event),
            Event::FetchFinished { fetch, .. } => {
                if let Some(fetch) = state.fetches.remove(fetch) {
                    fetch.items.iter().chain([&fetch.bar]).for_each(ProgressBar::finish_and_clear);
                }
            }
            Event::Waiting { pipeline } => {
                self.note(&format!("{pipeline}: waiting for another program that builds it"));
            }
            Event::PipelineStarted { pipeline, stages, .. } => {
                let template = "{prefix:>12.green} {spinner} [{pos}/{len}] {elapsed} {wide_msg}";
                let length = u64::try_from(*stages).unwrap_or(0);
                let bar =
                    ProgressBar::new(length).with_style(style(template)).with_prefix((*pipeline).to_owned());
                let bar = self.bars.add(bar);
                bar.enable_steady_tick(TICK);
                let entry = Pipeline { bar, stage: String::new(), line: String::new() };
                state.pipelines.insert((*pipeline).to_owned(), entry);
            }
            Event::StageStarted { pipeline, index, stage, .. } => {
                if let Some(entry) = state.pipelines.get_mut(*pipeline) {
                    entry.bar.set_position(u64::try_from(index + 1).unwrap_or(0));
                    entry.bar.set_message((*stage).to_owned());
                    entry.stage = (*stage).to_owned();
                    entry.line.clear();
                }
            }
            Event::Output { pipeline, text, .. } => {
                if let Some(entry) = state.pipelines.get_mut(*pipeline) {
                    entry.output(text);
                }
            }
            Event::StageFinished { pipeline, result } => {
                if !result.success {
                    let reason = result.reason.as_deref().unwrap_or("it failed");
                    self.note(&format!("{pipeline}: {} failed: {reason}", result.name));
                }
            }
            Event::PipelineFinished { pipeline, success, duration } => {
                if let Some(entry) = state.pipelines.remove(*pipeline) {
                    entry.bar.finish_and_clear();
                }
                let word = if *success { "done" } else { "failed" };
                self.note(&format!("{pipeline:>12} {word} in {}", seconds(*duration)));
            }
            Event::ExportStarted { name } => {
                let bar = ProgressBar::new_spinner()
                    .with_style(style("{prefix:>12.cyan} {spinner} {elapsed} {wide_msg}"));
                let bar = self.bars.add(bar.with_prefix("export").with_message((*name).to_owned()));
                bar.enable_steady_tick(TICK);
                let entry = Pipeline { bar, stage: String::new(), line: String::new() };
                state.pipelines.insert(format!("export {name}"), entry);
            }
            Event::ExportFinished { name, duration } => {
                if let Some(entry) = state.pipelines.remove(&format!("export {name}")) {
                    entry.bar.finish_and_clear();
                }
                self.note(&format!("{:>12} {name} in {}", "export", seconds(*duration)));
            }
            Event::Warning { message } => self.note(&format!("warning: {message}")),
            // Whoever wants shells gets lines instead of this.
            Event::Service { .. } | Event::ShellStarted { .. } => {}
        }
    }

    fn download(&self, state: &mut State, fetch: usize, event: &DownloadEvent<'_>) {
        match event {
            DownloadEvent::Retry { reason, .. } => self.note(&format!("fetch: trying again: {reason}")),
            DownloadEvent::Failed { item, reason } => self.note(&format!("fetch: {item}: {reason}")),
            DownloadEvent::Started { .. }
            | DownloadEvent::Progress { .. }
            | DownloadEvent::Finished { .. } => {}
        }
        let now = Instant::now();
        if let Some(fetch) = state.fetches.get_mut(&fetch) {
            fetch.downloads.event(event, now);
            if now.duration_since(fetch.drawn) >= TICK {
                fetch.draw(&self.bars, now);
            }
        }
    }
}

impl Fetch {
    fn draw(&mut self, bars: &MultiProgress, now: Instant) {
        self.drawn = now;
        self.bar.set_length(self.downloads.total());
        self.bar.set_position(self.downloads.state(now).arrived);
        self.bar.set_message(self.downloads.words(now));
        let mut used = 0;
        for (name, state) in self.downloads.running(LONG, now).take(NAMED) {
            if self.items.len() == used {
                let line = ProgressBar::no_length().with_style(style("{prefix:>12} {bar:20} {wide_msg}"));
                let above = self.items.last().unwrap_or(&self.bar);
                let line = bars.insert_after(above, line);
                self.items.push(line);
            }
            if let Some(line) = self.items.get(used) {
                // Without a size the bar stays empty.
                line.set_length(state.total.unwrap_or(u64::MAX));
                line.set_position(state.total.map_or(0, |_| state.arrived));
                line.set_message(format!("{name}: {}", state.words()));
            }
            used += 1;
        }
        for line in self.items.drain(used..) {
            line.finish_and_clear();
        }
    }
}

impl Pipeline {
    fn output(&mut self, text: &str) {
        for part in text.split_inclusive(['\n', '\r']) {
            if self.line.ends_with(['\n', '\r']) {
                self.line.clear();
            }
            self.line.push_str(part);
        }
        let line: String = self.line.trim().chars().filter(|character| !character.is_control()).collect();
        if !line.is_empty() {
            self.bar.set_message(format!("{}: {line}", self.stage));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; a mistake in one shows at the first look.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
