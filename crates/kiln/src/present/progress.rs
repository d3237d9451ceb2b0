//! Live progress on a terminal: one line for the downloads, one for each running pipeline with its stage and the
//! last line of its output.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kiln_api::source::DownloadEvent;
use kiln_engine::event::Event;

use super::seconds;

/// How often the picture is renewed.
const TICK: Duration = Duration::from_millis(100);

/// Draws on standard error.
pub(crate) struct Progress {
    bars: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    download: Option<ProgressBar>,
    pipelines: HashMap<String, Pipeline>,
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
            Event::FetchStarted { source, pipeline, items, bytes, .. } if *items > 0 => {
                let template = "{prefix:>12.cyan} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
                let bar =
                    self.bars.add(ProgressBar::new(*bytes).with_style(style(template)).with_prefix("fetch"));
                bar.set_message(format!(
                    "{} {}",
                    source.trim_start_matches("org.osbuild."),
                    pipeline.unwrap_or_default()
                ));
                bar.enable_steady_tick(TICK);
                state.download = Some(bar);
            }
            Event::FetchStarted { .. } => {}
            Event::Download { event, .. } => self.download(&mut state, event),
            Event::FetchFinished { .. } => {
                if let Some(bar) = state.download.take() {
                    bar.finish_and_clear();
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

    fn download(&self, state: &mut State, event: &DownloadEvent<'_>) {
        let Some(bar) = &state.download else { return };
        match event {
            DownloadEvent::Progress { bytes, .. } => {
                let position = bar.position().saturating_add_signed(*bytes);
                // Items of unknown size are counted as they come.
                if bar.length().is_some_and(|length| length < position) {
                    bar.set_length(position);
                }
                bar.set_position(position);
            }
            DownloadEvent::Retry { reason, .. } => self.note(&format!("fetch: trying again: {reason}")),
            DownloadEvent::Failed { item, reason } => {
                self.note(&format!("fetch: {item}: {reason}"));
            }
            DownloadEvent::Started { .. } | DownloadEvent::Finished { .. } => {}
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
