//! A parsed document with the place of every key and value.
//!
//! TOML and JSON both become this one tree, so everything after it is written once and every finding can
//! point into the text that the user wrote.

use std::ops::Range;

/// A byte range in the definition's text.
pub(crate) type Span = Range<usize>;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placed<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// A key of a table and where it stands.
pub(super) type Key = Placed<String>;

/// A value of the document and where it stands.
pub(super) type Node = Placed<Data>;

/// The kinds of value that TOML and JSON have.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    String(String),
    Integer(i64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Vec<(Key, Node)>),
    /// A kind that no key of a definition has, by its name: `float`, `date`, `null`.
    Other(&'static str),
}

impl Data {
    /// Whether the value says nothing, as the exports of image-builder do for all that is not set.
    pub(super) fn is_void(&self) -> bool {
        match self {
            Self::Array(items) => items.is_empty(),
            Self::String(text) => text.is_empty(),
            Self::Boolean(flag) => !flag,
            _ => false,
        }
    }

    /// The kind as a reader knows it, with its article.
    pub(super) fn kind(&self) -> String {
        let word = match self {
            Self::String(_) => "a string",
            Self::Integer(..0) => "a negative integer",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
            Self::Other(name) => return format!("a {name}"),
        };
        word.to_owned()
    }
}
