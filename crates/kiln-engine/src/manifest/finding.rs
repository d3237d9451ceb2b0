//! What is wrong with a manifest: each finding has a path, and often a suggestion.

use std::collections::{HashMap, HashSet};

use super::ORIGIN_PIPELINE;
use super::json::{Json, Object};
use super::place::{JsonPath, Target};

/// One fault of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The value that is wrong, as the reference reports it.
    pub path: JsonPath,
    /// A more exact place for people: the unknown key rather than the object it is in.
    pub place: Option<JsonPath>,
    /// Whether the key at the place is wrong rather than its value.
    pub of_key: bool,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl Finding {
    /// What is shown of it.
    pub fn target(&self) -> Target<'_> {
        Target { path: self.place.as_ref().unwrap_or(&self.path), key: self.of_key }
    }
}

/// Collects findings while a manifest is read.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, path: &JsonPath, message: impl Into<String>) {
        self.hinted(path, message, None);
    }

    pub(super) fn hinted(&mut self, path: &JsonPath, message: impl Into<String>, hint: Option<String>) {
        self.0.push(Finding {
            path: path.clone(),
            place: None,
            of_key: false,
            message: message.into(),
            hint,
        });
    }

    pub(super) fn object<'a>(&mut self, value: &'a Json, path: &JsonPath) -> Option<&'a Object> {
        let object = value.as_object();
        if object.is_none() {
            self.add(path, format!("expected an object, found {}", value.type_name()));
        }
        object
    }

    pub(super) fn array<'a>(&mut self, value: &'a Json, path: &JsonPath) -> &'a [Json] {
        if let Json::Array(items) = value {
            return items;
        }
        self.add(path, format!("expected an array, found {}", value.type_name()));
        &[]
    }

    pub(super) fn text<'a>(&mut self, value: &'a Json, path: &JsonPath) -> Option<&'a str> {
        let text = value.as_str();
        if text.is_none() {
            let simple =
                matches!(value, Json::Bool(_) | Json::Integer(_) | Json::BigInteger(_) | Json::Float(_));
            let hint = simple.then(|| in_quotes(value));
            self.hinted(path, format!("expected a string, found {}", value.type_name()), hint);
        }
        text
    }

    /// A member that must be there and be a text.
    pub(super) fn required<'a>(&mut self, object: &'a Object, key: &str, path: &JsonPath) -> Option<&'a str> {
        match object.get(key) {
            Some(value) => self.text(value, &path.key(key)),
            None => {
                self.add(path, missing(key));
                None
            }
        }
    }

    /// A member that may be absent and must be a text.
    pub(super) fn optional<'a>(&mut self, object: &'a Object, key: &str, path: &JsonPath) -> Option<&'a str> {
        object.get(key).and_then(|value| self.text(value, &path.key(key)))
    }

    /// A member that may be absent and must be an object.
    pub(super) fn member<'a>(
        &mut self,
        object: &'a Object,
        key: &str,
        path: &JsonPath,
    ) -> Option<&'a Object> {
        object.get(key).and_then(|value| self.object(value, &path.key(key)))
    }

    /// Refuses keys that do not belong.
    pub(super) fn only(&mut self, object: &Object, known: &[&str], path: &JsonPath) {
        for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
            let hint = did_you_mean(key, known.iter().copied())
                .or_else(|| Some(format!("known keys are {}", list(known.iter().copied()))));
            self.0.push(Finding {
                path: path.clone(),
                place: Some(path.key(key)),
                of_key: true,
                message: format!("unknown key `{key}`"),
                hint,
            });
        }
    }
}

/// What to do about a value that is right but for not being a text.
pub(super) fn in_quotes(value: &impl std::fmt::Display) -> String {
    format!("write it in quotes: `\"{value}\"`")
}

/// Takes out what is only another word for what is said already.
pub(super) fn tidy(findings: &mut Vec<Finding>) {
    // A misspelt key is missed under its right name.
    let misspelt: HashSet<(JsonPath, String)> = findings
        .iter()
        .filter(|finding| finding.of_key)
        .filter_map(|finding| {
            let meant = finding.hint.as_deref()?.strip_prefix(MEANT)?.strip_suffix(MEANT_END)?;
            Some((finding.path.clone(), missing(meant)))
        })
        .collect();
    // Which values may stand somewhere is said by the format, and then more narrowly by a module.
    let mut choices: HashMap<JsonPath, usize> = HashMap::new();
    for (index, finding) in findings.iter().enumerate() {
        if !finding.of_key && is_choice(&finding.message) {
            choices.insert(finding.target().path.clone(), index);
        }
    }
    let mut index = 0;
    findings.retain(|finding| {
        let choice = !finding.of_key && is_choice(&finding.message);
        let narrowest = !choice || choices.get(finding.target().path) == Some(&index);
        index += 1;
        narrowest && !misspelt.contains(&(finding.path.clone(), finding.message.clone()))
    });
}

/// How a suggestion begins and ends.
const MEANT: &str = "did you mean `";
const MEANT_END: &str = "`?";

/// Whether it is said of a value that it is none of those that there are.
fn is_choice(message: &str) -> bool {
    ["expected one of `", "expected `"].iter().any(|start| message.starts_with(start))
}

/// Says that a member is missing.
pub(super) fn missing(key: &str) -> String {
    format!("`{key}` is missing")
}

/// The candidate that somebody who typed `name` most likely meant.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // One mistake for every four characters: `org.osbuild.hostnam` is near, `tree` and `true` are.
    let length = name.chars().count();
    let limit = (length / 4).clamp(1, 5);
    candidates
        .filter(|candidate| !candidate.is_empty())
        // There may be thousands of names to be looked for among hundreds.
        .filter(|candidate| candidate.chars().count().abs_diff(length) <= limit)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many mistakes make one name of another. What both begin with, as names of modules do, costs no time.
fn distance(one: &str, other: &str) -> usize {
    let differ = one.char_indices().zip(other.chars()).find(|((_, one), other)| one != other);
    let common = differ.map_or(one.len().min(other.len()), |((at, _), _)| at);
    let rest = |name: &'_ str| name.get(common..).unwrap_or_default().to_owned();
    strsim::osa_distance(&rest(one), &rest(other))
}

/// A suggestion, if a name is near.
pub fn did_you_mean<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    nearest(name, candidates).map(|near| format!("{MEANT}{near}{MEANT_END}"))
}

/// What to do about a reference to an item that no source has.
pub(super) fn missing_item(reference: &str, there_is: impl Fn(&str) -> bool) -> String {
    if let Some(name) = reference.strip_prefix("name:") {
        return format!("with the origin `{ORIGIN_PIPELINE}`, `{reference}` is the pipeline `{name}`");
    }
    let named = |algorithm: &&&str| there_is(&format!("{algorithm}:{reference}"));
    match ["md5", "sha1", "sha256", "sha384", "sha512"].iter().find(named) {
        Some(algorithm) => format!("items have the name of the algorithm: `{algorithm}:{reference}`"),
        None => "add the item to one of the manifest's sources".to_owned(),
    }
}

/// Names for a message: `` `a`, `b` ``.
pub fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names() {
        let names = ["org.osbuild.mkdir", "org.osbuild.mkfs.ext4", "org.osbuild.tar", "tree", "", "größe"];
        let cases = [
            ("org.osbuild.mkdri", Some("org.osbuild.mkdir")),
            ("org.osbuild.mkfs.ext3", Some("org.osbuild.mkfs.ext4")),
            ("org.osbuild.tar", Some("org.osbuild.tar")),
            ("org.osbuild.ta", Some("org.osbuild.tar")),
            ("com.example.paint", None),
            ("three", Some("tree")),
            ("grösse", None),
            ("gröse", Some("größe")),
            ("x", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest(name, names.into_iter()), expected, "{name}");
        }
        for one in names {
            for other in names {
                assert_eq!(distance(one, other), strsim::osa_distance(one, other), "{one} {other}");
            }
        }
    }
}
