//! Paths into a manifest, and where in its text they point.
//!
//! Positions are not kept while loading; the text is walked again when there is an error to show.

use std::collections::HashMap;
use std::fmt;

use super::json::{Parser, SyntaxError};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Into an object.
    Key(String),
    /// Into an array.
    Index(usize),
}

/// A path from the manifest's root to a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JsonPath(pub Vec<Step>);

impl JsonPath {
    /// The path with a key added.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Key(key.to_owned()));
        path
    }

    /// The path with an index added.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Index(index));
        path
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str(".");
        }
        for step in &self.0 {
            match step {
                Step::Key(key) if key.contains(' ') => write!(formatter, ".'{key}'")?,
                Step::Key(key) => write!(formatter, ".{key}")?,
                Step::Index(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A place in a text, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// Counted in characters, from 1.
    pub column: usize,
    /// The line's text, or the part of it around the column.
    pub excerpt: String,
    /// How many characters of the excerpt come before the caret.
    pub indent: usize,
    /// How many characters the caret underlines.
    pub width: usize,
}

/// Longest excerpt, in characters: manifests are often one long line.
const EXCERPT: usize = 100;

/// What is to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Target<'p> {
    /// The path of a value.
    pub path: &'p JsonPath,
    /// Whether its key is shown rather than the value.
    pub key: bool,
}

impl Place {
    /// The place of a byte offset.
    pub fn at(text: &str, offset: usize, length: usize) -> Self {
        let mut cursor = Cursor::new(text);
        cursor.advance(offset);
        cursor.place(length)
    }

    /// The place of the value at a path: of its key where it has one, and of the deepest part of the path
    /// that exists.
    pub fn of(text: &str, path: &JsonPath) -> Option<Self> {
        Self::of_all(text, &[Target { path, key: false }]).pop().flatten()
    }

    /// The places of many values, as [`Place::of`] gives each of them, from one walk through the text.
    pub fn of_all(text: &str, targets: &[Target<'_>]) -> Vec<Option<Self>> {
        let mut wanted = Wanted::default();
        for (index, target) in targets.iter().enumerate() {
            wanted.add(&target.path.0, index, target.key);
        }
        let mut spans = vec![None; targets.len()];
        let mut parser = Parser::new(text);
        parser.space();
        let root = (parser.at, parser.at + 1);
        // A text that is no JSON has the places that come before its fault.
        let _ = walk(&mut parser, &wanted, root, &mut spans);
        let mut order: Vec<(usize, Span)> =
            spans.iter().enumerate().filter_map(|(index, span)| Some((index, (*span)?))).collect();
        order.sort_unstable_by_key(|(_, (start, _))| *start);
        let mut places = vec![None; targets.len()];
        let mut cursor = Cursor::new(text);
        for (index, (start, end)) in order {
            cursor.advance(start);
            places[index] = Some(cursor.place(end - start));
        }
        places
    }

    /// The excerpt with a line of carets below.
    pub fn picture(&self) -> String {
        format!("{}\n{}{}", self.excerpt, " ".repeat(self.indent), "^".repeat(self.width))
    }
}

/// Goes forward through a text and counts lines and columns.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    line_start: usize,
    column: usize,
}

impl<'a> Cursor<'a> {
    const fn new(text: &'a str) -> Self {
        Self { text, at: 0, line: 1, line_start: 0, column: 1 }
    }

    fn part(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end).unwrap_or_default()
    }

    /// Goes on to a byte, never back.
    fn advance(&mut self, to: usize) {
        let mut to = to.min(self.text.len());
        while !self.text.is_char_boundary(to) {
            to -= 1;
        }
        let passed = self.part(self.at, to);
        if let Some(last) = passed.rfind('\n') {
            self.line += passed.matches('\n').count();
            self.line_start = self.at + last + 1;
            self.column = self.part(self.line_start, to).chars().count() + 1;
        } else {
            self.column += passed.chars().count();
        }
        self.at = to;
    }

    fn place(&self, length: usize) -> Place {
        // A window around the column, so that the caret is always on the screen.
        let (start, indent) = if self.column > EXCERPT * 3 / 4 {
            let back = EXCERPT / 2 - 1;
            let before = self.part(self.line_start, self.at).char_indices().rev().nth(back - 1);
            (before.map_or(self.line_start, |(index, _)| self.line_start + index), back)
        } else {
            (self.line_start, self.column - 1)
        };
        let rest_of_line = |from: usize| {
            let rest = self.part(from, self.text.len()).chars();
            rest.take_while(|character| !matches!(character, '\n' | '\r'))
        };
        // Each character takes one column, or the caret would miss its place.
        let visible = |character: char| if character.is_control() { ' ' } else { character };
        let excerpt: String = rest_of_line(start).take(EXCERPT).map(visible).collect();
        let room = excerpt.chars().count().saturating_sub(indent).max(1);
        let end = self.at + length.max(1);
        let shown = rest_of_line(self.at).take(room).scan(self.at, |at, character| {
            let inside = *at < end;
            *at += character.len_utf8();
            inside.then_some(())
        });
        // At the end of a line there is nothing to underline, and yet it is the place.
        let width = shown.count().max(1);
        Place { line: self.line, column: self.column, excerpt, indent, width }
    }
}

/// The bytes of a value or a key.
type Span = (usize, usize);

/// The paths that are looked for, as a tree of steps.
#[derive(Default)]
struct Wanted<'p> {
    /// Who wants this value, and whether its key.
    here: Vec<(usize, bool)>,
    below: HashMap<&'p Step, Wanted<'p>>,
}

impl<'p> Wanted<'p> {
    fn add(&mut self, path: &'p [Step], index: usize, key: bool) {
        match path.split_first() {
            Some((step, rest)) => self.below.entry(step).or_default().add(rest, index, key),
            None => self.here.push((index, key)),
        }
    }

    /// The place of everything that is wanted here or below, until a better one is found.
    fn fill(&self, span: Span, spans: &mut [Option<Span>]) {
        for (index, _) in &self.here {
            spans[*index] = Some(span);
        }
        for wanted in self.below.values() {
            wanted.fill(span, spans);
        }
    }
}

/// Walks a value. `span` is the place of its key where it has one, or its first character.
fn walk(
    parser: &mut Parser<'_>,
    wanted: &Wanted<'_>,
    span: Span,
    spans: &mut [Option<Span>],
) -> Result<(), SyntaxError> {
    let start = parser.at;
    wanted.fill(span, spans);
    match parser.peek() {
        Some(b'{') if !wanted.below.is_empty() => parser.members(|parser, key| {
            let place = parser.key;
            match wanted.below.get(&Step::Key(key)) {
                Some(below) => walk(parser, below, place, spans),
                None => parser.value(0).map(|_| ()),
            }
        }),
        Some(b'[') if !wanted.below.is_empty() => parser.items(|parser, index| {
            let place = (parser.at, parser.at + 1);
            match wanted.below.get(&Step::Index(index)) {
                Some(below) => walk(parser, below, place, spans),
                None => parser.value(0).map(|_| ()),
            }
        }),
        Some(b'{' | b'[') => parser.value(0).map(|_| ()),
        _ => {
            parser.value(0)?;
            // A container is shown by its key, or by its first character; anything else as it stands there.
            for (index, key) in &wanted.here {
                if !key {
                    spans[*index] = Some((start, parser.at));
                }
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_places_are_those_of_each() {
        let text = "{\"a\": {\"b\": [1, \"zwölf\", {\"c\": null}]},\n\t\"d\": true, \"d\": false}";
        let root = JsonPath::default();
        let paths = [
            root.key("d"),
            root.key("a").key("b").index(1),
            root.key("a").key("b").index(2).key("c"),
            root.key("a").key("b").index(2).key("x").key("y"),
            root.key("a").key("b").index(9),
            root.key("a"),
            root.clone(),
            root.key("a").key("b").index(1).key("z"),
        ];
        let targets: Vec<Target<'_>> = paths.iter().map(|path| Target { path, key: false }).collect();
        let all = Place::of_all(text, &targets);
        for (path, place) in paths.iter().zip(&all) {
            assert_eq!(*place, Place::of(text, path), "{path}");
        }
        let shown: Vec<_> = all.iter().flatten().map(|p| (p.line, p.column, p.width)).collect();
        let expected =
            [(2, 18, 5), (1, 17, 7), (1, 32, 4), (1, 26, 1), (1, 8, 3), (1, 2, 3), (1, 1, 1), (1, 17, 1)];
        assert_eq!(shown, expected);
        let key = Place::of_all(text, &[Target { path: &paths[0], key: true }]);
        assert_eq!(
            key[0].as_ref().expect("a place").picture(),
            " \"d\": true, \"d\": false}\n            ^^^"
        );
    }

    #[test]
    fn paths_point_at_values_keys_and_what_is_nearest() {
        let text = "{\n  \"pipelines\": [\n    {\"name\": \"tree\", \"stages\": []}\n  ]\n}";
        let root = JsonPath::default();
        let cases = [
            (
                root.key("pipelines").index(0).key("name"),
                "    {\"name\": \"tree\", \"stages\": []}\n             ^^^^^^",
            ),
            (
                root.key("pipelines").index(0).key("stages"),
                "    {\"name\": \"tree\", \"stages\": []}\n                     ^^^^^^^^",
            ),
            (root.key("pipelines").index(7), "  \"pipelines\": [\n  ^^^^^^^^^^^"),
            (root.key("nothing"), "{\n^"),
        ];
        for (path, expected) in cases {
            assert_eq!(Place::of(text, &path).expect("a place").picture(), expected, "{path}");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("[{}\"here\", 2]", "1, ".repeat(400));
        let place = Place::of(&text, &JsonPath::default().index(400)).expect("a place");
        let picture = place.picture();
        let (line, carets) = picture.split_once('\n').expect("two lines");
        assert_eq!((place.line, place.column), (1, 1202));
        assert_eq!(line.find("\"here\""), carets.find('^'));
        assert!(line.len() <= EXCERPT);
    }
}
