//! A drawing for browsers, of our own layout.
//!
//! Text is monospaced, so that its width is known without a font. The colours follow what the reader prefers, light or
//! dark, and the drawing brings its own background.

use std::fmt::Write as _;

use super::layout::{Route, Task, layout};
use super::model::{EdgeKind, Graph, Node, NodeKind};

/// The size of the text in boxes.
const SIZE: f64 = 12.0;
/// The size of labels.
const SMALL: f64 = 10.0;
/// The width of a character to its size: monospaced fonts have 0.60, and some a little more.
const ADVANCE: f64 = 0.62;
/// From line to line.
const LINE: f64 = 16.0;
/// Between text and box.
const INSIDE: f64 = 10.0;

/// Without variables, which drawing programs other than browsers do not know.
const STYLE: &str = "\
text { font-family: ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; font-size: 12px; fill: #1f2328 }
.title { font-weight: bold }
.label { font-size: 10px; text-anchor: middle; fill: #59636e }
.paper { fill: #ffffff }
.pipeline { fill: #eef4fc; stroke: #6e7781 }
.source { fill: #f8f1dd; stroke: #6e7781 }
.input { fill: none; stroke: #6e7781; stroke-width: 1.3 }
.root { fill: none; stroke: #6e7781; stroke-width: 1.3; stroke-dasharray: 5 4 }
.tip { fill: #6e7781 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .label { fill: #9198a1 }
  .paper { fill: #0d1117 }
  .pipeline { fill: #16233a }
  .source { fill: #2e2817 }
}
";

/// Draws the graph of the manifest that is called by a name.
pub(super) fn draw(graph: &Graph, name: &str) -> String {
    let task = Task {
        boxes: graph.nodes.iter().map(size).collect(),
        arrows: graph.edges.iter().map(|edge| (edge.from, edge.to, width(&edge.label, SMALL))).collect(),
        label_height: SMALL + 4.0,
    };
    let layout = layout(&task);
    let (w, h) = (layout.width.ceil(), layout.height.ceil());
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\">"
    );
    let _ = writeln!(out, "<title>{}</title>", escaped(name));
    let _ = writeln!(out, "<style>\n{STYLE}</style>");
    out.push_str(
        "<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path class=\"tip\" d=\"M0 0.5L8 4L0 7.5z\"/></marker></defs>\n",
    );
    let _ = writeln!(out, "<rect class=\"paper\" width=\"{w}\" height=\"{h}\"/>");
    for (edge, route) in graph.edges.iter().zip(&layout.arrows) {
        let class = match edge.kind {
            EdgeKind::Input => "input",
            EdgeKind::BuildRoot => "root",
        };
        let _ = writeln!(out, "<path class=\"{class}\" marker-end=\"url(#tip)\" d=\"{}\"/>", way(route));
    }
    // Labels lie on their arrows, on a piece of paper.
    for (edge, route) in graph.edges.iter().zip(&layout.arrows) {
        let ((x, y), width) = (route.label, width(&edge.label, SMALL));
        let _ = write!(
            out,
            "<rect class=\"paper\" x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
            x - width / 2.0,
            y - SMALL / 2.0 - 2.0,
            SMALL + 4.0
        );
        let _ = writeln!(
            out,
            "<text class=\"label\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            y + SMALL * 0.35,
            escaped(&edge.label)
        );
    }
    for ((node, (width, height)), (x, y)) in graph.nodes.iter().zip(&task.boxes).zip(&layout.boxes) {
        let (class, corner) = match node.kind {
            NodeKind::Source => ("source", 14),
            NodeKind::Pipeline => ("pipeline", 4),
        };
        let left = x - width / 2.0;
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{corner}\"/>"
        );
        let mut line_y = y + INSIDE + SIZE * 0.8;
        for (index, line) in std::iter::once(&node.title).chain(&node.lines).enumerate() {
            let class = if index == 0 { " class=\"title\"" } else { "" };
            let _ = writeln!(
                out,
                "<text{class} x=\"{:.1}\" y=\"{line_y:.1}\" xml:space=\"preserve\">{}</text>",
                left + INSIDE,
                escaped(line)
            );
            line_y += LINE;
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Width and height of a box.
fn size(node: &Node) -> (f64, f64) {
    let lines = || std::iter::once(&node.title).chain(&node.lines);
    let widest = lines().map(|line| width(line, SIZE)).fold(0.0, f64::max);
    let height = lines().fold(0.0, |height, _| height + LINE);
    (widest + 2.0 * INSIDE, height - (LINE - SIZE) + 2.0 * INSIDE)
}

/// The width of a text. Characters beyond the alphabets are twice as wide.
fn width(text: &str, size: f64) -> f64 {
    text.chars()
        .map(
            |character| {
                if character < '\u{1100}' || character == '…' {
                    size * ADVANCE
                } else {
                    2.0 * size * ADVANCE
                }
            },
        )
        .sum()
}

/// The way of an arrow: straight through rows, bent between them.
fn way(route: &Route) -> String {
    let mut out = String::new();
    let mut last: Option<(f64, f64)> = None;
    for &(x, y) in &route.points {
        let _ = match last {
            None => write!(out, "M{x:.1} {y:.1}"),
            Some((from_x, from_y)) if (from_x - x).abs() < 0.05 || y - from_y < 0.05 => {
                write!(out, "L{x:.1} {y:.1}")
            }
            Some((from_x, from_y)) => {
                let middle = (from_y + y) / 2.0;
                write!(out, "C{from_x:.1} {middle:.1} {x:.1} {middle:.1} {x:.1} {y:.1}")
            }
        };
        last = Some((x, y));
    }
    out
}

/// A text for XML, which does not have every character.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push(char::REPLACEMENT_CHARACTER),
            other if other.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            other => out.push(other),
        }
    }
    out
}
