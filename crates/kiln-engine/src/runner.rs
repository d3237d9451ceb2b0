//! Which runner prepares a build root: the one of exactly that distribution with the highest version not
//! above the requested one.
//!
//! A runner's name is `org.osbuild.DISTRIBUTION VERSION` without the space; the version is the trailing digits.
//! The host's request comes from os-release(5), whose values are words of a shell.
//!
//! The reference refuses an os-release with any line that it cannot read. Here only `ID` and `VERSION_ID` matter; a
//! value that is no single word is kept as it is written, so that no runner fits it.

use std::path::Path;

use crate::manifest::{list, nearest};

/// Where os-release(5) looks, first match wins.
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// What separates words of a shell.
const BLANK: [char; 4] = [' ', '\t', '\r', '\n'];

/// No runner fits a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no runner fits `{requested}`: there are {available}")]
pub struct NoRunner {
    /// The name that was asked for.
    pub requested: String,
    /// The names there are, for the message.
    pub available: String,
    /// A distribution whose name is near.
    pub near: Option<String>,
}

/// Chooses among the available runners.
pub fn choose<'a>(
    requested: &str,
    available: impl Iterator<Item = &'a str> + Clone,
) -> Result<&'a str, NoRunner> {
    let (distribution, version) = split(requested);
    available
        .clone()
        .filter_map(|name| {
            let (own, own_version) = split(name);
            (own == distribution && own_version <= version).then_some((own_version, name))
        })
        .max_by_key(|(version, _)| *version)
        .map(|(_, name)| name)
        .ok_or_else(|| NoRunner {
            requested: requested.to_owned(),
            available: list(available.clone()),
            near: nearest(requested, available).map(str::to_owned),
        })
}

/// Splits a runner's name into distribution and version; no trailing digits are version 0.
fn split(name: &str) -> (&str, Version<'_>) {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    // A name has at least one character, be it a digit.
    let at = (name.len() - digits).max(name.chars().next().map_or(0, char::len_utf8));
    let (distribution, version) = name.split_at(at);
    (distribution, Version::of(version))
}

/// A number of any size: its length and its digits, without leading zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version<'a>(usize, &'a str);

impl<'a> Version<'a> {
    fn of(digits: &'a str) -> Self {
        let digits = digits.trim_start_matches('0');
        Self(digits.len(), digits)
    }
}

/// The request of a system by its os-release: `org.osbuild.` + `ID` + `VERSION_ID` without dots.
pub fn request_of(root: &Path) -> String {
    let text = OS_RELEASE.iter().find_map(|path| std::fs::read(root.join(path)).ok()).unwrap_or_default();
    describe(&String::from_utf8_lossy(&text))
}

fn describe(os_release: &str) -> String {
    let field = |name: &str| {
        os_release
            .split(['\n', '\r'])
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .rfind(|(key, _)| *key == name)
            .map(|(_, value)| single_word(value).unwrap_or_else(|| value.to_owned()))
    };
    let id = field("ID").unwrap_or_else(|| "linux".to_owned());
    let version = field("VERSION_ID").unwrap_or_default().replace('.', "");
    format!("org.osbuild.{id}{version}")
}

/// The only word of a line of shell, without its quotes; none if there are several, or quotes that do not end.
///
/// Single quotes keep everything; within double quotes a backslash stays, except before another one and before the
/// quote. There are no comments.
fn single_word(line: &str) -> Option<String> {
    let mut word = String::new();
    let mut rest = line.trim_matches(BLANK).chars();
    while let Some(character) = rest.next() {
        match character {
            '\'' => loop {
                match rest.next()? {
                    '\'' => break,
                    other => word.push(other),
                }
            },
            '"' => loop {
                match rest.next()? {
                    '"' => break,
                    '\\' => match rest.next()? {
                        escaped @ ('"' | '\\') => word.push(escaped),
                        other => word.extend(['\\', other]),
                    },
                    other => word.push(other),
                }
            },
            '\\' => word.push(rest.next()?),
            blank if BLANK.contains(&blank) => return None,
            other => word.push(other),
        }
    }
    Some(word)
}

#[cfg(test)]
mod tests;
