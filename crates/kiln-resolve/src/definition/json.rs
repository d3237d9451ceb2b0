//! JSON text to nodes.
//!
//! `serde_json` checks the text and decodes strings and numbers; the walk here only finds where each value
//! begins and ends, and may therefore take for granted that the text is well formed.

use serde::de::IgnoredAny;

use super::node::{Data, Node, Placed};
use super::report::Report;

/// Parses JSON; a syntax error is reported, and then there is no node.
pub(super) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Walk { text, at: 0 }.node(),
        Err(error) => {
            let at = offset(text, error.line(), error.column());
            let full = error.to_string();
            let message = full.split(" at line ").next().unwrap_or(&full);
            report.add(at..at, format!("this is not valid JSON: {message}"), None);
            None
        }
    }
}

/// The byte offset of a line and column that both count from one; `serde_json` counts bytes.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let mut at = (start + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl Walk<'_> {
    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.get(self.at..)?;
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.text.as_bytes().get(self.at).copied()
    }

    fn node(&mut self) -> Option<Node> {
        let first = self.peek()?;
        let start = self.at;
        let value = match first {
            b'{' => Data::Table(self.list(b'}', |walk| {
                walk.peek()?;
                let start = walk.at;
                let name = walk.string()?;
                let key = Placed { value: name, span: start..walk.at };
                walk.peek()?;
                walk.at += 1;
                Some((key, walk.node()?))
            })?),
            b'[' => Data::Array(self.list(b']', Self::node)?),
            b'"' => Data::String(self.string()?),
            _ => self.literal()?,
        };
        Some(Placed { value, span: start..self.at })
    }

    /// Everything up to the closing bracket, the commas skipped.
    fn list<T>(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            match self.peek()? {
                byte if byte == close => {
                    self.at += 1;
                    return Some(items);
                }
                b',' => self.at += 1,
                _ => items.push(item(self)?),
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        let start = self.at;
        let mut escaped = false;
        let end = self.text.get(start + 1..)?.bytes().position(|byte| {
            let end = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            end
        })?;
        self.at = start + 1 + end + 1;
        serde_json::from_str(self.text.get(start..self.at)?).ok()
    }

    fn literal(&mut self) -> Option<Data> {
        let rest = self.text.get(self.at..)?;
        let length = rest.find([',', '}', ']', ' ', '\t', '\r', '\n']).unwrap_or(rest.len());
        let word = rest.get(..length)?;
        self.at += length;
        Some(match word {
            "true" => Data::Boolean(true),
            "false" => Data::Boolean(false),
            "null" => Data::Other("null"),
            number => number.parse().map_or(Data::Other("float"), Data::Integer),
        })
    }
}
