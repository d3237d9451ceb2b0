//! A comparison as JSON: everything, equal pipelines and stages too.

use kiln_engine::compare::{
    Cause, Change, Comparison, Edit, Fate, Origin, PipelineComparison, SourceComparison, StageComparison,
    StageSide, Verdict, What,
};
use kiln_engine::manifest::Format;
use kiln_engine::manifest::place::{JsonPath, Step};
use serde_json::{Value, json};

pub(super) fn describe(comparison: &Comparison) -> Value {
    let format = |format: Format| if format == Format::One { "1" } else { "2" };
    json!({
        "equal": comparison.is_equal(),
        "formats": comparison.formats.map(|(old, new)| json!({"old": format(old), "new": format(new)})),
        "metadata": changes(&comparison.metadata),
        "reordered": comparison.reordered,
        "pipelines": comparison.pipelines.iter().map(pipeline).collect::<Vec<_>>(),
        "sources": comparison.sources.iter().map(source).collect::<Vec<_>>(),
    })
}

fn pipeline(pipeline: &PipelineComparison) -> Value {
    json!({
        "name": pipeline.new_name.as_ref().or(pipeline.old_name.as_ref()),
        "equal": pipeline.is_equal(),
        "old": pipeline.old_name.as_ref().map(|name| {
            json!({"name": name, "id": pipeline.old_id.as_ref().map(|id| id.as_str())})
        }),
        "new": pipeline.new_name.as_ref().map(|name| {
            json!({"name": name, "id": pipeline.new_id.as_ref().map(|id| id.as_str())})
        }),
        "changes": changes(&pipeline.changes),
        "stages": pipeline.stages.iter().map(stage).collect::<Vec<_>>(),
    })
}

fn stage(stage: &StageComparison) -> Value {
    let side = |side: &Option<StageSide>| {
        side.as_ref().map(|side| json!({"index": side.index, "id": side.id.as_str()}))
    };
    json!({
        "type": stage.name,
        "old": side(&stage.old),
        "new": side(&stage.new),
        "edit": stage.fate().map(fate),
        "built_again": match stage.verdict {
            Verdict::Same => None,
            Verdict::SameId => Some("same-id"),
            Verdict::OtherId => Some("other-id"),
        },
        "causes": stage.causes.iter().map(cause).collect::<Vec<_>>(),
        "changes": changes(&stage.changes),
    })
}

const fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Changed => "changed",
        Fate::Added => "added",
        Fate::Removed => "removed",
        Fate::Moved => "moved",
    }
}

fn cause(cause: &Cause) -> Value {
    let why = match cause {
        Cause::Own => "own",
        Cause::BuildRoot(_) => "build-root",
        Cause::SourceEpoch(_) => "source-epoch",
        Cause::Runner(_) => "runner",
        Cause::Input { .. } => "input",
        Cause::Before(_) => "before",
    };
    let mut value = json!({"why": why});
    if let Cause::Input { input, .. } = cause {
        value["input"] = json!(input);
    }
    if let Some(Origin { pipeline, what }) = cause.origin() {
        value["origin"] = match what {
            What::Stage { index, name, fate: what } => {
                json!({"pipeline": pipeline, "what": "stage", "index": index, "type": name, "edit": fate(*what)})
            }
            What::BuildRoot => json!({"pipeline": pipeline, "what": "build-root"}),
            What::SourceEpoch => json!({"pipeline": pipeline, "what": "source-epoch"}),
            What::Runner => json!({"pipeline": pipeline, "what": "runner"}),
        };
    }
    value
}

fn source(source: &SourceComparison) -> Value {
    json!({"type": source.kind, "old": source.in_old, "new": source.in_new, "changes": changes(&source.changes)})
}

fn changes(changes: &[Change]) -> Vec<Value> {
    let change = |change: &Change| {
        let mut value = json!({"path": path(&change.path), "in_id": change.in_id});
        match &change.edit {
            Edit::Changed { old, new } => {
                value["edit"] = json!("changed");
                value["old"] = old.to_value();
                value["new"] = new.to_value();
            }
            Edit::Added(new) => {
                value["edit"] = json!("added");
                value["new"] = new.to_value();
            }
            Edit::Removed(old) => {
                value["edit"] = json!("removed");
                value["old"] = old.to_value();
            }
            Edit::Moved { from, value: moved } => {
                value["edit"] = json!("moved");
                value["from"] = path(from);
                value["new"] = moved.to_value();
            }
        }
        value
    };
    changes.iter().map(change).collect()
}

fn path(path: &JsonPath) -> Value {
    let step = |step: &Step| match step {
        Step::Key(key) => json!(key),
        Step::Index(index) => json!(index),
    };
    path.0.iter().map(step).collect()
}
