//! Which results are kept in the cache.

mod pattern;

use crate::manifest::{Id, Manifest};
use pattern::Pattern;

/// Which finished stages are committed to the cache.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints {
    /// Every finished pipeline, beside what the patterns say.
    pub pipelines: bool,
    /// Stage ids that the patterns matched.
    matched: Vec<Id>,
}

impl Checkpoints {
    /// Keeps every finished pipeline.
    pub const fn pipelines() -> Self {
        Self { pipelines: true, matched: Vec::new() }
    }

    /// Keeps what shell patterns match: pipeline names (their last stage), stage ids, stage names.
    pub fn matching(manifest: &Manifest, patterns: &[String]) -> Self {
        let patterns: Vec<Pattern> = patterns.iter().map(|pattern| Pattern::new(pattern)).collect();
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
        Self { pipelines: false, matched }
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
