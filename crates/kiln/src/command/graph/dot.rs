//! A graph for Graphviz.
//!
//! <https://graphviz.org/doc/info/lang.html>, <https://graphviz.org/docs/attr-types/escString/>

use std::fmt::Write as _;

use super::model::{EdgeKind, Graph, NodeKind};

pub(super) fn draw(graph: &Graph) -> String {
    let mut out = "digraph manifest {\n".to_owned();
    out.push_str("    node [shape=box, fontname=\"sans-serif\", fontsize=11]\n");
    out.push_str("    edge [fontname=\"sans-serif\", fontsize=9]\n");
    for (index, node) in graph.nodes.iter().enumerate() {
        let shape = match node.kind {
            NodeKind::Source => "cylinder",
            NodeKind::Pipeline => "box, style=rounded",
        };
        let _ = write!(out, "    n{index} [shape={shape}, label=\"{}\\n", escaped(&node.title));
        for line in &node.lines {
            // Lines below the title begin at the left.
            let _ = write!(out, "{}\\l", escaped(line));
        }
        out.push_str("\"]\n");
    }
    for edge in &graph.edges {
        let style = match edge.kind {
            EdgeKind::Input => "solid",
            EdgeKind::BuildRoot => "dashed",
        };
        let label = escaped(&edge.label);
        let _ = writeln!(out, "    n{} -> n{} [style={style}, label=\"{label}\"]", edge.from, edge.to);
    }
    out.push_str("}\n");
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            // A backslash begins things like the name of the graph, an ampersand entities of HTML.
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '&' => out.push_str("&amp;"),
            other => out.push(other),
        }
    }
    out
}
