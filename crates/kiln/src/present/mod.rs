//! Presenters: they turn the engine's events and results into what people and programs read.
//!
//! Data goes to standard output, everything else to standard error.

mod invalid;
mod json;
mod plain;
mod progress;
mod summary;
mod table;

use std::fmt;
use std::io::Write as _;

use clap::ValueEnum;
use kiln_engine::event::Event;

pub(crate) use invalid::{fault, invalid};
pub(crate) use json::{add_warnings, result1, result2};
pub(crate) use plain::Plain;
pub(crate) use progress::Progress;
pub(crate) use summary::{MAKE_ROOM, failure, summary};
pub(crate) use table::{Side, ago, entries, table};

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// Live on a terminal, plain lines otherwise
    #[default]
    Auto,
    /// Plain lines
    Plain,
    /// Nothing
    None,
}

/// A receiver of events.
pub(crate) enum Presenter {
    Progress(Progress),
    Plain(Plain),
    Silent,
}

impl Presenter {
    pub(crate) fn new(mode: ProgressMode, terminal: bool) -> Self {
        match mode {
            ProgressMode::Auto if terminal => Self::Progress(Progress::new()),
            ProgressMode::Auto | ProgressMode::Plain => Self::Plain(Plain::default()),
            ProgressMode::None => Self::Silent,
        }
    }

    pub(crate) fn event(&self, event: &Event<'_>) {
        match self {
            Self::Progress(progress) => progress.event(event),
            Self::Plain(plain) => plain.event(event),
            Self::Silent => {}
        }
    }

    /// A line about something before or beside the build.
    pub(crate) fn note(&self, line: impl fmt::Display) {
        match self {
            Self::Progress(progress) => progress.note(&line.to_string()),
            Self::Plain(_) => say(line),
            Self::Silent => {}
        }
    }

    /// Takes live progress off the screen.
    pub(crate) fn finish(&self) {
        if let Self::Progress(progress) = self {
            progress.finish();
        }
    }
}

/// Writes a line to standard error. A reader that has gone is not an error.
pub(crate) fn say(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes a text to standard output. A reader that has gone is not an error.
pub(crate) fn print(text: impl fmt::Display) {
    // In one piece: standard output is flushed line by line, and values come in many small pieces.
    let _ = std::io::stdout().write_all(text.to_string().as_bytes());
}

/// A duration for people: `0.4 s`, `12.3 s`, `3 min 20 s`.
pub(crate) fn seconds(duration: std::time::Duration) -> String {
    let whole = duration.as_secs();
    if whole < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {} s", whole / 60, whole % 60)
    }
}
