//! A flow chart for Mermaid.
//!
//! Names stand in quotes only, where every character that could mean something is written by its number: `#35;`.
//! <https://mermaid.js.org/syntax/flowchart.html>

use std::fmt::Write as _;

use super::model::{EdgeKind, Graph, NodeKind};

pub(super) fn draw(graph: &Graph) -> String {
    let mut out = "flowchart TB\n".to_owned();
    for (index, node) in graph.nodes.iter().enumerate() {
        let mut label = format!("<b>{}</b>", escaped(&node.title));
        for line in &node.lines {
            let _ = write!(label, "<br>{}", escaped(line));
        }
        let _ = match node.kind {
            NodeKind::Source => writeln!(out, "    n{index}[(\"{label}\")]"),
            NodeKind::Pipeline => writeln!(out, "    n{index}[\"{label}\"]"),
        };
    }
    for edge in &graph.edges {
        let arrow = match edge.kind {
            EdgeKind::Input => "-->",
            EdgeKind::BuildRoot => "-.->",
        };
        let _ = writeln!(out, "    n{} {arrow}|\"{}\"| n{}", edge.from, escaped(&edge.label), edge.to);
    }
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_alphanumeric() || matches!(character, ' ' | '.' | ',' | '…') {
            out.push(character);
        } else if matches!(character, '-' | '_') && out.ends_with(char::is_alphanumeric) {
            // Inside a word they mean nothing.
            out.push(character);
        } else {
            let _ = write!(out, "#{};", u32::from(character));
        }
    }
    out
}
