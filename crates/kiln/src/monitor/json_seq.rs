//! Records of JSON, one for everything that happens: `\x1e`, the record, `\n` (RFC 7464).
//!
//! | member | is |
//! |---|---|
//! | `message` | what happened, or what was written |
//! | `result` | what became of a source or a stage |
//! | `context` | where it happened: whole once, then only its `id` |
//! | `progress` | how many sources and pipelines are done, and below it how many stages of the pipeline or items of the source |
//! | `options` | the stage's options, with its result |
//! | `timestamp` | seconds since 1970 |
//! | `duration` | how many seconds the stage took, with its result |
//! | `metadata` | what the stage said of its result |
//!
//! Members that are null or an empty text are left out, in nested objects too, but not in lists. The id of a context
//! is the SHA-256 of it, before that, as Python writes it with sorted keys.

use std::collections::HashSet;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kiln_api::source::{DownloadEvent, ItemResult};
use kiln_engine::event::StageResult;
use kiln_engine::manifest::json::{Json, Object};
use kiln_engine::manifest::{Pipeline, Source, Stage};
use sha2::{Digest as _, Sha256};

use super::download::Reported;
use super::{Descriptor, Observer};

/// Longer results are cut: some readers have buffers of 64 KiB for a record.
const MAX_OUTPUT: usize = 31_000;

/// The origin of what has none of its own: what sources write.
const DEFAULT_ORIGIN: &str = "org.osbuild";
/// The origin of what is for people.
const MONITOR: &str = "osbuild.monitor";

/// Writes records for programs.
pub(super) struct JsonSeqMonitor {
    out: Descriptor,
    total: usize,
    done: usize,
    /// The pipeline's name, its number of stages and how many of them are done.
    pipeline_progress: Option<(String, usize, usize)>,
    /// The downloads of the source that is being fetched.
    downloads: Option<Reported>,
    /// The name and id of the last pipeline or source.
    pipeline: (Json, Json),
    /// The name and id of the last stage.
    stage: (Json, Json),
    /// The ids of contexts that were sent whole.
    sent: HashSet<String>,
    options: Object,
    stage_start: Option<Instant>,
}

/// What a record may have beside message, context and progress.
#[derive(Default)]
struct Extra {
    result: Option<Json>,
    options: Option<Json>,
    duration: Option<Json>,
    metadata: Option<Json>,
}

impl JsonSeqMonitor {
    pub(super) fn new(out: Descriptor, steps: usize) -> Self {
        Self {
            out,
            total: steps,
            done: 0,
            pipeline_progress: None,
            downloads: None,
            pipeline: (Json::Null, Json::Null),
            stage: (Json::Null, Json::Null),
            sent: HashSet::new(),
            options: Object::new(),
            stage_start: None,
        }
    }

    fn record(&mut self, message: &str, origin: &str, extra: Extra) {
        let mut record = object([
            ("message", Json::from(message)),
            ("result", extra.result.unwrap_or(Json::Null)),
            ("context", self.context(origin)),
            ("progress", self.progress()),
            ("options", extra.options.unwrap_or(Json::Null)),
            ("timestamp", Json::Float(now())),
            ("duration", extra.duration.unwrap_or(Json::Null)),
            ("metadata", extra.metadata.unwrap_or(Json::Null)),
        ]);
        omit_empty(&mut record);
        // In one go, so that a reader never sees half of it if it can be helped.
        self.out.write(&format!("\u{1e}{record}\n"));
    }

    fn context(&mut self, origin: &str) -> Json {
        let named = |(name, id): &(Json, Json)| [("name", name.clone()), ("id", id.clone())];
        let mut pipeline = object(named(&self.pipeline));
        if let Json::Object(members) = &mut pipeline {
            members.insert("stage".to_owned(), object(named(&self.stage)));
        }
        let mut context = object([("origin", Json::from(origin)), ("pipeline", pipeline)]);
        let id = id_of(&context);
        if !self.sent.insert(id.clone()) {
            return object([("id", Json::from(id))]);
        }
        if let Json::Object(members) = &mut context {
            members.insert("id".to_owned(), Json::from(id));
        }
        context
    }

    fn progress(&self) -> Json {
        let mut progress = step("pipelines/sources", self.total, self.done);
        let below = match &self.pipeline_progress {
            Some((name, total, done)) => Some(step(&format!("pipeline: {name}"), *total, *done)),
            None => self.downloads.as_ref().and_then(Reported::progress),
        };
        if let (Json::Object(members), Some(below)) = (&mut progress, below) {
            members.insert("progress".to_owned(), below);
        }
        progress
    }

    fn result(&mut self, name: &str, result: Json, metadata: Option<Json>) {
        if let Some((_, _, done)) = &mut self.pipeline_progress {
            *done += 1;
        }
        let options = Json::Object(self.options.clone());
        let extra = Extra {
            result: Some(result),
            options: Some(options).filter(|options| !options.is_falsy()),
            duration: self.stage_start.map(|start| Json::Float(start.elapsed().as_secs_f64())),
            metadata: metadata.filter(|metadata| !metadata.is_falsy()),
        };
        self.record(&format!("Finished module {name}"), MONITOR, extra);
    }

    fn say(&mut self, message: &str) {
        self.record(message, MONITOR, Extra::default());
    }
}

impl Observer for JsonSeqMonitor {
    fn begin_source(&mut self, source: &Source, items: usize, bytes: u64) {
        self.downloads = Some(Reported::new(&source.kind, items, bytes, Instant::now()));
        let name = format!("source {}", source.kind);
        self.pipeline = (Json::from(name.as_str()), Json::from(source.id.as_str()));
        self.say(&format!("Starting pipeline {name}"));
    }

    fn begin_pipeline(&mut self, pipeline: &Pipeline) {
        let id = pipeline.id().map_or(Json::Null, |id| Json::from(id.as_str()));
        self.pipeline = (Json::from(pipeline.name.as_str()), id);
        if !pipeline.stages.is_empty() {
            self.pipeline_progress = Some((pipeline.name.clone(), pipeline.stages.len(), 0));
        }
        self.say(&format!("Starting pipeline {}", pipeline.name));
    }

    fn begin_stage(&mut self, stage: &Stage) {
        self.stage = (Json::from(stage.name.as_str()), Json::from(stage.id.as_str()));
        self.options = stage.options.clone();
        self.say(&format!("Starting module {}", stage.name));
        self.stage_start = Some(Instant::now());
    }

    fn log(&mut self, text: &str, origin: Option<&str>) {
        self.record(text, origin.unwrap_or(DEFAULT_ORIGIN), Extra::default());
    }

    fn download(&mut self, event: &DownloadEvent<'_>) {
        let line = self.downloads.as_mut().and_then(|downloads| downloads.event(event, Instant::now()));
        if let Some(line) = line {
            self.record(&line, DEFAULT_ORIGIN, Extra::default());
        }
    }

    fn source_result(&mut self, source: &str, results: &[ItemResult]) {
        self.downloads = None;
        let mut result = source_result(source, results);
        if result.to_string().len() > MAX_OUTPUT
            && let Json::Object(members) = &mut result
        {
            members.insert("results".to_owned(), Json::Array(Vec::new()));
        }
        self.result(&format!("source {source}"), result, None);
    }

    fn stage_result(&mut self, result: &StageResult) {
        let error = result.error.as_ref().map_or(Json::Null, Json::from_value);
        let shown = object([
            ("name", Json::from(result.name.as_str())),
            ("id", Json::from(result.id.as_str())),
            ("success", Json::Bool(result.success)),
            ("output", Json::from(shortened(&result.output))),
            ("error", error),
        ]);
        self.result(&result.name, shown, result.metadata.as_ref().map(Json::from_value));
    }

    fn finish(&mut self, name: &str) {
        self.done += 1;
        self.pipeline_progress = None;
        self.say(&format!("Finished pipeline {name}"));
    }
}

fn source_result(source: &str, results: &[ItemResult]) -> Json {
    let last_error = results.iter().rev().find_map(|item| item.error.as_deref());
    let output = match last_error {
        None => format!("source {source} finished successfully"),
        Some(error) => format!("source {source} finished unsuccessfully: {error}"),
    };
    let items = results.iter().map(|item| {
        let mut metadata = Object::new();
        metadata.insert("checksum".to_owned(), Json::from(item.checksum.as_str()));
        if item.error.is_none() {
            metadata.insert("cached".to_owned(), Json::Bool(item.cached));
        }
        object([
            ("success", Json::Bool(item.error.is_none())),
            ("metadata", Json::Object(metadata)),
            ("error", Json::from(item.error.as_deref().unwrap_or_default())),
        ])
    });
    object([
        ("name", Json::from(format!("source {source}"))),
        ("source_type", Json::from(source)),
        ("success", Json::Bool(last_error.is_none())),
        ("output", Json::from(output)),
        ("results", Json::Array(items.collect())),
    ])
}

/// The end of an output that is too long, and how much is missing. Lengths are in characters, whatever the reference's
/// note says.
fn shortened(output: &str) -> String {
    let length = output.chars().count();
    let Some(hidden) = length.checked_sub(MAX_OUTPUT).filter(|hidden| *hidden > 0) else {
        return output.to_owned();
    };
    let start = output.char_indices().nth(hidden).map_or(output.len(), |(at, _)| at);
    format!("[...{hidden} bytes hidden...]\n{}", output.get(start..).unwrap_or_default())
}

pub(super) fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn step(name: &str, total: usize, done: usize) -> Json {
    let number = |number: usize| number_of(u64::try_from(number).unwrap_or(u64::MAX));
    object([("name", Json::from(name)), ("total", number(total)), ("done", number(done))])
}

pub(super) fn number_of(number: u64) -> Json {
    Json::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn id_of(context: &Json) -> String {
    let mut text = String::new();
    let _ = context.write_sorted(&mut text);
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn omit_empty(value: &mut Json) {
    if let Json::Object(members) = value {
        members.retain(|_, value| {
            omit_empty(value);
            !matches!(value, Json::Null) && !matches!(value, Json::String(text) if text.is_empty())
        });
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_context_is_the_references() {
        let nothing = || object([("name", Json::Null), ("id", Json::Null)]);
        let mut pipeline = nothing();
        if let Json::Object(members) = &mut pipeline {
            members.insert("stage".to_owned(), nothing());
        }
        let context = object([("origin", Json::from("osbuild.main_cli")), ("pipeline", pipeline)]);
        assert_eq!(id_of(&context), "ede22f789202b9017bd24089276f57f559018c593914632c80206be12f5b3bb0");
    }

    #[test]
    fn long_outputs_are_cut_at_the_front() {
        assert_eq!(shortened(&"ä".repeat(MAX_OUTPUT)), "ä".repeat(MAX_OUTPUT));
        let long = format!("{}{}", "x".repeat(12), "ä".repeat(MAX_OUTPUT));
        assert_eq!(shortened(&long), format!("[...12 bytes hidden...]\n{}", "ä".repeat(MAX_OUTPUT)));
    }

    #[test]
    fn empty_members_are_left_out_but_not_in_lists() {
        let mut value = Json::parse(
            r#"{"a": null, "b": "", "c": {"d": null}, "e": [{"f": ""}, null], "g": 0, "h": false}"#,
        )
        .expect("JSON");
        omit_empty(&mut value);
        assert_eq!(value.to_string(), r#"{"c": {}, "e": [{"f": ""}, null], "g": 0, "h": false}"#);
    }

    #[test]
    fn a_source_fails_with_its_last_error() {
        let item = |checksum: &str, error: Option<&str>| ItemResult {
            checksum: checksum.to_owned(),
            cached: false,
            error: error.map(str::to_owned),
        };
        let results = [item("a", Some("first")), item("b", Some("second")), item("c", None)];
        insta::assert_snapshot!(source_result("org.osbuild.curl", &results), @r#"{"name": "source org.osbuild.curl", "source_type": "org.osbuild.curl", "success": false, "output": "source org.osbuild.curl finished unsuccessfully: second", "results": [{"success": false, "metadata": {"checksum": "a"}, "error": "first"}, {"success": false, "metadata": {"checksum": "b"}, "error": "second"}, {"success": true, "metadata": {"checksum": "c", "cached": false}, "error": ""}]}"#);
    }

    #[test]
    fn the_results_of_very_many_items_are_left_out() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let out = Descriptor::open(std::os::fd::AsRawFd::as_raw_fd(&writer)).expect("open");
        drop(writer);
        let mut monitor = JsonSeqMonitor::new(out, 1);
        let item = ItemResult { checksum: "a".repeat(100), cached: true, error: None };
        monitor.source_result("s", &vec![item; 300]);
        drop(monitor);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).expect("read");
        let record = Json::parse(text.trim_start_matches('\u{1e}')).expect("JSON");
        let result = record.get("result").expect("a result");
        assert_eq!(
            result.to_string(),
            r#"{"name": "source s", "source_type": "s", "success": true, "output": "source s finished successfully", "results": []}"#
        );
    }
}
