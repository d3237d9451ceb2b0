//! What a comparison says: pipelines, stages and sources, and the causes of what is built again.

use super::change::Change;
use crate::manifest::{Format, Id};

/// What differs between two manifests.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The formats, where they differ. No id depends on them.
    pub formats: Option<(Format, Format)>,
    /// What differs in the manifest's own metadata. No id depends on it.
    pub metadata: Vec<Change>,
    /// Whether the pipelines that are in both stand in another order. No id depends on it.
    pub reordered: bool,
    /// All pipelines, equal ones too: in the order of the second manifest, what was removed at its place.
    pub pipelines: Vec<PipelineComparison>,
    /// Sources that differ.
    pub sources: Vec<SourceComparison>,
}

/// Two pipelines that belong together, or one that is in one manifest only.
#[derive(Clone, Debug)]
pub struct PipelineComparison {
    /// The name in the first manifest; none if it was added.
    pub old_name: Option<String>,
    /// The name in the second manifest; none if it was removed.
    pub new_name: Option<String>,
    /// The id in the first manifest, if it has stages.
    pub old_id: Option<Id>,
    /// The id in the second manifest, if it has stages.
    pub new_id: Option<Id>,
    /// What differs beside the stages: `build`, `runner`, `source-epoch`.
    pub changes: Vec<Change>,
    /// All stages, equal ones too.
    pub stages: Vec<StageComparison>,
}

/// Two stages that belong together, or one that is in one manifest only.
#[derive(Clone, Debug)]
pub struct StageComparison {
    /// The module's name.
    pub name: String,
    /// Place and id in the first manifest; none if it was added.
    pub old: Option<StageSide>,
    /// Place and id in the second manifest; none if it was removed.
    pub new: Option<StageSide>,
    /// Whether it stands at another place among the stages that are in both.
    pub moved: bool,
    /// What differs in the stage itself.
    pub changes: Vec<Change>,
    /// Whether it is built again.
    pub verdict: Verdict,
    /// Why, the first cause first.
    pub causes: Vec<Cause>,
}

/// A stage in one of the manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageSide {
    /// Its place in the pipeline, from 0.
    pub index: usize,
    /// Its id.
    pub id: Id,
}

/// Whether the result of a stage is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the same.
    Same,
    /// The id is the same, but the result depends on more than that, which differs.
    SameId,
    /// The id differs.
    OtherId,
}

/// Why a stage is built again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// What the stage itself says.
    Own,
    /// Its build root.
    BuildRoot(Origin),
    /// The pipeline's source epoch.
    SourceEpoch(Origin),
    /// The runner of its build root. Ids do not depend on it.
    Runner(Origin),
    /// A pipeline whose tree it takes as input.
    Input {
        /// The name of the input.
        input: String,
        /// What it began with.
        origin: Origin,
    },
    /// What is before it in the pipeline.
    Before(Origin),
}

impl Cause {
    /// What it began with; none for what the stage itself says.
    pub const fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Own => None,
            Self::BuildRoot(origin)
            | Self::SourceEpoch(origin)
            | Self::Runner(origin)
            | Self::Before(origin) => Some(origin),
            Self::Input { origin, .. } => Some(origin),
        }
    }
}

/// Something that was changed itself, and that other things depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The pipeline, by its name in the manifest that has it, rather the second one.
    pub pipeline: String,
    /// What was changed there.
    pub what: What,
}

/// What was changed in a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A stage.
    Stage {
        /// Its place, from 0: in the second manifest, of a removed one in the first.
        index: usize,
        /// The module's name.
        name: String,
        /// What happened to it.
        fate: Fate,
    },
    /// Which pipeline is the build root.
    BuildRoot,
    /// The source epoch.
    SourceEpoch,
    /// The runner of the build root.
    Runner,
}

/// What happened to a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It says something else.
    Changed,
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// It is at another place.
    Moved,
}

/// Sources of one module.
#[derive(Clone, Debug)]
pub struct SourceComparison {
    /// The module's name.
    pub kind: String,
    /// Whether the first manifest has any.
    pub in_old: bool,
    /// Whether the second manifest has any.
    pub in_new: bool,
    /// What differs, below `items` and `options`.
    pub changes: Vec<Change>,
}

impl Comparison {
    /// Whether the manifests say the same, whatever the order of keys.
    pub fn is_equal(&self) -> bool {
        self.formats.is_none()
            && self.metadata.is_empty()
            && !self.reordered
            && self.sources.is_empty()
            && self.pipelines.iter().all(PipelineComparison::is_equal)
    }
}

impl PipelineComparison {
    /// Whether both are there and say the same.
    pub fn is_equal(&self) -> bool {
        self.old_name.is_some()
            && self.old_name == self.new_name
            && self.changes.is_empty()
            && self.stages.iter().all(StageComparison::is_equal)
    }
}

impl StageComparison {
    /// Whether both are there, say the same, and give the same.
    pub fn is_equal(&self) -> bool {
        self.old.is_some()
            && self.new.is_some()
            && !self.moved
            && self.changes.is_empty()
            && self.verdict == Verdict::Same
    }

    /// What happened to the stage itself, if anything.
    pub fn fate(&self) -> Option<Fate> {
        match (&self.old, &self.new) {
            (None, _) => Some(Fate::Added),
            (_, None) => Some(Fate::Removed),
            _ if self.moved => Some(Fate::Moved),
            _ => (!self.changes.is_empty()).then_some(Fate::Changed),
        }
    }
}
