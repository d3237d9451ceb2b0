//! What is said at the end of a build.

use std::fmt::Write as _;

use kiln_engine::plan::{bytes, count};
use kiln_engine::run::{FULL, Outcome};

use super::seconds;
use crate::error::{CliError, Kind};

/// How many lines of a failed stage's output are shown.
const TAIL: usize = 20;

/// What to do when there is no room.
pub(crate) const MAKE_ROOM: &str =
    "make room on the file system of the cache, or choose another with `--cache`";

/// The pipelines with their durations, the exports with their sizes.
pub(crate) fn summary(outcome: &Outcome) -> String {
    let mut text = String::new();
    let width = outcome.pipelines.iter().map(|pipeline| pipeline.name.len()).max().unwrap_or(0);
    for pipeline in &outcome.pipelines {
        let stages = count(pipeline.stages.len(), "stage");
        let _ = writeln!(text, "  {:width$}  {:>10}  {stages}", pipeline.name, seconds(pipeline.duration));
    }
    for export in &outcome.exports {
        for (path, size) in files(&export.path) {
            let _ = writeln!(text, "  {} ({})", path.display(), bytes(size));
        }
    }
    let _ = write!(text, "built in {}", seconds(outcome.duration));
    text
}

/// The files directly in an exported directory, and their sizes; a whole root tree is shown as itself.
fn files(directory: &std::path::Path) -> Vec<(std::path::PathBuf, u64)> {
    const MOST: usize = 8;
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => files.push((entry.path(), metadata.len())),
            _ => return Vec::new(),
        }
    }
    files.sort();
    files.truncate(MOST);
    files
}

/// How the errors begin that a machine with another kernel does not have.
const LACKS: [&str; 2] = ["the kernel has no device mapper", "the kernel has no file system"];

/// The error for a build in which a download or a stage failed.
pub(crate) fn failure(outcome: &Outcome) -> CliError {
    let failed: Vec<_> = outcome
        .fetches
        .iter()
        .flat_map(|fetch| fetch.results.iter().map(move |item| (&fetch.source, item)))
        .filter_map(|(source, item)| Some((source, &item.checksum, item.error.as_ref()?)))
        .collect();
    if let Some((source, ..)) = failed.first() {
        let what = format!("`{source}` could not fetch {}", count(failed.len(), "item"));
        let mut error = CliError::new(Kind::Build, what);
        for (_, checksum, reason) in failed.iter().take(TAIL) {
            error = error.place(format!("{checksum}: {reason}"));
        }
        if failed.len() > TAIL {
            error = error.place(format!("and {} more", failed.len() - TAIL));
        }
        let full = ["No space left on device", "too little room"];
        if failed.iter().any(|(_, _, reason)| full.iter().any(|word| reason.contains(word))) {
            return error.hint(MAKE_ROOM);
        }
        return error.hint("what was fetched is kept: run the same command again to go on from there");
    }
    let stage = outcome.pipelines.iter().filter(|pipeline| pipeline.failed).find_map(|pipeline| {
        let stage = pipeline.stages.last()?;
        Some((pipeline, stage))
    });
    let Some((pipeline, stage)) = stage else { return CliError::new(Kind::Build, "the build failed") };
    let reason = stage.reason.as_deref().unwrap_or("it failed");
    let mut error = CliError::new(
        Kind::Build,
        format!("the stage `{}` of the pipeline `{}` failed: {reason}", stage.name, pipeline.name),
    );
    let lines: Vec<&str> = stage.output.trim_end().lines().collect();
    if lines.is_empty() {
        error = error.place("(it wrote nothing)");
    } else {
        error = error.place(lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n"));
    }
    if reason.ends_with(FULL) {
        error = error.hint(MAKE_ROOM);
    }
    if LACKS.iter().any(|words| reason.contains(words)) {
        let hint = format!(
            "or build the pipeline in a virtual machine, whose kernel has it: `--in-vm {}`",
            pipeline.name
        );
        error = error.hint(hint);
    }
    error.hint(format!("the stage's id is {}; `--json` prints its whole output", stage.id))
}
