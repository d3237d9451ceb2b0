//! What must be fetched and built, in which order, and why: plain data, made before anything happens.
//!
//! From what was asked for the plan walks back through build pipelines and pipeline inputs and stops at what the
//! cache holds. Sources are fetched only for stages that will run.

mod describe;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use kiln_api::module::Modules;
use serde::Serialize;

use crate::manifest::{Id, Manifest, Pipeline};

pub use describe::{bytes, count};

/// What the planner asks the cache.
pub trait Cached {
    /// Whether there is an object with an id that was made by a recipe.
    fn object(&self, id: &Id, recipe: &str) -> bool;
    /// Whether an item of a source is there.
    fn item(&self, source: &str, checksum: &str) -> bool;
}

/// What will happen, in this order; what does not depend on each other may happen at the same time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// Downloads, in the order of the pipelines that need them.
    pub fetches: Vec<Fetch>,
    /// Pipelines to be built, each after those it needs.
    pub builds: Vec<Build>,
    /// Objects that are used from the cache.
    pub cached: Vec<CachedPipeline>,
    /// Pipelines whose trees go to the output directory.
    pub exports: Vec<Export>,
    /// Whether every source has one download, and nothing is built before all of them.
    #[serde(skip)]
    pub sources_first: bool,
}

/// A download: items of one source that one pipeline needs and no earlier one did.
#[derive(Clone, Debug, Serialize)]
pub struct Fetch {
    /// The source's name.
    pub source: String,
    /// The pipeline it is for; none when everything was asked for.
    pub pipeline: Option<String>,
    /// The items that are not in the cache.
    pub items: Vec<Item>,
    /// How many further items are in the cache.
    pub cached: usize,
    /// Those, by checksum.
    #[serde(skip)]
    pub present: Vec<String>,
}

/// One item to be fetched.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// Its checksum, which is its name.
    pub checksum: String,
    /// Its size if the manifest says it, in bytes.
    pub size: Option<u64>,
}

/// A pipeline to be built.
#[derive(Clone, Debug, Serialize)]
pub struct Build {
    /// The pipeline's name.
    pub pipeline: String,
    /// Its id.
    #[serde(serialize_with = "id_text")]
    pub id: Id,
    /// Why it is built.
    pub reasons: Vec<Reason>,
    /// The runner that is asked for; none means the host's.
    pub runner: Option<String>,
    /// How many stages are skipped because the cache holds their result.
    pub skipped: usize,
    /// How many stages will run.
    pub stages: usize,
    /// The builds it waits for, by index.
    pub needs: Vec<usize>,
    /// The downloads it waits for, by index.
    pub fetches: Vec<usize>,
}

/// A pipeline that the cache holds.
#[derive(Clone, Debug, Serialize)]
pub struct CachedPipeline {
    /// The pipeline's name.
    pub pipeline: String,
    /// Its id.
    #[serde(serialize_with = "id_text")]
    pub id: Id,
    /// Its recipe.
    #[serde(skip)]
    pub recipe: String,
    /// Why it is needed.
    pub reasons: Vec<Reason>,
}

/// A pipeline whose tree goes to the output directory.
#[derive(Clone, Debug, Serialize)]
pub struct Export {
    /// The name as it was given; also the directory's name.
    pub name: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline's id.
    #[serde(serialize_with = "id_text")]
    pub id: Id,
    /// Its recipe.
    #[serde(skip)]
    pub recipe: String,
}

/// Why a pipeline is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Reason {
    /// It was asked for.
    Requested,
    /// Another pipeline builds with it.
    BuildRoot {
        /// That pipeline.
        of: String,
    },
    /// A stage takes its tree.
    Input {
        /// The pipeline of that stage.
        of: String,
        /// The stage's module.
        stage: String,
    },
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Pipelines to export, by name or id.
    pub exports: Vec<String>,
    /// Further pipelines to build, by name.
    pub builds: Vec<String>,
    /// Fetch all items of all sources, needed or not.
    pub everything: bool,
    /// Fetch as the reference does: every source of the manifest once, in its order and even with nothing to
    /// fetch, before anything is built; and build in the reference's order.
    pub sources_first: bool,
}

/// A request that cannot be planned.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is no such pipeline.
    #[error("the manifest has no pipeline `{name}`")]
    UnknownPipeline {
        /// What was asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The pipeline has no stages and therefore no tree.
    #[error("the pipeline `{name}` has no stages: there is nothing to export")]
    Empty {
        /// The pipeline.
        name: String,
    },
}

/// Plans a request.
pub fn plan(
    manifest: &Manifest,
    modules: &Modules,
    request: &Request,
    cache: &dyn Cached,
) -> Result<Plan, PlanError> {
    let mut planner = Planner {
        manifest,
        modules,
        cache,
        plan: Plan::default(),
        building: HashMap::new(),
        known: HashMap::new(),
        claimed: HashSet::new(),
        needed: request.sources_first.then(HashSet::new),
    };
    for name in &request.exports {
        let pipeline = planner.find(name)?;
        let id = pipeline.id().cloned().ok_or_else(|| PlanError::Empty { name: name.clone() })?;
        planner.visit(pipeline, Reason::Requested);
        let recipe = pipeline.recipe().to_owned();
        planner.plan.exports.push(Export { name: name.clone(), pipeline: pipeline.name.clone(), id, recipe });
    }
    for name in &request.builds {
        let pipeline = planner.find(name)?;
        planner.visit(pipeline, Reason::Requested);
    }
    if request.sources_first {
        planner.fetch_first(request.everything);
    } else if request.everything {
        planner.fetch_everything();
    }
    Ok(planner.plan)
}

impl Plan {
    /// The downloads that are in the cache and will be used, as paths below its directory of downloads.
    pub fn present(&self, modules: &Modules) -> impl Iterator<Item = PathBuf> {
        self.fetches.iter().flat_map(move |fetch| {
            let source = modules.source(&fetch.source);
            fetch.present.iter().filter_map(move |checksum| Some(source?.place(checksum)))
        })
    }
}

struct Planner<'a> {
    manifest: &'a Manifest,
    modules: &'a Modules,
    cache: &'a dyn Cached,
    plan: Plan,
    /// Index of the build of each id.
    building: HashMap<(&'a Id, &'a str), usize>,
    /// What the cache said of each id: it is asked once.
    known: HashMap<(&'a Id, &'a str), bool>,
    /// Items that an earlier download brings, by source.
    claimed: HashSet<(&'a str, &'a str)>,
    /// Items that builds need, by source, if sources are to be fetched first.
    needed: Option<HashSet<(&'a str, &'a str)>>,
}

impl<'a> Planner<'a> {
    fn find(&self, name: &str) -> Result<&'a Pipeline, PlanError> {
        self.manifest.pipeline(name).ok_or_else(|| PlanError::UnknownPipeline {
            name: name.to_owned(),
            known: self.manifest.pipelines.keys().cloned().collect(),
        })
    }

    fn cached(&mut self, id: &'a Id, recipe: &'a str) -> bool {
        let cache = self.cache;
        *self.known.entry((id, recipe)).or_insert_with(|| cache.object(id, recipe))
    }

    /// Plans a pipeline after everything it needs; the index of its build, unless the cache has it.
    fn visit(&mut self, pipeline: &'a Pipeline, reason: Reason) -> Option<usize> {
        let (id, recipe) = (pipeline.id()?, pipeline.recipe());
        if let Some(&index) = self.building.get(&(id, recipe)) {
            if let Some(build) = self.plan.builds.get_mut(index)
                && !build.reasons.contains(&reason)
            {
                build.reasons.push(reason);
            }
            return Some(index);
        }
        if self.cached(id, recipe) {
            match self.plan.cached.iter_mut().find(|cached| cached.id == *id && cached.recipe == recipe) {
                Some(cached) if cached.reasons.contains(&reason) => {}
                Some(cached) => cached.reasons.push(reason),
                None => self.plan.cached.push(CachedPipeline {
                    pipeline: pipeline.name.clone(),
                    id: id.clone(),
                    recipe: recipe.to_owned(),
                    reasons: vec![reason],
                }),
            }
            return None;
        }
        // Only the stages after the last one that the cache holds are run, and only they need anything.
        let skipped = pipeline
            .stages
            .iter()
            .rposition(|stage| self.cached(&stage.id, &stage.recipe))
            .map_or(0, |last| last + 1);
        let todo = pipeline.stages.get(skipped..).unwrap_or_default();
        let mut needs = Vec::new();
        if let Some(build) = pipeline.build.as_ref().and_then(|id| self.manifest.pipeline_by_id(id.as_str()))
        {
            needs.extend(self.visit(build, Reason::BuildRoot { of: pipeline.name.clone() }));
        }
        let mut inputs: Vec<_> =
            todo.iter().map(|stage| (stage, stage.pipeline_references().collect::<Vec<_>>())).collect();
        if self.needed.is_some() {
            // The reference begins with what the last stage takes.
            inputs.reverse();
        }
        for (stage, references) in inputs {
            for input in references.into_iter().filter_map(|id| self.manifest.pipeline_by_id(id)) {
                let reason = Reason::Input { of: pipeline.name.clone(), stage: stage.name.clone() };
                needs.extend(self.visit(input, reason));
            }
        }
        needs.sort_unstable();
        needs.dedup();
        let fetches = self.fetch(pipeline, skipped);
        let index = self.plan.builds.len();
        self.plan.builds.push(Build {
            pipeline: pipeline.name.clone(),
            id: id.clone(),
            reasons: vec![reason],
            runner: pipeline.runner.clone(),
            skipped,
            stages: todo.len(),
            needs,
            fetches,
        });
        self.building.insert((id, recipe), index);
        Some(index)
    }

    /// Plans the downloads of a pipeline. Items of an earlier download are waited for, not fetched again.
    fn fetch(&mut self, pipeline: &'a Pipeline, skipped: usize) -> Vec<usize> {
        let mut waits = Vec::new();
        for source in self.manifest.sources.values() {
            let mut wanted: Vec<&'a str> = Vec::new();
            let mut seen = HashSet::new();
            for reference in pipeline.stages.iter().skip(skipped).flat_map(|stage| stage.source_references())
            {
                if let Some((key, _)) = source.items.get_key_value(reference)
                    && seen.insert(key.as_str())
                {
                    wanted.push(key.as_str());
                }
            }
            if wanted.is_empty() {
                continue;
            }
            if let Some(needed) = &mut self.needed {
                needed.extend(wanted.into_iter().map(|item| (source.kind.as_str(), item)));
                continue;
            }
            let earlier = self.plan.fetches.iter().enumerate().filter(|(_, fetch)| {
                fetch.source == source.kind
                    && fetch.items.iter().any(|item| seen.contains(item.checksum.as_str()))
            });
            waits.extend(earlier.map(|(index, _)| index).collect::<Vec<_>>());
            waits.extend(self.add_fetch(&source.kind, &wanted, Some(&pipeline.name)));
        }
        waits
    }

    fn fetch_everything(&mut self) {
        for source in self.manifest.sources.values() {
            let wanted: Vec<&'a str> = source.items.keys().map(String::as_str).collect();
            self.add_fetch(&source.kind, &wanted, None);
        }
    }

    /// One download for each source, for which all builds wait.
    fn fetch_first(&mut self, everything: bool) {
        let needed = self.needed.take().unwrap_or_default();
        for source in self.manifest.sources.values() {
            let kind = source.kind.as_str();
            let items = source.items.keys().map(String::as_str);
            let wanted: Vec<&'a str> =
                items.filter(|item| everything || needed.contains(&(kind, item))).collect();
            if self.add_fetch(kind, &wanted, None).is_none() {
                self.plan.fetches.push(Fetch {
                    source: kind.to_owned(),
                    pipeline: None,
                    items: Vec::new(),
                    cached: 0,
                    present: Vec::new(),
                });
            }
        }
        for build in &mut self.plan.builds {
            build.fetches = (0..self.plan.fetches.len()).collect();
        }
        self.plan.sources_first = true;
    }

    fn add_fetch(&mut self, source: &'a str, wanted: &[&'a str], pipeline: Option<&str>) -> Option<usize> {
        let module = self.modules.source(source);
        let descriptions = self.manifest.sources.get(source);
        let (mut items, mut present) = (Vec::new(), Vec::new());
        for &checksum in wanted {
            if !self.claimed.insert((source, checksum)) {
                continue;
            }
            if self.cache.item(source, checksum) {
                present.push(checksum.to_owned());
                continue;
            }
            let description = descriptions.and_then(|source| source.items.get(checksum));
            let size =
                module.zip(description).and_then(|(module, item)| module.expected_size(&item.to_value()));
            items.push(Item { checksum: checksum.to_owned(), size });
        }
        if items.is_empty() && present.is_empty() {
            return None;
        }
        let (source, pipeline) = (source.to_owned(), pipeline.map(str::to_owned));
        let fetch = Fetch { source, pipeline, items, cached: present.len(), present };
        self.plan.fetches.push(fetch);
        Some(self.plan.fetches.len() - 1)
    }
}

fn id_text<S: serde::Serializer>(id: &Id, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.as_str())
}
