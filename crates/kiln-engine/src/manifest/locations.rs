//! Options that name an input or a mount of their stage: `input://files/…`, `mount://root/…`.
//!
//! A stage finds out when it runs; whoever asks what is wrong with a manifest is told before. Manifests that are
//! built are not refused for it: only the stage knows whether such a text is a location.

use serde_json::Value;

use super::finding::{Finding, did_you_mean, list};
use super::place::{JsonPath, Step};
use super::validate::items;

/// The findings for a manifest of format 2.
pub(super) fn check(document: &Value, findings: &mut Vec<Finding>) {
    let path = JsonPath::default().key("pipelines");
    for (index, pipeline) in items(document, "pipelines") {
        let path = path.index(index).key("stages");
        for (index, stage) in items(pipeline, "stages") {
            unknown(stage, &path.index(index), findings);
        }
    }
}

/// The findings for one stage.
fn unknown(stage: &Value, path: &JsonPath, findings: &mut Vec<Finding>) {
    let Some(options) = stage.get("options") else { return };
    let inputs = stage.get("inputs").and_then(Value::as_object);
    let mounts = stage.get("mounts").and_then(Value::as_array).into_iter().flatten();
    let names = Names {
        inputs: inputs.into_iter().flat_map(|inputs| inputs.keys().map(String::as_str)).collect(),
        mounts: mounts.filter_map(|mount| mount.get("name")?.as_str()).collect(),
    };
    names.look(options, &mut path.key("options"), findings);
}

/// What a stage has.
struct Names<'s> {
    inputs: Vec<&'s str>,
    mounts: Vec<&'s str>,
}

impl Names<'_> {
    fn look(&self, value: &Value, path: &mut JsonPath, findings: &mut Vec<Finding>) {
        match value {
            Value::String(text) => findings.extend(self.fault(text, path)),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.0.push(Step::Index(index));
                    self.look(item, path, findings);
                    path.0.pop();
                }
            }
            Value::Object(members) => {
                for (key, member) in members {
                    path.0.push(Step::Key(key.clone()));
                    self.look(member, path, findings);
                    path.0.pop();
                }
            }
            _ => {}
        }
    }

    fn fault(&self, text: &str, path: &JsonPath) -> Option<Finding> {
        let (scheme, rest) = text.split_once("://")?;
        let (noun, known) = match scheme {
            "input" => ("input", &self.inputs),
            "mount" => ("mount", &self.mounts),
            _ => return None,
        };
        let name = rest.split('/').next().unwrap_or_default();
        // `mount:///` is where all mounts are.
        if known.contains(&name) || (name.is_empty() && noun == "mount") {
            return None;
        }
        let hint = did_you_mean(name, known.iter().copied()).unwrap_or_else(|| {
            if known.is_empty() {
                format!("the stage has no {noun}s")
            } else {
                format!("the stage's {noun}s are {}", list(known.iter().copied()))
            }
        });
        let message = format!("unknown {noun} `{name}` in `{text}`");
        Some(Finding { path: path.clone(), place: None, of_key: false, message, hint: Some(hint) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn inputs_and_mounts_of_locations_are_those_of_the_stage() {
        let stage = json!({
            "type": "s",
            "inputs": {"files": {}, "tree": {}},
            "mounts": [{"name": "root"}],
            "options": {"paths": [
                {"from": "input://files/a", "to": "mount://root/"},
                {"from": "input://file/a", "to": "mount://disk/"},
                {"from": "tree:///a", "to": "mount:///all"},
                {"from": "input://trees", "to": "https://example.invalid/mount://x", "count": 1},
            ]},
        });
        let mut findings = Vec::new();
        unknown(&stage, &JsonPath::default(), &mut findings);
        let said: Vec<String> = findings
            .iter()
            .map(|finding| {
                format!("{}: {} ({})", finding.path, finding.message, finding.hint.as_deref().unwrap_or(""))
            })
            .collect();
        assert_eq!(
            said,
            [
                ".options.paths[1].from: unknown input `file` in `input://file/a` (did you mean `files`?)",
                ".options.paths[1].to: unknown mount `disk` in `mount://disk/` (the stage's mounts are `root`)",
                ".options.paths[3].from: unknown input `trees` in `input://trees` (did you mean `tree`?)",
            ]
        );
        let mut findings = Vec::new();
        unknown(&json!({"options": "input://a/b"}), &JsonPath::default(), &mut findings);
        assert_eq!(findings[0].hint.as_deref(), Some("the stage has no inputs"));
    }
}
