//! What is wrong with a definition, and where.

use std::fmt;
use std::path::{Path, PathBuf};

use super::node::Span;

/// A mistake in a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub message: String,
    /// The definition's name as the user gave it.
    pub file: PathBuf,
    /// The line, from one.
    pub line: usize,
    /// The column in characters, from one.
    pub column: usize,
    /// The offending line with the place underlined, two lines without a final newline.
    pub excerpt: String,
    /// What to do about it, if that is known.
    pub hint: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, file, line, column, excerpt, hint } = self;
        write!(formatter, "{message}\n --> {}:{line}:{column}\n{excerpt}", file.display())?;
        match hint {
            Some(hint) => write!(formatter, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// The text of a definition, for pointing into it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) file: PathBuf,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn new(file: &Path, text: &str) -> Self {
        Self { file: file.to_owned(), text: text.to_owned() }
    }

    /// Makes a finding of a place in the text.
    pub(crate) fn finding(&self, span: &Span, message: String, hint: Option<String>) -> Finding {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let (before, after) = self.text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        let rest = after.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let content = format!("{}{rest}", before.get(line_start..).unwrap_or_default());
        // The underline ends with the line: a place that goes on is known well enough by its first line.
        let length = span.end.saturating_sub(span.start);
        let width = rest.char_indices().take_while(|(at, _)| *at < length).count().max(1);
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs are kept so that the underline stands where the terminal puts the text above it.
        let indent: String =
            content.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let excerpt = format!("{number} | {content}\n{margin} | {indent}{}", "^".repeat(width));
        Finding { message, file: self.file.clone(), line, column, excerpt, hint }
    }
}

/// The findings of one reading, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Report {
    findings: Vec<(Span, String, Option<String>)>,
}

impl Report {
    pub(super) fn add(&mut self, span: Span, message: impl Into<String>, hint: Option<String>) {
        self.findings.push((span, message.into(), hint));
    }

    /// How many findings there are.
    pub(super) fn len(&self) -> usize {
        self.findings.len()
    }

    /// The findings with their places, in the order of the text.
    pub(super) fn finish(mut self, source: &Source) -> Vec<Finding> {
        self.findings.sort_by_key(|(span, ..)| span.start);
        self.findings.into_iter().map(|(span, message, hint)| source.finding(&span, message, hint)).collect()
    }
}
