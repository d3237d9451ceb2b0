//! What a schema finds wrong with a value, in words of the manifest.
//!
//! A fault has the path that the reference reports, and a place for people. They differ where a schema offers
//! alternatives: the path is that of the value that fits none of them, the places are what is wrong with it by the
//! alternative that it comes nearest to.

use jsonschema::error::{TypeKind, ValidationErrorKind as Fault};
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;

use super::finding::{Finding, did_you_mean, list};
use super::place::{JsonPath, Step};

/// Longest value that is quoted, in characters.
const QUOTED: usize = 60;

/// The findings for one error of a schema. `path` is where the value stands that was held against it, `help` the hint
/// for want of a better one.
pub(super) fn findings(
    error: &ValidationError<'_>,
    schema: &Value,
    path: &JsonPath,
    help: &str,
) -> Vec<Finding> {
    let reported = below(path, error.instance_path());
    let mut words = Words { schema, path, findings: Vec::new() };
    words.explain(error);
    for finding in &mut words.findings {
        if finding.path != reported {
            let place = std::mem::replace(&mut finding.path, reported.clone());
            finding.place.get_or_insert(place);
        }
        if !help.is_empty() {
            finding.hint.get_or_insert_with(|| help.to_owned());
        }
    }
    words.findings
}

fn below(path: &JsonPath, location: &Location) -> JsonPath {
    let mut path = path.clone();
    path.0.extend(location.iter().map(|segment| match segment {
        LocationSegment::Property(key) => Step::Key(key.to_string()),
        LocationSegment::Index(index) => Step::Index(index),
    }));
    path
}

struct Words<'s> {
    schema: &'s Value,
    path: &'s JsonPath,
    findings: Vec<Finding>,
}

impl Words<'_> {
    fn add(&mut self, error: &ValidationError<'_>, message: String, hint: Option<String>) {
        let path = below(self.path, error.instance_path());
        self.findings.push(Finding { path, place: None, of_key: false, message, hint });
    }

    fn explain(&mut self, error: &ValidationError<'_>) {
        let value = error.instance().as_ref();
        match error.kind() {
            Fault::AdditionalProperties { unexpected } | Fault::UnevaluatedProperties { unexpected } => {
                let path = below(self.path, error.instance_path());
                for key in unexpected {
                    let hint = did_you_mean(key, options_beside(self.schema, error.schema_path().as_str()));
                    self.findings.push(Finding {
                        path: path.clone(),
                        place: Some(path.key(key)),
                        of_key: true,
                        message: format!("unknown option `{key}`"),
                        hint,
                    });
                }
            }
            Fault::AnyOf { context } | Fault::OneOfNotValid { context } => {
                self.alternatives(error, context);
            }
            Fault::Constant { .. } | Fault::Enum { .. } => {
                self.one_of(error, &choices(error).unwrap_or_default());
            }
            _ => self.add(error, message(error, value), None),
        }
    }

    /// Explains why a value fits none of several schemas.
    fn alternatives(&mut self, error: &ValidationError<'_>, context: &[Vec<ValidationError<'static>>]) {
        if let Some(choices) = choices(error) {
            self.one_of(error, &choices);
            return;
        }
        let own = error.instance_path().as_str();
        let best = context.iter().min_by_key(|branch| (distance(branch, own), branch.len()));
        let Some(best) = best else { return };
        if distance(best, own) == OTHER_TYPE {
            let mut types: Vec<&str> = Vec::new();
            for fault in context.iter().flatten().filter(|fault| fault.instance_path().as_str() == own) {
                if let Fault::Type { kind } = fault.kind() {
                    for name in type_names(kind) {
                        if !types.contains(&name) {
                            types.push(name);
                        }
                    }
                }
            }
            let found = found(error.instance());
            self.add(error, format!("expected {}, found {found}", types.join(" or ")), None);
            return;
        }
        // Several ways to be complete, none of them taken.
        let missing: Vec<&str> = context.iter().filter_map(|branch| only_missing(branch, own)).collect();
        if missing.len() == context.len() && missing.len() > 1 {
            let names: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
            self.add(error, format!("one of {} is missing", names.join(", ")), None);
            return;
        }
        for fault in best {
            self.explain(fault);
        }
    }

    fn one_of(&mut self, error: &ValidationError<'_>, choices: &[&Value]) {
        let value = error.instance();
        let texts: Vec<String> = choices.iter().map(|choice| quoted(choice)).collect();
        let hint = value
            .as_str()
            .and_then(|text| did_you_mean(text, choices.iter().filter_map(|choice| choice.as_str())));
        let message = match texts.as_slice() {
            [only] => format!("expected {only}, found {}", quoted(value)),
            _ => format!("expected one of {}, found {}", texts.join(", "), quoted(value)),
        };
        self.add(error, message, hint);
    }
}

/// How far a value is from a schema: nothing of it fits if it is of another type, little if it is a variant of
/// another name.
const OTHER_TYPE: u8 = 3;

fn distance(branch: &[ValidationError<'_>], own: &str) -> u8 {
    let of = |error: &ValidationError<'_>| {
        let path = error.instance_path().as_str();
        let depth = path.strip_prefix(own).map_or(0, |rest| rest.matches('/').count());
        match error.kind() {
            Fault::Type { .. } if depth == 0 => OTHER_TYPE,
            Fault::Constant { .. } | Fault::Enum { .. } if depth < 2 => 2,
            Fault::Required { .. } if depth == 0 => 1,
            _ => 0,
        }
    };
    branch.iter().map(of).max().unwrap_or(0)
}

/// The member that a schema misses, if that is all.
fn only_missing<'e>(branch: &'e [ValidationError<'_>], own: &str) -> Option<&'e str> {
    match branch {
        [error] if error.instance_path().as_str() == own => match error.kind() {
            Fault::Required { property } => property.as_str(),
            _ => None,
        },
        _ => None,
    }
}

/// The values that would have been right, if the schema lists them.
fn choices<'e>(error: &'e ValidationError<'_>) -> Option<Vec<&'e Value>> {
    match error.kind() {
        Fault::Constant { expected_value } => Some(vec![expected_value.as_ref()]),
        Fault::Enum { options } => Some(options.as_array()?.iter().collect()),
        Fault::AnyOf { context } | Fault::OneOfNotValid { context } => {
            let own = error.instance_path().as_str();
            let mut all = Vec::new();
            for branch in context {
                let mut here = branch.iter().filter(|error| error.instance_path().as_str() == own);
                all.extend(here.find_map(choices)?);
            }
            Some(all)
        }
        _ => None,
    }
}

/// The options beside an unknown one. `keyword` is the path of the keyword that refused it: a member of the schema
/// that has the options.
fn options_beside<'s>(schema: &'s Value, keyword: &str) -> impl Iterator<Item = &'s str> {
    let object = keyword.rsplit_once('/').and_then(|(object, _)| schema.pointer(object));
    let properties = object.and_then(|object| object.get("properties")?.as_object());
    properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str))
}

fn message(error: &ValidationError<'_>, value: &Value) -> String {
    let items = |limit: u64| if limit == 1 { "item" } else { "items" };
    let length = |limit: u64| if limit == 1 { "character" } else { "characters" };
    let members = |limit: u64| if limit == 1 { "member" } else { "members" };
    match error.kind() {
        Fault::Type { kind } => {
            format!("expected {}, found {}", type_names(kind).join(" or "), found(value))
        }
        Fault::Required { property } => {
            format!("`{}` is missing", property.as_str().unwrap_or_default())
        }
        Fault::Pattern { pattern } => format!("{} does not match the pattern `{pattern}`", quoted(value)),
        Fault::Format { format } => format!("{} is not of the format `{format}`", quoted(value)),
        Fault::MinLength { limit } => format!("expected at least {limit} {}", length(*limit)),
        Fault::MaxLength { limit } => format!("expected at most {limit} {}", length(*limit)),
        Fault::MinItems { limit } => format!("expected at least {limit} {}", items(*limit)),
        Fault::MaxItems { limit } => format!("expected at most {limit} {}", items(*limit)),
        Fault::AdditionalItems { limit } => {
            format!("expected at most {limit} {}", items(*limit as u64))
        }
        Fault::MinProperties { limit } => format!("expected at least {limit} {}", members(*limit)),
        Fault::MaxProperties { limit } => format!("expected at most {limit} {}", members(*limit)),
        Fault::Minimum { limit } => format!("expected at least {limit}, found {value}"),
        Fault::Maximum { limit } => format!("expected at most {limit}, found {value}"),
        Fault::ExclusiveMinimum { limit } => format!("expected more than {limit}, found {value}"),
        Fault::ExclusiveMaximum { limit } => format!("expected less than {limit}, found {value}"),
        Fault::MultipleOf { multiple_of } => format!("expected a multiple of {multiple_of}, found {value}"),
        Fault::UniqueItems => "the items are not all different".to_owned(),
        Fault::PropertyNames { error } => {
            let name = error.instance();
            format!("the key {} is not allowed: {}", quoted(name), message(error, name))
        }
        Fault::OneOfMultipleValid { .. } => "this fits more than one of the ways to write it".to_owned(),
        Fault::Not { schema } => match excluded(schema) {
            Some(names) => format!("{} exclude each other", list(names.into_iter())),
            None => format!("{} is not allowed here", quoted(value)),
        },
        Fault::FalseSchema => "this is not allowed here".to_owned(),
        _ => shorten(&error.to_string()),
    }
}

/// The members that may not stand together, where that is what a negated schema says.
fn excluded(schema: &Value) -> Option<Vec<&str>> {
    let names = schema.get("required")?.as_array()?;
    (names.len() > 1).then(|| names.iter().filter_map(Value::as_str).collect())
}

fn type_names(kind: &TypeKind) -> Vec<&'static str> {
    match kind {
        TypeKind::Single(single) => vec![type_name(*single)],
        TypeKind::Multiple(several) => several.iter().map(type_name).collect(),
    }
}

const fn type_name(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Array => "an array",
        JsonType::Boolean => "a boolean",
        JsonType::Integer => "an integer",
        JsonType::Null => "null",
        JsonType::Number => "a number",
        JsonType::Object => "an object",
        JsonType::String => "a string",
    }
}

fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value for a message.
fn quoted(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => found(value).to_owned(),
        Value::String(text) if text.chars().count() <= QUOTED => format!("`{text}`"),
        Value::String(text) => format!("`{}…`", text.chars().take(QUOTED).collect::<String>()),
        _ => format!("`{value}`"),
    }
}

/// Cuts the quoted value out of a message that would fill the screen.
fn shorten(message: &str) -> String {
    const LONGEST: usize = 300;
    if message.chars().count() <= LONGEST {
        return message.to_owned();
    }
    let head: String = message.chars().take(LONGEST / 2).collect();
    let tail: Vec<char> = message.chars().rev().take(LONGEST / 3).collect();
    format!("{head} … {}", tail.into_iter().rev().collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One line for each finding: where it is shown, what is wrong, the suggestion.
    fn said(schema: &Value, value: &Value) -> Vec<String> {
        let validator = jsonschema::draft202012::new(schema).expect("a schema");
        let root = JsonPath::default();
        let found = validator.iter_errors(value).flat_map(|error| findings(&error, schema, &root, "help"));
        found
            .map(|finding| {
                let place = finding.place.as_ref().unwrap_or(&finding.path);
                format!("{place}: {} ({})", finding.message, finding.hint.unwrap_or_default())
            })
            .collect()
    }

    #[test]
    fn faults_are_told_in_words() {
        let tagged = json!({"oneOf": [
            {"type": "object", "required": ["kind", "size"],
             "properties": {"kind": {"const": "file"}, "size": {"type": "integer"}}},
            {"type": "object", "required": ["kind"], "properties": {"kind": {"const": "link"}}},
        ]});
        let object = json!({"type": "object", "additionalProperties": false, "required": ["paths"],
            "properties": {"paths": {"type": "array", "minItems": 1}, "mode": {"type": "integer", "maximum": 7}}});
        let choice = json!({"oneOf": [{"const": "raw", "description": "One."}, {"enum": ["qcow2", "vmdk"]}]});
        let either = json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]});
        let one = json!({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]});
        let cases: [(&Value, Value, &[&str]); 13] = [
            (
                &object,
                json!({"path": [], "paths": [1]}),
                &[".path: unknown option `path` (did you mean `paths`?)"],
            ),
            (
                &object,
                json!({"x": 1, "mod": 2, "paths": [1]}),
                &[".x: unknown option `x` (help)", ".mod: unknown option `mod` (did you mean `mode`?)"],
            ),
            (&object, json!({}), &[".: `paths` is missing (help)"]),
            (&object, json!({"paths": []}), &[".paths: expected at least 1 item (help)"]),
            (&object, json!({"paths": "a"}), &[".paths: expected an array, found a string (help)"]),
            (&object, json!({"paths": [1], "mode": 8}), &[".mode: expected at most 7, found 8 (help)"]),
            (
                &choice,
                json!("rew"),
                &[".: expected one of `raw`, `qcow2`, `vmdk`, found `rew` (did you mean `raw`?)"],
            ),
            (
                &choice,
                json!("qcow3"),
                &[".: expected one of `raw`, `qcow2`, `vmdk`, found `qcow3` (did you mean `qcow2`?)"],
            ),
            (&either, json!(1), &[".: expected a string or an array, found an integer (help)"]),
            (&either, json!(["a", 1]), &["[1]: expected a string, found an integer (help)"]),
            (
                &tagged,
                json!({"kind": "file", "size": "1"}),
                &[".size: expected an integer, found a string (help)"],
            ),
            (&tagged, json!({"kind": "file"}), &[".: `size` is missing (help)"]),
            (&one, json!({}), &[".: one of `a`, `b` is missing (help)"]),
        ];
        for (schema, value, expected) in cases {
            assert_eq!(said(schema, &value), expected, "{value}");
        }
    }

    #[test]
    fn the_path_is_that_of_the_value_that_fits_nothing() {
        let schema =
            json!({"properties": {"a": {"anyOf": [{"type": "array", "items": {"type": "string"}}]}}});
        let validator = jsonschema::draft202012::new(&schema).expect("a schema");
        let value = json!({"a": ["b", 1]});
        let root = JsonPath::default().key("options");
        let error = validator.iter_errors(&value).next().expect("an error");
        let found = findings(&error, &schema, &root, "help");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path.to_string(), ".options.a");
        assert_eq!(found[0].place.as_ref().expect("a place").to_string(), ".options.a[1]");
    }
}
