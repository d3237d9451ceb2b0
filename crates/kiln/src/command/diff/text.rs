//! A comparison in words.
//!
//! Stages are counted from 1, as builds show them. In front of a stage stands what happened to it: `+` added, `-`
//! removed, `~` changed, `>` moved, nothing where it is as it was and only what it depends on differs. Stages that are
//! built again for the same reason stand in one line.

use std::fmt::Write as _;

use kiln_engine::compare::{
    Cause, Change, Comparison, Edit, Fate, Origin, PipelineComparison, SourceComparison, StageComparison,
    Verdict, What,
};
use kiln_engine::manifest::json::Json;
use kiln_engine::manifest::place::Step;
use kiln_engine::manifest::{Format, Id, Manifest};
use kiln_engine::plan::count;

use super::files::{Files, checksum, cut};

/// How many changes of one stage or source are shown.
const MOST_CHANGES: usize = 20;

/// How many characters of a value are shown.
const MOST_CHARACTERS: usize = 60;

/// How many of them come before the first that differs, where that is far from the beginning.
const BEFORE: usize = 15;

/// What it takes to find words.
pub(super) struct Words {
    files: Files,
}

impl Words {
    pub(super) fn new(old: &Manifest, new: &Manifest) -> Self {
        Self { files: Files::new(old, new) }
    }

    /// All that differs.
    pub(super) fn describe(&self, comparison: &Comparison) -> String {
        let mut out = String::new();
        if let Some((old, new)) = comparison.formats {
            let number = |format: Format| if format == Format::One { 1 } else { 2 };
            let _ = writeln!(out, "format: {} → {}; no id depends on it", number(old), number(new));
        }
        if !comparison.metadata.is_empty() {
            out.push_str("metadata; no id depends on it\n");
            self.changes(&comparison.metadata, 2, &mut out);
        }
        if comparison.reordered {
            out.push_str("pipelines stand in another order; no id depends on it\n");
        }
        for pipeline in &comparison.pipelines {
            self.pipeline(pipeline, &mut out);
        }
        for source in &comparison.sources {
            self.source(source, &mut out);
        }
        let stages = || comparison.pipelines.iter().flat_map(|pipeline| &pipeline.stages);
        let all = stages().filter(|stage| stage.new.is_some()).count();
        let having =
            |verdict| stages().filter(|stage| stage.new.is_some() && stage.verdict == verdict).count();
        let _ = writeln!(
            out,
            "of {}: {} with another id, {} built again under the same id, {} the same",
            count(all, "stage"),
            having(Verdict::OtherId),
            having(Verdict::SameId),
            having(Verdict::Same)
        );
        out
    }

    fn pipeline(&self, pipeline: &PipelineComparison, out: &mut String) {
        let stages = count(pipeline.stages.len(), "stage");
        let name =
            clean(pipeline.new_name.as_ref().or(pipeline.old_name.as_ref()).map_or("", String::as_str));
        let fate = match (&pipeline.old_name, &pipeline.new_name) {
            (None, _) => Some("added"),
            (_, None) => Some("removed"),
            _ => None,
        };
        if let Some(fate) = fate {
            let _ = writeln!(out, "pipeline `{name}`: {fate}, {stages}");
            return;
        }
        let _ = write!(out, "pipeline `{name}`: ");
        if let Some(old) = pipeline.old_name.as_ref().filter(|old| Some(*old) != pipeline.new_name.as_ref()) {
            let _ = write!(out, "was `{}`, ", clean(old));
        }
        let short = |id: &Option<Id>| id.as_ref().map_or("none", |id| cut(id.as_str())).to_owned();
        if pipeline.old_id != pipeline.new_id {
            let _ = writeln!(out, "id {} → {}", short(&pipeline.old_id), short(&pipeline.new_id));
        } else if pipeline.is_equal() {
            out.push_str("the same\n");
        } else {
            let _ = writeln!(out, "same id {}", short(&pipeline.new_id));
        }
        self.changes(&pipeline.changes, 2, out);
        let name = pipeline.new_name.as_deref().unwrap_or_default();
        let mut stages = pipeline.stages.iter().filter(|stage| !stage.is_equal()).peekable();
        while let Some(stage) = stages.next() {
            let mut last = stage;
            let mut together = 1;
            while let Some(next) = stages.next_if(|next| same_line(last, next)) {
                last = next;
                together += 1;
            }
            self.stage(stage, (last, together), name, out);
        }
    }

    /// One stage, or stages up to the last one that are told in one line.
    fn stage(
        &self,
        stage: &StageComparison,
        (last, together): (&StageComparison, usize),
        pipeline: &str,
        out: &mut String,
    ) {
        let sign = match stage.fate() {
            Some(Fate::Added) => '+',
            Some(Fate::Removed) => '-',
            Some(Fate::Moved) => '>',
            Some(Fate::Changed) => '~',
            None => ' ',
        };
        let (from, to) = (place(stage), place(last));
        let _ = match together {
            1 => write!(out, "  {sign} [{from}] {}", clean(&stage.name)),
            _ => write!(out, "  {sign} [{from}–{to}] {together} stages"),
        };
        let _ = match (stage.fate(), stage.old.as_ref()) {
            (Some(Fate::Added), _) => write!(out, ": added"),
            (Some(Fate::Removed), _) => write!(out, ": removed"),
            (Some(Fate::Moved), Some(old)) => write!(out, ": was [{}]", old.index + 1),
            _ => Ok(()),
        };
        let causes: Vec<String> = stage
            .causes
            .iter()
            .filter(|cause| **cause != Cause::Own)
            .map(|cause| because(cause, pipeline))
            .collect();
        let own = stage.causes.first() == Some(&Cause::Own);
        let both = stage.old.is_some() && stage.new.is_some();
        let colon = if stage.moved { ", " } else { ": " };
        match stage.verdict {
            _ if !both => {}
            Verdict::Same => {
                let _ = write!(out, "{colon}the result is the same");
            }
            Verdict::OtherId => {
                let _ = write!(out, "{colon}another id");
            }
            Verdict::SameId => {
                let _ = write!(out, "{colon}the id is the same, but it is built again");
                out.push_str(if own { " because of what ids leave out" } else { "" });
            }
        }
        if both {
            let _ = match causes.as_slice() {
                [] => Ok(()),
                causes if own => write!(out, ", also because of {}", causes.join(" and ")),
                [cause] => write!(out, " only because of {cause}"),
                [first, more @ ..] => write!(out, " because of {first}; also of {}", more.join(" and ")),
            };
        }
        out.push('\n');
        self.changes(&stage.changes, 6, out);
    }

    fn source(&self, source: &SourceComparison, out: &mut String) {
        let kind = clean(&source.kind);
        let fate = match (source.in_old, source.in_new) {
            (false, _) => Some("added"),
            (_, false) => Some("removed"),
            _ => None,
        };
        if let Some(fate) = fate {
            let _ = writeln!(out, "source `{kind}`: {fate}");
            return;
        }
        // What comes and goes is told where it is used.
        let is_item = |change: &Change| {
            change.path.0.len() == 2 && change.path.0.first() == Some(&Step::Key("items".to_owned()))
        };
        let (mut added, mut removed, mut others) = (0, 0, Vec::new());
        for change in &source.changes {
            match &change.edit {
                Edit::Added(_) if is_item(change) => added += 1,
                Edit::Removed(_) if is_item(change) => removed += 1,
                _ => others.push(change.clone()),
            }
        }
        let mut words = Vec::new();
        for (number, fate) in
            [(added, "added"), (removed, "removed"), (others.len(), "changed; no id depends on it")]
        {
            if number > 0 {
                words.push(format!("{number} {fate}"));
            }
        }
        let _ = writeln!(out, "source `{kind}`: {}", words.join(", "));
        self.changes(&others, 2, out);
    }

    fn changes(&self, changes: &[Change], indent: usize, out: &mut String) {
        let indent = " ".repeat(indent);
        let replaced = self.files.replaced(changes);
        let shown = || changes.iter().enumerate().filter(|(index, _)| !replaced.added.contains(index));
        for (index, change) in shown().take(MOST_CHANGES) {
            let path = self.path(&change.path.0);
            let newer = replaced.by_removed.get(&index).and_then(|added| changes.get(*added));
            if let Some(newer) = newer {
                let _ = writeln!(out, "{indent}{}", self.replacement(&change.path.0, &newer.path.0));
                continue;
            }
            let _ = match &change.edit {
                Edit::Changed { old, new } => {
                    let (old, new) = pair(&old.to_string(), &new.to_string());
                    writeln!(out, "{indent}{path}: {old} → {new}")
                }
                Edit::Added(new) => writeln!(out, "{indent}{path}: added{}", value(new)),
                Edit::Removed(old) => writeln!(out, "{indent}{path}: removed{}", value(old)),
                Edit::Moved { from, value: moved } => {
                    writeln!(out, "{indent}{path}: was {}{}", self.path(&from.0), value(moved))
                }
            };
        }
        let all = shown().count();
        if all > MOST_CHANGES {
            let _ = writeln!(out, "{indent}… and {} more; `--json` has all", all - MOST_CHANGES);
        }
    }

    /// One file for another one: the names first, they have the versions.
    fn replacement(&self, old: &[Step], new: &[Step]) -> String {
        let above = old.split_last().map_or_else(String::new, |(_, above)| self.path(above));
        let side = |steps: &[Step]| match steps.last() {
            Some(Step::Key(key)) => {
                let short = checksum(key).unwrap_or_else(|| clean(key));
                (clean(self.files.name(key).unwrap_or_default()), short)
            }
            _ => (String::new(), String::new()),
        };
        let ((old_file, old_sum), (new_file, new_sum)) = (side(old), side(new));
        format!("{above}: {old_file} → {new_file} ({old_sum} → {new_sum})")
    }

    /// A path without the dot in front, checksums shortened and with the names of their files.
    fn path(&self, steps: &[Step]) -> String {
        let mut out = String::new();
        for step in steps {
            match step {
                Step::Index(index) => {
                    let _ = write!(out, "[{index}]");
                }
                Step::Key(key) => {
                    out.push_str(if out.is_empty() { "" } else { "." });
                    match (checksum(key), self.files.name(key)) {
                        (Some(short), Some(file)) => {
                            let _ = write!(out, "{short} ({})", clean(file));
                        }
                        (Some(short), None) => out.push_str(&short),
                        _ if key.contains([' ', '.', '[', '\'']) => {
                            let _ = write!(out, "'{}'", clean(key));
                        }
                        _ => out.push_str(&clean(key)),
                    }
                }
            }
        }
        out
    }
}

/// Whether two stages are built again for the same reason, and nothing else is to be said of them.
fn same_line(stage: &StageComparison, next: &StageComparison) -> bool {
    let alike = |stage: &StageComparison| stage.fate().is_none();
    let follows = |a: usize, b: usize| a + 1 == b;
    alike(stage)
        && alike(next)
        && stage.verdict == next.verdict
        && stage.causes == next.causes
        && stage.new.as_ref().zip(next.new.as_ref()).is_some_and(|(a, b)| follows(a.index, b.index))
}

/// The place of a stage, from 1: in the second manifest, of a removed one in the first.
fn place(stage: &StageComparison) -> usize {
    stage.new.as_ref().or(stage.old.as_ref()).map_or(0, |side| side.index + 1)
}

/// What follows `because of`.
fn because(cause: &Cause, pipeline: &str) -> String {
    match cause {
        Cause::Own => "what it says".to_owned(),
        Cause::BuildRoot(origin) if origin.what == What::BuildRoot && origin.pipeline == pipeline => {
            "another build root".to_owned()
        }
        Cause::BuildRoot(origin) => format!("its build root: {}", began(origin, pipeline)),
        Cause::SourceEpoch(_) => "the source epoch".to_owned(),
        Cause::Runner(_) => "the runner of its build root".to_owned(),
        Cause::Input { input, origin } => {
            format!("its input `{}`: {}", clean(input), began(origin, pipeline))
        }
        Cause::Before(origin) => format!("what is before it: {}", began(origin, pipeline)),
    }
}

/// What it began with.
fn began(origin: &Origin, here: &str) -> String {
    let of = if origin.pipeline == here { String::new() } else { format!("`{}` ", clean(&origin.pipeline)) };
    let pipeline = clean(&origin.pipeline);
    match &origin.what {
        What::Stage { index, name, fate } => {
            let fate = match fate {
                Fate::Changed => "was changed",
                Fate::Added => "was added",
                Fate::Removed => "was removed",
                Fate::Moved => "was moved",
            };
            format!("{of}[{}] {} {fate}", index + 1, clean(name))
        }
        What::BuildRoot => format!("`{pipeline}` has another build root"),
        What::SourceEpoch => format!("`{pipeline}` has another source epoch"),
        What::Runner => format!("the build root of `{pipeline}` has another runner"),
    }
}

/// A value that came or went; what says nothing is not shown.
fn value(value: &Json) -> String {
    match value {
        Json::Object(members) if members.is_empty() => String::new(),
        other => format!(": {}", window(&other.to_string(), 0)),
    }
}

/// Two values so that one sees where they differ.
fn pair(old: &str, new: &str) -> (String, String) {
    let same = old.chars().zip(new.chars()).take_while(|(a, b)| a == b).count();
    let from = if same + BEFORE < MOST_CHARACTERS { 0 } else { same - BEFORE };
    (window(old, from), window(new, from))
}

fn window(text: &str, from: usize) -> String {
    let shown: String = text.chars().skip(from).take(MOST_CHARACTERS).collect();
    let before = if from > 0 { "…" } else { "" };
    let after = if text.chars().count() > from + MOST_CHARACTERS { "…" } else { "" };
    format!("{before}{shown}{after}")
}

/// A name that cannot do anything to a terminal.
fn clean(name: &str) -> String {
    name.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}
