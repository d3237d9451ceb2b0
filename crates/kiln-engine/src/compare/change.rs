//! What differs between two values, leaf by leaf.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::align::{Item, Side, Step, align};
use crate::manifest::json::Json;
use crate::manifest::place::JsonPath;

/// A difference between two values.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where: in the second value, and for what was removed in the first.
    pub path: JsonPath,
    /// What happened there.
    pub edit: Edit,
    /// Whether ids depend on it.
    pub in_id: bool,
}

/// What happened to a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// It is another one.
    Changed {
        /// What it was.
        old: Json,
        /// What it is.
        new: Json,
    },
    /// It was not there.
    Added(Json),
    /// It is not there any more.
    Removed(Json),
    /// An item of a list is at another place.
    Moved {
        /// Where it was.
        from: JsonPath,
        /// What it is.
        value: Json,
    },
}

impl Edit {
    /// What was there.
    pub const fn before(&self) -> Option<&Json> {
        match self {
            Self::Changed { old, .. } | Self::Removed(old) => Some(old),
            Self::Moved { value, .. } => Some(value),
            Self::Added(_) => None,
        }
    }

    /// What is there.
    pub const fn after(&self) -> Option<&Json> {
        match self {
            Self::Changed { new, .. } | Self::Added(new) => Some(new),
            Self::Moved { value, .. } => Some(value),
            Self::Removed(_) => None,
        }
    }
}

/// Numbers texts: equal texts have equal numbers.
#[derive(Debug, Default)]
pub(super) struct Numbers(HashMap<String, u32>);

impl Numbers {
    pub(super) fn of(&mut self, text: String) -> u32 {
        // As many texts do not fit into memory.
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(text).or_insert(next)
    }
}

/// The text by which values are compared: `1` is not `1.0`, and the order of keys does not matter, as in ids.
pub(super) fn text(value: &Json) -> String {
    let mut text = String::new();
    // Writing to memory cannot fail.
    let _ = value.write_sorted(&mut text);
    text
}

/// Collects what differs between two values.
pub(super) fn changes(old: &Json, new: &Json) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(old, new, &JsonPath::default(), &mut changes);
    changes
}

fn compare(old: &Json, new: &Json, path: &JsonPath, changes: &mut Vec<Change>) {
    let mut add = |path: JsonPath, edit| changes.push(Change { path, edit, in_id: true });
    match (old, new) {
        (Json::Object(before), Json::Object(after)) => {
            for (key, value) in before {
                if !after.contains_key(key) {
                    add(path.key(key), Edit::Removed(value.clone()));
                }
            }
            for (key, value) in after {
                match before.get(key) {
                    Some(before) => compare(before, value, &path.key(key), changes),
                    None => {
                        let edit = Edit::Added(value.clone());
                        changes.push(Change { path: path.key(key), edit, in_id: true });
                    }
                }
            }
        }
        (Json::Array(before), Json::Array(after)) => list(before, after, path, changes),
        _ if text(old) == text(new) => {}
        _ => add(path.clone(), Edit::Changed { old: old.clone(), new: new.clone() }),
    }
}

fn list(old: &[Json], new: &[Json], path: &JsonPath, changes: &mut Vec<Change>) {
    let mut numbers = Numbers::default();
    let mut items = |list: &[Json]| {
        let item = |value: &Json| Item { content: numbers.of(text(value)), kind: kind(value) };
        list.iter().map(item).collect::<Vec<_>>()
    };
    let (old_items, new_items) = (items(old), items(new));
    let of = |side, place: usize| features(if side == Side::Old { &old[place] } else { &new[place] });
    for step in align(&old_items, &new_items, &of) {
        let (path, edit) = match step {
            Step::Kept(..) | Step::MovedAway(..) => continue,
            Step::Changed(i, j) => {
                compare(&old[i], &new[j], &path.index(j), changes);
                continue;
            }
            Step::Moved(i, j) => (path.index(j), Edit::Moved { from: path.index(i), value: new[j].clone() }),
            Step::Removed(i) => (path.index(i), Edit::Removed(old[i].clone())),
            Step::Added(j) => (path.index(j), Edit::Added(new[j].clone())),
        };
        changes.push(Change { path, edit, in_id: true });
    }
}

/// Objects are not made of texts.
const fn kind(value: &Json) -> u32 {
    match value {
        Json::Object(_) => 0,
        Json::Array(_) => 1,
        _ => 2,
    }
}

/// Numbers for each member and each value, and for the words of texts: similar values have many in common.
pub(super) fn features(value: &Json) -> Vec<u64> {
    let mut features = Vec::new();
    collect(value, 0, &mut features);
    features.sort_unstable();
    features
}

fn collect(value: &Json, place: u64, features: &mut Vec<u64>) {
    let hash = |part: &str| {
        let mut hasher = DefaultHasher::new();
        (place, part).hash(&mut hasher);
        hasher.finish()
    };
    match value {
        Json::Object(members) => {
            for (key, value) in members {
                let place = hash(key);
                features.push(place);
                collect(value, place, features);
            }
        }
        Json::Array(items) => items.iter().for_each(|item| collect(item, place, features)),
        Json::String(words) => {
            // Versions and paths are changed in parts.
            features.extend(words.split(|c: char| !c.is_alphanumeric()).map(hash));
        }
        other => {
            let mut text = String::new();
            let _ = write!(text, "{other}");
            features.push(hash(&text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: &str, new: &str) -> Vec<String> {
        let parse = |text: &str| Json::parse(text).expect("JSON");
        let show = |change: &Change| match &change.edit {
            Edit::Changed { old, new } => format!("{}: {old} → {new}", change.path),
            Edit::Added(new) => format!("{}: + {new}", change.path),
            Edit::Removed(old) => format!("{}: - {old}", change.path),
            Edit::Moved { from, value } => format!("{}: {value} from {from}", change.path),
        };
        changes(&parse(old), &parse(new)).iter().map(show).collect()
    }

    #[test]
    fn leaves_differ_where_ids_do() {
        let cases: [(&str, &str, &[&str]); 12] = [
            (r#"{"a": 1, "b": [1, 2]}"#, r#"{"b": [1, 2], "a": 1}"#, &[]),
            (r#"{"a": 1}"#, r#"{"a": 1.0}"#, &[".a: 1 → 1.0"]),
            (r#"{"a": 0.0}"#, r#"{"a": -0.0}"#, &[".a: 0.0 → -0.0"]),
            (r#"{"a": NaN}"#, r#"{"a": NaN}"#, &[]),
            (r#"{"a": {"b": null}}"#, r#"{"a": {}}"#, &[".a.b: - null"]),
            (r#"{"a": {}}"#, r#"{"a": {"b c": 2}}"#, &[".a.'b c': + 2"]),
            (r#"{"a": [1]}"#, r#"{"a": "x"}"#, &[r#".a: [1] → "x""#]),
            ("[1, 2, 3]", "[1, 9, 3]", &["[1]: 2 → 9"]),
            ("[1, 2, 3]", "[2, 3, 4]", &["[0]: - 1", "[2]: + 4"]),
            ("[1, 2, 3]", "[2, 3, 1]", &["[2]: 1 from [0]"]),
            (
                r#"[{"name": "a", "x": 1}, {"name": "b", "x": 2}]"#,
                r#"[{"name": "c", "x": 9}, {"name": "a", "x": 2}, {"name": "b", "x": 3}]"#,
                &[r#"[0]: + {"name": "c", "x": 9}"#, "[1].x: 1 → 2", "[2].x: 2 → 3"],
            ),
            (
                r#"["bash-5.1", "vim-9", "zsh-5"]"#,
                r#"["acl-1", "bash-5.2", "vim-9", "zsh-5"]"#,
                &[r#"[0]: + "acl-1""#, r#"[1]: "bash-5.1" → "bash-5.2""#],
            ),
        ];
        for (old, new, expected) in cases {
            assert_eq!(shown(old, new), expected, "{old} → {new}");
        }
    }
}
