//! Paths into a manifest, and where in its text they point.
//!
//! Positions are not kept while loading; the text is walked again when there is an error to show.

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

impl Place {
    /// The place of a byte offset.
    pub fn at(text: &str, offset: usize, length: usize) -> Self {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = text.get(..offset).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        let column = text.get(start..offset).unwrap_or_default().chars().count() + 1;
        let rest = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
        // A window around the column, so that the caret is always on the screen.
        let skipped = if column > EXCERPT * 3 / 4 { column - EXCERPT / 2 } else { 0 };
        let excerpt: String = rest.chars().skip(skipped).take(EXCERPT).collect();
        let room = excerpt.chars().count().saturating_sub(column - 1 - skipped).max(1);
        let shown = text.get(offset..).unwrap_or_default().lines().next().unwrap_or_default();
        let width = shown.chars().count().min(length.max(1)).min(room);
        Self { line, column, excerpt, indent: column - 1 - skipped, width }
    }

    /// The place of the value at a path: of its key where it has one, and of the deepest part of the path
    /// that exists.
    pub fn of(text: &str, path: &JsonPath) -> Option<Self> {
        let (start, end) = find(text, path)?;
        Some(Self::at(text, start, end - start))
    }

    /// The excerpt with a line of carets below.
    pub fn picture(&self) -> String {
        format!("{}\n{}{}", self.excerpt, " ".repeat(self.indent), "^".repeat(self.width))
    }
}

fn find(text: &str, path: &JsonPath) -> Option<(usize, usize)> {
    let mut parser = Parser::new(text);
    parser.space();
    let mut found = (parser.at, parser.at + 1);
    descend(&mut parser, &path.0, &mut found).ok()?;
    Some(found)
}

fn descend(parser: &mut Parser<'_>, path: &[Step], found: &mut (usize, usize)) -> Result<(), SyntaxError> {
    let start = parser.at;
    let Some((step, rest)) = path.split_first() else {
        let scalar = !matches!(parser.peek(), Some(b'{' | b'['));
        parser.value(0)?;
        // A container is shown by its key, or by its first character.
        if scalar {
            *found = (start, parser.at);
        }
        return Ok(());
    };
    match (parser.peek(), step) {
        (Some(b'{'), Step::Key(wanted)) => parser.members(|parser, key| {
            if key == *wanted {
                *found = parser.key;
                descend(parser, rest, found)
            } else {
                parser.value(0).map(|_| ())
            }
        }),
        (Some(b'['), Step::Index(wanted)) => parser.items(|parser, index| {
            if index == *wanted {
                *found = (parser.at, parser.at + 1);
                descend(parser, rest, found)
            } else {
                parser.value(0).map(|_| ())
            }
        }),
        _ => parser.value(0).map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
