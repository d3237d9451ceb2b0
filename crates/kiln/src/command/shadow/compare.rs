//! What differs between two runs of one manifest.

use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use kiln_store::tree::{self, Aspect};
use serde_json::{Value, json};

use super::records::outline;
use super::side::{Ended, Side};
use crate::error::{CliError, CliResult, Kind, chain};

/// Members of results that are never twice the same: what programs write, and times.
const NEVER_THE_SAME: [&str; 5] = ["output", "created", "results", "duration", "durations"];
/// Where an object says when it was made.
const CREATED: &str = "meta/info.json";
/// How many differences of one tree are told.
const MOST: usize = 20;

/// A difference.
pub(super) struct Found {
    /// What differs: `exit code`, `ids`, `tree`, `result`, `records`.
    pub(super) what: &'static str,
    /// Where it differs; empty if there is no other place.
    pub(super) place: String,
    pub(super) kiln: String,
    pub(super) reference: String,
}

impl Found {
    pub(super) fn to_json(&self) -> Value {
        json!({"what": self.what, "where": self.place, "kiln": self.kiln, "reference": self.reference})
    }
}

/// All that was compared, the first difference first.
pub(super) struct Compared {
    pub(super) differences: Vec<Found>,
    stages: usize,
    trees: usize,
    records: usize,
}

impl Compared {
    pub(super) fn new(
        (kiln, ours): (&Side, &Ended),
        (there, theirs): (&Side, &Ended),
        exports: &[String],
        every_stage: bool,
        interrupted: &AtomicBool,
    ) -> CliResult<Self> {
        let mut all = Self { differences: Vec::new(), stages: 0, trees: 0, records: 0 };
        if ours.code != theirs.code {
            all.add("exit code", String::new(), &ours.code, &theirs.code);
        }
        all.values("ids", "", &ours.description, &theirs.description);
        // In the order in which they are built, so that the first one that differs comes first.
        for (name, id) in stages(&theirs.description) {
            let (left, right) = (kiln.kept(&id), there.kept(&id));
            let before = all.differences.len();
            if left.is_dir() || right.is_dir() {
                all.stages += 1;
                all.trees_at(&format!("stage {name} ({id})"), &left, &right, interrupted)?;
            }
            // What comes after it is made from what differs.
            if all.differences.len() > before && !every_stage {
                break;
            }
        }
        for export in exports {
            let (left, right) = (kiln.export(export), there.export(export));
            if left.is_dir() || right.is_dir() {
                all.trees += 1;
                all.trees_at(&format!("export {export}"), &left, &right, interrupted)?;
            }
        }
        all.values("result", "", &ours.result, &theirs.result);
        let (left, right) = (outline(&ours.records), outline(&theirs.records));
        all.records = right.len();
        all.values("records", "", &Value::Array(left), &Value::Array(right));
        Ok(all)
    }

    fn add(&mut self, what: &'static str, place: String, kiln: &impl ToString, reference: &impl ToString) {
        let (kiln, reference) = (kiln.to_string(), reference.to_string());
        self.differences.push(Found { what, place, kiln, reference });
    }

    /// What the reference says has to be said by Kiln, which may say more.
    fn values(&mut self, what: &'static str, place: &str, kiln: &Value, reference: &Value) {
        match (kiln, reference) {
            (Value::Object(ours), Value::Object(theirs)) => {
                for (key, theirs) in theirs {
                    if !NEVER_THE_SAME.contains(&key.as_str()) {
                        let place = format!("{place}.{key}");
                        self.values(what, &place, ours.get(key).unwrap_or(&Value::Null), theirs);
                    }
                }
            }
            (Value::Array(ours), Value::Array(theirs)) => {
                let before = self.differences.len();
                for (index, (our, their)) in ours.iter().zip(theirs).enumerate() {
                    self.values(what, &format!("{place}[{index}]"), our, their);
                    // What comes after it may be one further, or one back.
                    if ours.len() != theirs.len() && self.differences.len() > before {
                        break;
                    }
                }
                if ours.len() != theirs.len() {
                    let items = |count| format!("{count} items");
                    self.add(what, place.to_owned(), &items(ours.len()), &items(theirs.len()));
                }
            }
            _ if kiln == reference => {}
            _ => self.add(what, place.to_owned(), kiln, reference),
        }
    }

    fn trees_at(&mut self, place: &str, left: &Path, right: &Path, interrupted: &AtomicBool) -> CliResult {
        let built = |path: &Path| if path.is_dir() { "built" } else { "not built" };
        if !(left.is_dir() && right.is_dir()) {
            self.add("tree", place.to_owned(), &built(left), &built(right));
            return Ok(());
        }
        let differences = tree::compare(left, right, interrupted)
            .map_err(|error| CliError::new(Kind::Environment, chain(&error)))?;
        let told = differences.into_iter().filter(|difference| {
            // No two builds happen at the same time.
            difference.aspect != Aspect::Mtime && difference.path != CREATED
        });
        for difference in told.take(MOST) {
            let place = format!("{place}: {} ({})", difference.path, difference.aspect);
            let none = || "nothing".to_owned();
            let (left, right) = (difference.left.unwrap_or_else(none), difference.right.unwrap_or_else(none));
            self.add("tree", place, &left, &right);
        }
        Ok(())
    }

    pub(super) fn counts(&self) -> Value {
        json!({"stages": self.stages, "exports": self.trees, "records": self.records})
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Found { what, place, kiln, reference } in &self.differences {
            let at = if place.is_empty() { String::new() } else { format!(" at {place}") };
            writeln!(formatter, "{what}{at}\n  kiln:      {kiln}\n  reference: {reference}")?;
        }
        let Self { stages, trees, records, .. } = self;
        let compared =
            format!("ids, exit codes, {stages} stages, {trees} exports, results, {records} records");
        match self.differences.len() {
            0 => writeln!(formatter, "equal: {compared}"),
            count => writeln!(formatter, "{count} differences in {compared}"),
        }
    }
}

/// The stages of a description with their ids, in the order in which they are built.
fn stages(description: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    collect(description, &mut all);
    all
}

fn collect(value: &Value, all: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            let named = members.get("type").or_else(|| members.get("name")).and_then(Value::as_str);
            if let (Some(name), Some(id)) = (named, members.get("id").and_then(Value::as_str)) {
                all.push((name.to_owned(), id.to_owned()));
            }
            // What is built first comes first, also where the assembler is written before the stages.
            for key in ["build", "pipeline", "pipelines", "stages", "assembler"] {
                if let Some(value) = members.get(key) {
                    collect(value, all);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, all)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Compared {
        Compared { differences: Vec::new(), stages: 0, trees: 0, records: 0 }
    }

    #[test]
    fn kiln_may_say_more_but_nothing_else() {
        let theirs = json!({"a": 1, "list": [{"output": "x", "id": "1"}], "none": null});
        let mut same = none();
        same.values(
            "result",
            "",
            &json!({"a": 1, "b": 2, "list": [{"output": "y", "id": "1", "c": 3}]}),
            &theirs,
        );
        assert!(same.differences.is_empty(), "{same}");
        let mut other = none();
        other.values("result", "", &json!({"a": 2, "list": []}), &theirs);
        assert_eq!(
            other.to_string(),
            "result at .a\n  kiln:      2\n  reference: 1\nresult at .list\n  kiln:      0 items\n  \
             reference: 1 items\n2 differences in ids, exit codes, 0 stages, 0 exports, results, 0 records\n"
        );
    }

    #[test]
    fn stages_come_in_the_order_in_which_they_are_built() {
        let description = json!({"pipeline": {
            "build": {"pipeline": {"stages": [{"name": "a", "id": "1"}]}},
            "assembler": {"name": "c", "id": "3"},
            "stages": [{"name": "b", "id": "2"}],
        }});
        let names: Vec<String> = stages(&description).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
