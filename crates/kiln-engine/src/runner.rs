//! Which runner prepares a build root: the one of exactly that distribution with the highest version not
//! above the requested one.
//!
//! A runner's name is `org.osbuild.DISTRIBUTION VERSION` without the space; the version is the trailing digits.
//! The host's request comes from os-release(5).

use std::path::Path;

use crate::manifest::{list, nearest};

/// Where os-release(5) looks, first match wins.
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

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
fn split(name: &str) -> (&str, u64) {
    let distribution = name.trim_end_matches(|character: char| character.is_ascii_digit());
    let version = name.get(distribution.len()..).unwrap_or_default();
    (distribution, version.parse().unwrap_or(0))
}

/// The request of a system by its os-release: `org.osbuild.` + `ID` + `VERSION_ID` without dots.
pub fn request_of(root: &Path) -> String {
    let text = OS_RELEASE.iter().find_map(|path| std::fs::read_to_string(root.join(path)).ok());
    describe(&text.unwrap_or_default())
}

fn describe(os_release: &str) -> String {
    let field = |name: &str| {
        os_release
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .rfind(|(key, _)| *key == name)
            .map(|(_, value)| unquote(value))
    };
    let id = field("ID").unwrap_or_else(|| "linux".to_owned());
    let version = field("VERSION_ID").unwrap_or_default().replace('.', "");
    format!("org.osbuild.{id}{version}")
}

/// Removes the quotes of a shell word: single quotes keep everything, double quotes and plain text know `\`.
fn unquote(value: &str) -> String {
    let mut result = String::new();
    let mut quote = None;
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), close) if open == close => quote = None,
            (Some('"'), '\\') => match characters.peek() {
                // Inside double quotes only these are escaped; before others the backslash stays.
                Some('"' | '\\' | '$' | '`') => result.extend(characters.next()),
                _ => result.push('\\'),
            },
            (None, '\\') => result.extend(characters.next()),
            (None, '#') if result.is_empty() => break,
            (None, space) if space.is_whitespace() => break,
            (_, other) => result.push(other),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNERS: [&str; 6] = [
        "org.osbuild.debian",
        "org.osbuild.fedora30",
        "org.osbuild.fedora38",
        "org.osbuild.linux",
        "org.osbuild.rhel7",
        "org.osbuild.rhel82",
    ];

    #[test]
    fn the_highest_version_not_above_the_request_wins() {
        let cases = [
            ("org.osbuild.fedora30", Some("org.osbuild.fedora30")),
            ("org.osbuild.fedora37", Some("org.osbuild.fedora30")),
            ("org.osbuild.fedora43", Some("org.osbuild.fedora38")),
            ("org.osbuild.fedora29", None),
            ("org.osbuild.fedora", None),
            ("org.osbuild.debian12", Some("org.osbuild.debian")),
            ("org.osbuild.rhel81", Some("org.osbuild.rhel7")),
            ("org.osbuild.suse15", None),
        ];
        for (requested, expected) in cases {
            assert_eq!(choose(requested, RUNNERS.into_iter()).ok(), expected, "{requested}");
        }
    }

    #[test]
    fn the_hosts_request_follows_os_release() {
        let cases = [
            ("ID=debian\nVERSION_ID=\"12\"\n", "org.osbuild.debian12"),
            ("ID='ubuntu'\nVERSION_ID=18.04", "org.osbuild.ubuntu1804"),
            ("# ID=no\nID=\"fed\\\"ora\"", "org.osbuild.fed\"ora"),
            ("", "org.osbuild.linux"),
            ("ID=arch", "org.osbuild.arch"),
        ];
        for (text, expected) in cases {
            assert_eq!(describe(text), expected, "{text}");
        }
    }
}
