//! What differs between two trees, in every respect that a copy must keep.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rustix::fs::FileType;
use serde::Serialize;

use super::TreeError;
use super::escape::escape;
use super::scan::{Item, Listing, hexadecimal, order};

/// In which respect two trees differ at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// Whether it is there; the value is its type.
    Entry,
    /// Its type.
    Type,
    /// Its size in bytes.
    Size,
    /// Its content; the values are SHA-256 digests.
    Content,
    /// Where a symbolic link points.
    Target,
    /// The numbers of a device.
    Device,
    /// User and group, by number.
    Owner,
    /// Permission, set-id and sticky bits, in octal.
    Mode,
    /// The time of modification, in seconds with nanoseconds.
    Mtime,
    /// An extended attribute; the values are hexadecimal.
    Xattr,
    /// The other names of the same file in the tree.
    HardLinks,
}

impl fmt::Display for Aspect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Entry => "entry",
            Self::Type => "type",
            Self::Size => "size",
            Self::Content => "content",
            Self::Target => "target",
            Self::Device => "device",
            Self::Owner => "owner",
            Self::Mode => "mode",
            Self::Mtime => "mtime",
            Self::Xattr => "xattr",
            Self::HardLinks => "hard links",
        })
    }
}

/// One difference at one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The path relative to the roots, `.` for the roots; special bytes are written `\xNN`.
    pub path: String,
    /// What differs.
    pub aspect: Aspect,
    /// The extended attribute's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the first tree has; absent where it has nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
    /// What the second tree has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<String>,
}

impl fmt::Display for Difference {
    /// `etc/passwd: mode 0644 != 0600`, `etc/motd: only in the first tree (file)`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, aspect, name, left, right } = self;
        match (aspect, left, right) {
            (Aspect::Entry, Some(kind), None) => write!(formatter, "{path}: only in the first tree ({kind})"),
            (Aspect::Entry, None, Some(kind)) => {
                write!(formatter, "{path}: only in the second tree ({kind})")
            }
            _ => {
                write!(formatter, "{path}: {aspect} ")?;
                if let Some(name) = name {
                    write!(formatter, "{name} ")?;
                }
                let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
                write!(formatter, "{} != {}", value(left), value(right))
            }
        }
    }
}

/// Compares two trees: every path, its type, content, owner, mode, time of modification, extended
/// attributes, device numbers and hard links. The differences come in the order of paths.
pub fn compare(left: &Path, right: &Path, interrupt: &AtomicBool) -> Result<Vec<Difference>, TreeError> {
    let left = Listing::read(left, interrupt)?;
    let right = Listing::read(right, interrupt)?;
    let (left_links, right_links) = (left.hard_links(), right.hard_links());
    let found: Vec<Vec<Difference>> = pairs(&left.items, &right.items)
        .par_iter()
        .map(|pair| {
            let (one, other) = match pair {
                (Some(one), Some(other)) => (one, other),
                (one, other) => return Ok(one_sided(*one, *other)),
            };
            let mut found = Found { item: one, differences: Vec::new() };
            if one.kind != other.kind {
                found.add(Aspect::Type, one.word(), other.word());
            } else if one.kind == FileType::RegularFile {
                if one.stat.stx_size != other.stat.stx_size {
                    found.add(Aspect::Size, one.stat.stx_size.to_string(), other.stat.stx_size.to_string());
                } else if one.stat.stx_size > 0 {
                    let content = (left.content(one, interrupt)?, right.content(other, interrupt)?);
                    found.add(Aspect::Content, content.0, content.1);
                }
            }
            found.attributes(other);
            let names = |links: Option<&Vec<&[u8]>>| {
                let names = links.into_iter().flatten().filter(|name| **name != one.path);
                names.map(|name| escape(name)).collect::<Vec<_>>().join(",")
            };
            let path = one.path.as_slice();
            let links = (names(left_links.get(path)), names(right_links.get(path)));
            found.add_optional(Aspect::HardLinks, None, some(links.0), some(links.1));
            Ok(found.differences)
        })
        .collect::<Result<_, TreeError>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// Both sides' items of each path.
fn pairs<'a>(left: &'a [Item], right: &'a [Item]) -> Vec<(Option<&'a Item>, Option<&'a Item>)> {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    std::iter::from_fn(|| {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => order(&one.path, &other.path),
        };
        Some(match order {
            Ordering::Less => (left.next(), None),
            Ordering::Greater => (None, right.next()),
            Ordering::Equal => (left.next(), right.next()),
        })
    })
    .collect()
}

fn one_sided(left: Option<&Item>, right: Option<&Item>) -> Vec<Difference> {
    let Some(item) = left.or(right) else { return Vec::new() };
    let word = |item: &Item| item.word().to_owned();
    let mut found = Found { item, differences: Vec::new() };
    found.add_optional(Aspect::Entry, None, left.map(word), right.map(word));
    found.differences
}

struct Found<'a> {
    item: &'a Item,
    differences: Vec<Difference>,
}

impl Found<'_> {
    fn attributes(&mut self, other: &Item) {
        let one = self.item;
        if one.kind == other.kind {
            self.add(Aspect::Target, escape(&one.target), escape(&other.target));
            self.add(Aspect::Device, one.device(), other.device());
        }
        self.add(Aspect::Owner, one.owner(), other.owner());
        self.add(Aspect::Mode, one.mode(), other.mode());
        self.add(Aspect::Mtime, one.modified(), other.modified());
        let names: BTreeSet<&CStr> =
            one.xattrs.iter().chain(&other.xattrs).map(|(name, _)| name.as_c_str()).collect();
        for name in names {
            let value = |item: &Item| {
                let found = item.xattrs.iter().find(|(candidate, _)| candidate.as_c_str() == name);
                found.map(|(_, value)| hexadecimal(value))
            };
            let text = Some(escape(name.to_bytes()));
            self.add_optional(Aspect::Xattr, text, value(one), value(other));
        }
    }

    fn add(&mut self, aspect: Aspect, left: impl Into<String>, right: impl Into<String>) {
        self.add_optional(aspect, None, Some(left.into()), Some(right.into()));
    }

    fn add_optional(
        &mut self,
        aspect: Aspect,
        name: Option<String>,
        left: Option<String>,
        right: Option<String>,
    ) {
        if left != right {
            let path = if self.item.path.is_empty() { ".".to_owned() } else { escape(&self.item.path) };
            self.differences.push(Difference { path, aspect, name, left, right });
        }
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
