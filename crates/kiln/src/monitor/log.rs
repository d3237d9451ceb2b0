//! The log: a header for each pipeline and each stage, and what stages write, as it comes.

use std::fmt::Write as _;
use std::time::Instant;

use kiln_api::source::ItemResult;
use kiln_engine::event::StageResult;
use kiln_engine::index::Index;
use kiln_engine::manifest::json::{Json, Object, write_string};
use kiln_engine::manifest::{Pipeline, Source, Stage};
use kiln_sys::local_time::local_time;

use super::{Descriptor, Observer};

const RESET: &str = "\u{1b}[0m";
const BOLD: &str = "\u{1b}[1m";

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Writes a log for people.
pub(super) struct LogMonitor<'a> {
    out: Descriptor,
    index: &'a Index,
    /// The runner that the host's os-release asks for.
    host_runner: &'a str,
    /// When the last stage began.
    stage_start: Option<Instant>,
}

impl<'a> LogMonitor<'a> {
    pub(super) fn new(out: Descriptor, index: &'a Index, host_runner: &'a str) -> Self {
        Self { out, index, host_runner, stage_start: None }
    }

    /// A title, which terminals show in bold letters.
    fn title(&self, text: &str) -> String {
        if self.out.terminal { format!("{RESET}{BOLD}{text}{RESET}") } else { text.to_owned() }
    }

    fn header(&mut self, name: &str, id: &str, build: Option<&str>, more: &str) {
        let title = self.title(&format!("Pipeline {name}: {id}"));
        let root = build.unwrap_or("<host>");
        self.out.write(&format!("{title}\nBuild\n  root: {root}{more}\n"));
    }

    fn duration(&mut self) {
        if let Some(start) = self.stage_start {
            self.out.write(&format!("\n⏱  Duration: {:.2}s\n", start.elapsed().as_secs_f64()));
        }
    }
}

impl Observer for LogMonitor<'_> {
    fn begin_source(&mut self, source: &Source, _items: usize, _bytes: u64) {
        self.header(&format!("source {}", source.kind), source.id.as_str(), None, "");
    }

    fn begin_pipeline(&mut self, pipeline: &Pipeline) {
        let requested = pipeline.runner.as_deref();
        let asked = requested.unwrap_or(self.host_runner);
        let chosen = self.index.runner(asked).map_or_else(|_| asked.to_owned(), |chosen| chosen.name);
        let mut more = format!("\n  runner: {} ({chosen})", requested.unwrap_or(&chosen));
        if let Some(epoch) = pipeline.source_epoch {
            let _ = write!(more, "\n  source-epoch: {} [{epoch}]", date(epoch));
        }
        let id = pipeline.id().map_or("None", |id| id.as_str());
        self.header(&pipeline.name, id, pipeline.build.as_ref().map(|id| id.as_str()), &more);
    }

    fn begin_stage(&mut self, stage: &Stage) {
        let title = self.title(&format!("{}: {}", stage.name, stage.id));
        self.out.write(&format!("{title} {}\n", indented(&stage.options)));
        self.stage_start = Some(Instant::now());
    }

    fn log(&mut self, text: &str, _origin: Option<&str>) {
        self.out.write(text);
    }

    fn source_result(&mut self, _source: &str, _results: &[ItemResult]) {
        self.duration();
    }

    fn stage_result(&mut self, _result: &StageResult) {
        self.duration();
    }
}

/// A date as C programs write it without a language: `Tue Nov 14 22:13:20 2023`.
fn date(seconds: i64) -> String {
    let Some(time) = local_time(seconds) else { return seconds.to_string() };
    let day = DAYS.get(time.weekday).unwrap_or(&"?");
    let month = MONTHS.get(time.month).unwrap_or(&"?");
    format!(
        "{day} {month} {:2} {:02}:{:02}:{:02} {}",
        time.day, time.hour, time.minute, time.second, time.year
    )
}

/// Options as Python's `json.dumps(options, indent=2)` writes them.
fn indented(options: &Object) -> String {
    let mut text = String::new();
    write_members(options, 0, &mut text);
    text
}

fn write_indented(value: &Json, depth: usize, out: &mut String) {
    match value {
        Json::Object(members) => write_members(members, depth, out),
        Json::Array(items) => {
            write_list(['[', ']'], items, depth, out, |item, out| write_indented(item, depth + 1, out));
        }
        _ => {
            let _ = value.write_plain(out);
        }
    }
}

fn write_members(members: &Object, depth: usize, out: &mut String) {
    write_list(['{', '}'], members, depth, out, |(key, value), out| {
        let _ = write_string(key, out);
        out.push_str(": ");
        write_indented(value, depth + 1, out);
    });
}

fn write_list<T>(
    [open, close]: [char; 2],
    items: impl IntoIterator<Item = T>,
    depth: usize,
    out: &mut String,
    write: impl Fn(T, &mut String),
) {
    out.push(open);
    let mut empty = true;
    for item in items {
        out.push_str(if empty { "\n" } else { ",\n" });
        out.push_str(&"  ".repeat(depth + 1));
        write(item, out);
        empty = false;
    }
    if !empty {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_indented() {
        let text = r#"{"a": 1, "b": {}, "c": [], "d": {"e": [1.5, "ä", {"f": null}]}}"#;
        let Ok(Json::Object(options)) = Json::parse(text) else { panic!("an object") };
        insta::assert_snapshot!(indented(&options), @r#"
        {
          "a": 1,
          "b": {},
          "c": [],
          "d": {
            "e": [
              1.5,
              "\u00e4",
              {
                "f": null
              }
            ]
          }
        }
        "#);
        assert_eq!(indented(&Object::new()), "{}");
    }

    #[test]
    fn dates_have_two_places_for_the_day() {
        // The zone of the machine moves it by a day at most.
        let date = date(1_700_000_000 - 9 * 86_400);
        assert!(["Sun Nov  5 ", "Mon Nov  6 "].iter().any(|start| date.starts_with(start)), "{date}");
        assert!(date.ends_with(":20 2023"), "{date}");
    }
}
