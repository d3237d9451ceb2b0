//! What differs between two manifests, and what made the ids differ: why something will be built again.
//!
//! Pipelines belong together by name, or by id where one was renamed; stages by what they say (`align.rs`).
//! For each stage that will be built again there is at least one [`Cause`]: its own options, or something else, then
//! with the [`Origin`] it all began with. Causes are followed in the order in which things are built, so that an origin
//! is always something that was changed itself.
//!
//! Two stages of one id may still differ in their recipes ([`crate::recipe`]): then the result is built again although
//! its id is the same. Recipes are compared where both manifests have them.

mod align;
mod change;
mod comparison;
mod content;

use std::collections::HashMap;

use indexmap::IndexMap;

use self::align::{Item, Side, Step, align};
pub use self::change::{Change, Edit};
use self::change::{Numbers, changes, features, text};
pub use self::comparison::{
    Cause, Comparison, Fate, Origin, PipelineComparison, SourceComparison, StageComparison, StageSide,
    Verdict, What,
};
use self::content::Names;
use crate::manifest::json::Json;
use crate::manifest::place::JsonPath;
use crate::manifest::{Id, Manifest, ORIGIN_PIPELINE, Pipeline, Source, Stage};

/// Compares two manifests.
pub fn compare(old: &Manifest, new: &Manifest) -> Comparison {
    let pairs = pair(old, new);
    let renamed: HashMap<&str, &str> = pairs
        .iter()
        .filter_map(|(old, new)| Some((old.as_ref()?.name.as_str(), new.as_ref()?.name.as_str())))
        .collect();
    let mut comparer = Comparer {
        old: Names::new(old, |name| renamed.get(name).copied().unwrap_or(name)),
        new: Names::new(new, |name| name),
        origins: HashMap::new(),
    };
    let in_both = || pairs.iter().filter_map(|(old, new)| Some((old.as_ref()?.name.as_str(), new.as_ref()?)));
    let mut places = in_both().map(|(name, _)| old.pipelines.get_index_of(name));
    let mut last = None;
    let reordered = places.any(|place| std::mem::replace(&mut last, place) > place);
    Comparison {
        formats: (old.format != new.format).then_some((old.format, new.format)),
        metadata: unseen(changes(&Json::Object(old.metadata.clone()), &Json::Object(new.metadata.clone()))),
        reordered,
        pipelines: pairs.into_iter().map(|(old, new)| comparer.pipeline(old, new)).collect(),
        sources: sources(old, new),
    }
}

/// Pipelines that belong together: by name, else by id. In the order of the second manifest; what was removed stands
/// before what followed it.
fn pair<'a>(old: &'a Manifest, new: &'a Manifest) -> Vec<(Option<&'a Pipeline>, Option<&'a Pipeline>)> {
    let mut partner: IndexMap<&str, &Pipeline> = IndexMap::new();
    let gone = |pipeline: &&&Pipeline| !new.pipelines.contains_key(&pipeline.name);
    let all: Vec<&Pipeline> = old.pipelines.values().collect();
    let mut left: HashMap<&Id, Vec<&Pipeline>> = HashMap::new();
    for pipeline in all.iter().filter(gone).rev() {
        if let Some(id) = pipeline.id() {
            left.entry(id).or_default().push(pipeline);
        }
    }
    for pipeline in new.pipelines.values() {
        let same_id = || pipeline.id().and_then(|id| left.get_mut(id)).and_then(Vec::pop);
        if let Some(found) = old.pipelines.get(&pipeline.name).or_else(same_id) {
            partner.insert(&found.name, pipeline);
        }
    }
    let of_new: HashMap<&str, &Pipeline> = partner
        .iter()
        .filter_map(|(name, pipeline)| Some((pipeline.name.as_str(), old.pipelines.get(*name)?)))
        .collect();
    let mut pairs = Vec::new();
    let mut removed = all.iter().filter(|pipeline| !partner.contains_key(pipeline.name.as_str())).peekable();
    for pipeline in new.pipelines.values() {
        let found = of_new.get(pipeline.name.as_str()).copied();
        if let Some(found) = found {
            let place = old.pipelines.get_index_of(&found.name);
            while let Some(gone) = removed.next_if(|gone| old.pipelines.get_index_of(&gone.name) < place) {
                pairs.push((Some(*gone), None));
            }
        }
        pairs.push((found, Some(pipeline)));
    }
    pairs.extend(removed.map(|gone| (Some(*gone), None)));
    pairs
}

/// With what a pipeline's difference began: that of its id, and that of its recipe.
#[derive(Clone, Debug, Default)]
struct Origins {
    id: Option<Origin>,
    recipe: Option<Origin>,
}

impl Origins {
    fn add(&mut self, verdict: Verdict, origin: &Origin) {
        if verdict == Verdict::OtherId {
            self.id.get_or_insert_with(|| origin.clone());
        }
        self.recipe.get_or_insert_with(|| origin.clone());
    }
}

struct Comparer<'a> {
    old: Names<'a>,
    new: Names<'a>,
    /// Of the pipelines so far, by their names in the second manifest.
    origins: HashMap<String, Origins>,
}

impl Comparer<'_> {
    fn pipeline(&mut self, old: Option<&Pipeline>, new: Option<&Pipeline>) -> PipelineComparison {
        let mut comparison = PipelineComparison {
            old_name: old.map(|pipeline| pipeline.name.clone()),
            new_name: new.map(|pipeline| pipeline.name.clone()),
            old_id: old.and_then(Pipeline::id).cloned(),
            new_id: new.and_then(Pipeline::id).cloned(),
            changes: Vec::new(),
            stages: Vec::new(),
        };
        match (old, new) {
            (Some(old), Some(new)) => {
                comparison.changes = self.members(old, new);
                comparison.stages = self.stages(old, new);
            }
            (Some(old), None) => {
                comparison.stages =
                    old.stages.iter().enumerate().map(|(i, stage)| removed(stage, i)).collect();
            }
            (_, new) => {
                let stages = new.into_iter().flat_map(|new| &new.stages).enumerate();
                comparison.stages = stages.map(|(j, stage)| added(stage, j)).collect();
            }
        }
        comparison
    }

    /// What differs beside the stages.
    fn members(&self, old: &Pipeline, new: &Pipeline) -> Vec<Change> {
        let mut found = changes(&self.old.pipeline(old), &self.new.pipeline(new));
        for change in &mut found {
            // A build root is its id, and the runner is in no id.
            let by_name = change.path == JsonPath::default().key("build");
            change.in_id = if by_name {
                old.build != new.build
            } else {
                change.path != JsonPath::default().key("runner")
            };
        }
        found
    }

    fn stages(&mut self, old: &Pipeline, new: &Pipeline) -> Vec<StageComparison> {
        let contents = |names: &Names<'_>, pipeline: &Pipeline| {
            pipeline.stages.iter().map(|stage| names.stage(stage)).collect::<Vec<_>>()
        };
        let (old_contents, new_contents) = (contents(&self.old, old), contents(&self.new, new));
        let (mut texts, mut kinds) = (Numbers::default(), Numbers::default());
        let mut items = |pipeline: &Pipeline, contents: &[Json]| {
            let pairs = pipeline.stages.iter().zip(contents);
            pairs
                .map(|(stage, content)| Item {
                    content: texts.of(whole(stage, content)),
                    kind: kinds.of(stage.name.clone()),
                })
                .collect::<Vec<_>>()
        };
        let (old_items, new_items) = (items(old, &old_contents), items(new, &new_contents));
        let of = |side, place: usize| {
            features(if side == Side::Old { &old_contents[place] } else { &new_contents[place] })
        };
        let mut origins = Origins::default();
        let mut comparisons = Vec::with_capacity(new.stages.len());
        for step in align(&old_items, &new_items, &of) {
            let origin = |index, name: &str, fate| Origin {
                pipeline: new.name.clone(),
                what: What::Stage { index, name: name.to_owned(), fate },
            };
            match step {
                Step::Kept(i, j) => {
                    let pair =
                        StagePair { old: (i, &old.stages[i]), new: (j, &new.stages[j]), changes: Vec::new() };
                    comparisons.push(self.stage(pair, (old, new), &mut origins));
                }
                Step::Changed(i, j) => {
                    let changes =
                        stage_changes((&old.stages[i], &old_contents[i]), (&new.stages[j], &new_contents[j]));
                    let pair = StagePair { old: (i, &old.stages[i]), new: (j, &new.stages[j]), changes };
                    comparisons.push(self.stage(pair, (old, new), &mut origins));
                }
                Step::Moved(i, j) => {
                    let stage = &new.stages[j];
                    origins.add(Verdict::OtherId, &origin(j, &stage.name, Fate::Moved));
                    let pair = StagePair { old: (i, &old.stages[i]), new: (j, stage), changes: Vec::new() };
                    let mut comparison = self.stage(pair, (old, new), &mut origins);
                    comparison.moved = true;
                    if comparison.verdict != Verdict::Same {
                        comparison.causes = vec![Cause::Own];
                    }
                    comparisons.push(comparison);
                }
                Step::MovedAway(i, j) => {
                    // Where it is now is what people look for.
                    origins.add(Verdict::OtherId, &origin(j, &old.stages[i].name, Fate::Moved));
                }
                Step::Removed(i) => {
                    origins.add(Verdict::OtherId, &origin(i, &old.stages[i].name, Fate::Removed));
                    comparisons.push(removed(&old.stages[i], i));
                }
                Step::Added(j) => {
                    origins.add(Verdict::OtherId, &origin(j, &new.stages[j].name, Fate::Added));
                    comparisons.push(added(&new.stages[j], j));
                }
            }
        }
        self.origins.insert(new.name.clone(), origins);
        comparisons
    }

    fn stage(
        &self,
        pair: StagePair<'_>,
        pipelines: (&Pipeline, &Pipeline),
        origins: &mut Origins,
    ) -> StageComparison {
        let StagePair { old: (i, old), new: (j, new), changes } = pair;
        let verdict = if old.id != new.id {
            Verdict::OtherId
        } else if old.recipe != new.recipe {
            Verdict::SameId
        } else {
            Verdict::Same
        };
        let causes = match verdict {
            Verdict::Same => Vec::new(),
            _ => self.causes(old, new, &changes, pipelines, verdict, origins),
        };
        if let Some(cause) = causes.first() {
            let what = What::Stage { index: j, name: new.name.clone(), fate: Fate::Changed };
            let own = Origin { pipeline: pipelines.1.name.clone(), what };
            origins.add(verdict, cause.origin().unwrap_or(&own));
        }
        StageComparison {
            name: new.name.clone(),
            old: Some(StageSide { index: i, id: old.id.clone() }),
            new: Some(StageSide { index: j, id: new.id.clone() }),
            moved: false,
            changes,
            verdict,
            causes,
        }
    }

    fn causes(
        &self,
        old: &Stage,
        new: &Stage,
        changes: &[Change],
        (old_pipeline, new_pipeline): (&Pipeline, &Pipeline),
        verdict: Verdict,
        before: &Origins,
    ) -> Vec<Cause> {
        let by_id = verdict == Verdict::OtherId;
        let here = |what| Origin { pipeline: new_pipeline.name.clone(), what };
        let mut causes = Vec::new();
        if changes.iter().any(|change| change.in_id || !by_id) {
            causes.push(Cause::Own);
        }
        let (old_root, new_root) = (old.build.as_ref(), new.build.as_ref());
        let differs = if by_id { old_root != new_root } else { self.recipes_differ(old_root, new_root) };
        if differs {
            let same_name =
                old_root.map(|id| self.old.of(id.as_str())) == new_root.map(|id| self.new.of(id.as_str()));
            let deeper =
                new_root.filter(|_| same_name).and_then(|id| self.origin(self.new.of(id.as_str()), by_id));
            causes.push(Cause::BuildRoot(deeper.unwrap_or_else(|| here(What::BuildRoot))));
        }
        if old_pipeline.source_epoch != new_pipeline.source_epoch {
            causes.push(Cause::SourceEpoch(here(What::SourceEpoch)));
        }
        if !by_id && old_pipeline.runner != new_pipeline.runner {
            causes.push(Cause::Runner(here(What::Runner)));
        }
        for cause in self.inputs(old, new, by_id) {
            // What came by the build root already is told once.
            if !causes.iter().any(|known| known.origin() == cause.origin()) {
                causes.push(cause);
            }
        }
        let changed_before = if by_id { old.base != new.base } else { true };
        let origin = if by_id { &before.id } else { &before.recipe };
        if let Some(origin) = origin
            && changed_before
            && !causes.iter().any(|cause| cause.origin() == Some(origin))
        {
            causes.push(Cause::Before(origin.clone()));
        }
        causes
    }

    /// Inputs whose trees are those of the same pipelines as before, which differ.
    fn inputs(&self, old: &Stage, new: &Stage, by_id: bool) -> Vec<Cause> {
        let mut causes = Vec::new();
        for (name, input) in new.inputs.iter().filter(|(_, input)| input.origin == ORIGIN_PIPELINE) {
            let Some(before) = old.inputs.get(name) else { continue };
            let before: HashMap<&str, &str> =
                before.references.keys().map(|id| (self.old.of(id), id.as_str())).collect();
            for id in input.references.keys() {
                let pipeline = self.new.of(id);
                let Some(old_id) = before.get(pipeline) else { continue };
                let differs =
                    if by_id { old_id != id } else { self.old.recipe(old_id) != self.new.recipe(id) };
                if let Some(origin) = self.origin(pipeline, by_id).filter(|_| differs) {
                    causes.push(Cause::Input { input: name.clone(), origin });
                    break;
                }
            }
        }
        causes
    }

    fn recipes_differ(&self, old: Option<&Id>, new: Option<&Id>) -> bool {
        let recipe = |names: &Names<'_>, id: Option<&Id>| id.map(|id| names.recipe(id.as_str()).to_owned());
        recipe(&self.old, old) != recipe(&self.new, new)
    }

    fn origin(&self, pipeline: &str, by_id: bool) -> Option<Origin> {
        let origins = self.origins.get(pipeline)?;
        if by_id { origins.id.clone() } else { origins.recipe.clone() }
    }
}

/// Two stages that belong together, with their places.
struct StagePair<'a> {
    old: (usize, &'a Stage),
    new: (usize, &'a Stage),
    changes: Vec<Change>,
}

/// All that a stage says, as one text.
fn whole(stage: &Stage, content: &Json) -> String {
    let [(_, inputs), (_, devices)] = content::orders(stage);
    format!("{} {} {inputs} {devices}", stage.name, text(content))
}

/// What differs between two stages of one kind.
fn stage_changes(old: (&Stage, &Json), new: (&Stage, &Json)) -> Vec<Change> {
    let mut found = changes(old.1, new.1);
    for change in &mut found {
        change.in_id = content::in_id(change, old.0, new.0);
    }
    for ((key, before), (_, after)) in content::orders(old.0).into_iter().zip(content::orders(new.0)) {
        let names = |order: &Json| {
            let Json::Array(names) = order else { return Vec::new() };
            let mut names: Vec<String> = names.iter().map(text).collect();
            names.sort_unstable();
            names
        };
        // Where the names differ, that is what is said.
        if before != after && names(&before) == names(&after) {
            let edit = Edit::Changed { old: before, new: after };
            found.push(Change { path: JsonPath::default().key(key), edit, in_id: false });
        }
    }
    found
}

fn removed(stage: &Stage, index: usize) -> StageComparison {
    StageComparison {
        name: stage.name.clone(),
        old: Some(StageSide { index, id: stage.id.clone() }),
        new: None,
        moved: false,
        changes: Vec::new(),
        verdict: Verdict::Same,
        causes: Vec::new(),
    }
}

fn added(stage: &Stage, index: usize) -> StageComparison {
    let verdict = Verdict::OtherId;
    StageComparison {
        old: None,
        new: Some(StageSide { index, id: stage.id.clone() }),
        verdict,
        causes: vec![Cause::Own],
        ..removed(stage, index)
    }
}

/// Changes of what no id depends on.
fn unseen(mut changes: Vec<Change>) -> Vec<Change> {
    changes.iter_mut().for_each(|change| change.in_id = false);
    changes
}

/// Sources that differ. Ids of stages depend on the names of items only, which are in their references.
fn sources(old: &Manifest, new: &Manifest) -> Vec<SourceComparison> {
    let kinds = old.sources.keys().chain(new.sources.keys().filter(|kind| !old.sources.contains_key(*kind)));
    kinds
        .map(|kind| {
            let (before, after) = (old.sources.get(kind), new.sources.get(kind));
            let description =
                |source: Option<&Source>| source.map_or(Json::Object(IndexMap::new()), content::source);
            SourceComparison {
                kind: kind.clone(),
                in_old: before.is_some(),
                in_new: after.is_some(),
                changes: unseen(changes(&description(before), &description(after))),
            }
        })
        .filter(|source| source.in_old != source.in_new || !source.changes.is_empty())
        .collect()
}
