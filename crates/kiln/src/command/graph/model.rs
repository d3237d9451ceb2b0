//! What is drawn: boxes with lines of text, and arrows between them.

use std::collections::{BTreeMap, HashMap, HashSet};

use clap::ValueEnum;
use kiln_engine::manifest::{Manifest, Pipeline};
use kiln_engine::plan::count;

/// How the stages of a pipeline are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stages {
    /// All of them
    All,
    /// So many that the picture stays small
    Few,
    /// Only how many there are
    Count,
}

/// How many stages of a pipeline a small picture has.
const FEW: usize = 16;

/// How many digits of an id are shown: enough to find it.
const SHORT: usize = 12;

/// The most characters of one line: names are chosen by whoever wrote the manifest.
const LONGEST: usize = 72;

/// A picture of a manifest.
#[derive(Clone, Debug)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<Edge>,
}

/// A box.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    /// Its name.
    pub(super) title: String,
    /// What it says below.
    pub(super) lines: Vec<String>,
}

/// What a box is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeKind {
    Source,
    Pipeline,
}

/// An arrow from what is needed to what needs it.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    pub(super) kind: EdgeKind,
    /// The index of a node.
    pub(super) from: usize,
    /// The index of a node, a later one.
    pub(super) to: usize,
    pub(super) label: String,
}

/// What an arrow means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EdgeKind {
    /// Content goes in: of a source, or a tree.
    Input,
    /// One is the build root of the other.
    BuildRoot,
}

impl Graph {
    /// The picture of a manifest: sources, then pipelines in the order in which they may be built.
    pub(super) fn of(manifest: &Manifest, stages: Stages) -> Self {
        let mut graph = Self { nodes: Vec::new(), edges: Vec::new() };
        // An item may be in several sources; the first one counts.
        let mut source_of: HashMap<&str, usize> = HashMap::new();
        for source in manifest.sources.values() {
            for item in source.items.keys() {
                source_of.entry(item).or_insert(graph.nodes.len());
            }
            let lines = vec![count(source.items.len(), "item")];
            graph.nodes.push(Node { kind: NodeKind::Source, title: line(&source.kind), lines });
        }
        let mut used: HashSet<&str> = HashSet::new();
        // Of pipelines with the same id the first one is referred to.
        let mut pipeline_of: HashMap<&str, usize> = HashMap::new();
        for pipeline in manifest.pipelines.values() {
            let here = graph.nodes.len();
            graph.nodes.push(node(pipeline, stages));
            if let Some(root) = pipeline.build.as_ref().and_then(|id| pipeline_of.get(id.as_str())) {
                let label = match &pipeline.runner {
                    Some(runner) => line(&format!("build root, {runner}")),
                    None => "build root".to_owned(),
                };
                graph.edges.push(Edge { kind: EdgeKind::BuildRoot, from: *root, to: here, label });
            }
            let mut items: BTreeMap<usize, HashSet<&str>> = BTreeMap::new();
            let mut trees: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
            for stage in &pipeline.stages {
                for item in stage.source_references() {
                    if let Some(source) = source_of.get(item) {
                        items.entry(*source).or_default().insert(item);
                        used.insert(item);
                    }
                }
                for id in stage.pipeline_references() {
                    if let Some(tree) = pipeline_of.get(id) {
                        let users = trees.entry(*tree).or_default();
                        if !users.contains(&stage.name.as_str()) {
                            users.push(&stage.name);
                        }
                    }
                }
            }
            for (from, items) in items {
                let label = count(items.len(), "item");
                graph.edges.push(Edge { kind: EdgeKind::Input, from, to: here, label });
            }
            for (from, users) in trees {
                let label = match users.as_slice() {
                    [user] => line(&format!("input of {user}")),
                    users => format!("input of {} modules", users.len()),
                };
                graph.edges.push(Edge { kind: EdgeKind::Input, from, to: here, label });
            }
            if let Some(id) = pipeline.id() {
                pipeline_of.entry(id.as_str()).or_insert(here);
            }
        }
        for (index, source) in manifest.sources.values().enumerate() {
            let unused = source.items.keys().filter(|item| !used.contains(item.as_str())).count();
            if let Some(node) = graph.nodes.get_mut(index).filter(|_| unused > 0) {
                node.lines.push(format!("{unused} not used"));
            }
        }
        graph
    }
}

fn node(pipeline: &Pipeline, stages: Stages) -> Node {
    let mut lines = Vec::new();
    lines.push(match pipeline.id() {
        Some(id) => format!(
            "{} {}",
            count(pipeline.stages.len(), "stage"),
            id.as_str().get(..SHORT).unwrap_or_default()
        ),
        None => "no stages".to_owned(),
    });
    if pipeline.build.is_none() && pipeline.id().is_some() {
        lines.push("built with the host's tools".to_owned());
    }
    let all = pipeline.stages.len();
    let shown = match stages {
        Stages::All => all,
        Stages::Few if all <= FEW => all,
        // One line says how many are left out.
        Stages::Few => FEW - 1,
        Stages::Count => 0,
    };
    let stages = pipeline.stages.iter().take(shown).enumerate();
    lines.extend(stages.map(|(index, stage)| line(&format!("[{}] {}", index + 1, stage.name))));
    if shown > 0 && shown < all {
        lines.push(format!("… and {} more", all - shown));
    }
    Node { kind: NodeKind::Pipeline, title: line(&pipeline.name), lines }
}

/// A text that fits into one line: nothing that controls, and not too long.
fn line(text: &str) -> String {
    let clean = |character: char| if is_text(character) { character } else { char::REPLACEMENT_CHARACTER };
    let mut line: String = text.chars().take(LONGEST).map(clean).collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

/// Whether a character is one to be seen, which XML has, and which does not turn the direction of the others.
fn is_text(character: char) -> bool {
    !(character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}'
        ))
}
