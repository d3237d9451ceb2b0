//! Which results are kept in the cache.

use glob::Pattern;

use crate::manifest::{Id, Manifest};

/// Which finished stages are committed to the cache.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints {
    /// Every finished pipeline, beside what the patterns say.
    pub pipelines: bool,
    /// Stage ids that the patterns matched.
    matched: Vec<Id>,
}

/// A pattern that is not one.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint pattern `{pattern}` is not valid")]
pub struct PatternError {
    pattern: String,
    source: glob::PatternError,
}

impl Checkpoints {
    /// Keeps every finished pipeline.
    pub const fn pipelines() -> Self {
        Self { pipelines: true, matched: Vec::new() }
    }

    /// Keeps what shell patterns match: pipeline names (their last stage), stage ids, stage names.
    pub fn matching(manifest: &Manifest, patterns: &[String]) -> Result<Self, PatternError> {
        let compile = |pattern: &String| {
            Pattern::new(pattern).map_err(|source| PatternError { pattern: pattern.clone(), source })
        };
        let patterns = patterns.iter().map(compile).collect::<Result<Vec<_>, _>>()?;
        // As in Python's `fnmatch`, `*` also matches `/`.
        let matches = |text: &str| patterns.iter().any(|pattern| pattern.matches(text));
        let mut matched = Vec::new();
        for pipeline in manifest.pipelines.values() {
            if matches(&pipeline.name) {
                matched.extend(pipeline.id().cloned());
            }
            let stages = pipeline.stages.iter();
            let stages = stages.filter(|stage| matches(stage.id.as_str()) || matches(&stage.name));
            matched.extend(stages.map(|stage| stage.id.clone()));
        }
        matched.sort_unstable();
        matched.dedup();
        Ok(Self { pipelines: false, matched })
    }

    /// The stages that the patterns matched.
    pub fn matched(&self) -> &[Id] {
        &self.matched
    }

    /// Whether the result of a stage in mid-pipeline is kept.
    pub(super) fn stage(&self, id: &Id) -> bool {
        self.matched.binary_search(id).is_ok()
    }

    /// Whether the result of a pipeline is kept.
    pub(super) fn pipeline(&self, id: &Id) -> bool {
        self.pipelines || self.stage(id)
    }
}
