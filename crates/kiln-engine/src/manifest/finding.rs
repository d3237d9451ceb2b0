//! What is wrong with a manifest: each finding has a path, and often a suggestion.

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
            self.add(path, format!("expected a string, found {}", value.type_name()));
        }
        text
    }

    /// A member that must be there and be a text.
    pub(super) fn required<'a>(&mut self, object: &'a Object, key: &str, path: &JsonPath) -> Option<&'a str> {
        match object.get(key) {
            Some(value) => self.text(value, &path.key(key)),
            None => {
                self.add(path, format!("`{key}` is missing"));
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

/// The candidate that somebody who typed `name` most likely meant.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // One mistake for every four characters: `org.osbuild.hostnam` is near, `tree` and `true` are.
    let limit = (name.chars().count() / 4).clamp(1, 5);
    candidates
        .map(|candidate| (strsim::osa_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// A suggestion, if a name is near.
pub fn did_you_mean<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    nearest(name, candidates).map(|near| format!("did you mean `{near}`?"))
}

/// Names for a message: `` `a`, `b` ``.
pub fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
