//! What a schema finds wrong with a value, in words of the manifest.
//!
//! A fault has the path that the reference reports, and a place for people. They differ where a schema offers
//! alternatives: the path is that of the value that fits none of them, the places are what is wrong with it by the
//! alternative that it comes nearest to.

use jsonschema::error::{TypeKind, ValidationErrorKind as Fault};
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;

use super::finding::{Finding, did_you_mean, in_quotes, list, missing};
use super::place::{JsonPath, Step};

/// Longest value that is quoted, in characters.
const QUOTED: usize = 60;
/// Longest list of what would have been right.
const LISTED: usize = 16;

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
                let known = beside(self.schema, error.schema_path().as_str());
                // What is below `options` are the module's options, all else is the manifest's own.
                let of_module = path.0.contains(&Step::Key("options".to_owned()));
                let what = if of_module { "option" } else { "key" };
                for key in unexpected {
                    let hint = did_you_mean(key, known.iter().copied())
                        .or_else(|| self.key_pattern(error))
                        .or_else(|| {
                            let short = !of_module && !known.is_empty() && known.len() <= LISTED;
                            short.then(|| format!("known keys are {}", list(known.iter().copied())))
                        });
                    self.findings.push(Finding {
                        path: path.clone(),
                        place: Some(path.key(key)),
                        of_key: true,
                        message: format!("unknown {what} `{key}`"),
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
            Fault::OneOfMultipleValid { .. } => {
                let message = match self.exclusive(error).as_slice() {
                    names @ [_, _, ..] => format!("{} exclude each other", list(names.iter().copied())),
                    // Nothing is as well a list of one thing as of another.
                    _ if value.as_array().is_some_and(Vec::is_empty) => "expected at least 1 item".to_owned(),
                    _ => message(error, value),
                };
                self.add(error, message, None);
            }
            Fault::Type { kind } => {
                let hint = retyped(value, &json_types(kind)).or_else(|| self.listed(error));
                self.add(error, message(error, value), hint);
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
            let mut types: Vec<JsonType> = Vec::new();
            for fault in context.iter().flatten().filter(|fault| fault.instance_path().as_str() == own) {
                if let Fault::Type { kind } = fault.kind() {
                    for kind in json_types(kind) {
                        if !types.contains(&kind) {
                            types.push(kind);
                        }
                    }
                }
            }
            let value = error.instance();
            self.add(error, mistyped(value, &types), retyped(value, &types));
            return;
        }
        // Several ways to be complete, none of them taken.
        let missing: Vec<&str> = context.iter().filter_map(|branch| only_missing(branch, own)).collect();
        if missing.len() == context.len() && missing.len() > 1 {
            let names: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
            self.add(error, format!("one of {} is missing", names.join(", ")), None);
            return;
        }
        // Variants are told apart by one member, and none has this value there.
        if distance(best, own) == OTHER_VARIANT
            && let Some(tag) = best.iter().find(|fault| is_choice(fault))
        {
            let at = tag.instance_path().as_str();
            let tags = context.iter().flatten().filter(|fault| fault.instance_path().as_str() == at);
            let choices: Vec<&Value> = tags.filter_map(choices).flatten().collect();
            self.one_of(tag, &choices);
            return;
        }
        for fault in best {
            self.explain(fault);
        }
    }

    /// The members of a value of which there may only be one: each makes it fit another alternative.
    fn exclusive<'e>(&'e self, error: &'e ValidationError<'_>) -> Vec<&'e str> {
        let alternatives = follow(self.schema, error.schema_path().as_str()).and_then(Value::as_array);
        let required = |alternative: &'e Value| -> Vec<&'e str> {
            let names = alternative.get("required").and_then(Value::as_array);
            names.into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let all: Vec<Vec<&str>> = alternatives.into_iter().flatten().map(required).collect();
        let own = all.iter().filter_map(|names| {
            // What each of them needs tells none of them apart.
            let mut own = names.iter().filter(|name| !all.iter().all(|others| others.contains(name)));
            own.next().filter(|_| own.next().is_none())
        });
        own.copied().filter(|name| error.instance().get(*name).is_some()).collect()
    }

    /// What keys have to look like beside an unknown one.
    fn key_pattern(&self, error: &ValidationError<'_>) -> Option<String> {
        let (object, _) = error.schema_path().as_str().rsplit_once('/')?;
        let patterns = follow(self.schema, object)?.get("patternProperties")?.as_object()?;
        let pattern = patterns.keys().next().filter(|_| patterns.len() == 1)?;
        Some(format!("keys match the pattern `{pattern}`"))
    }

    /// How a single text is written where a list of texts is expected.
    fn listed(&self, error: &ValidationError<'_>) -> Option<String> {
        let text = error.instance().as_str()?;
        let (object, _) = error.schema_path().as_str().rsplit_once('/')?;
        let schema = follow(self.schema, object)?;
        let texts = schema.get("type")? == "array" && schema.get("items")?.get("type")? == "string";
        texts.then(|| format!("write it as a list: `[\"{text}\"]`"))
    }

    fn one_of(&mut self, error: &ValidationError<'_>, choices: &[&Value]) {
        let value = error.instance();
        let texts: Vec<String> = choices.iter().map(|choice| quoted(choice)).collect();
        let hint = value
            .as_str()
            .and_then(|text| did_you_mean(text, choices.iter().filter_map(|choice| choice.as_str())));
        let message = match texts.as_slice() {
            [only] => format!("expected {only}, found {}", quoted(value)),
            _ if texts.len() > LISTED => {
                let some = texts.get(..LISTED).unwrap_or_default().join(", ");
                format!("expected one of {some} and {} more, found {}", texts.len() - LISTED, quoted(value))
            }
            _ => format!("expected one of {}, found {}", texts.join(", "), quoted(value)),
        };
        self.add(error, message, hint);
    }
}

/// How far a value is from a schema: nothing of it fits if it is of another type, little if it is a variant of
/// another name.
const OTHER_TYPE: u8 = 3;
const OTHER_VARIANT: u8 = 2;

fn is_choice(error: &ValidationError<'_>) -> bool {
    matches!(error.kind(), Fault::Constant { .. } | Fault::Enum { .. })
}

fn distance(branch: &[ValidationError<'_>], own: &str) -> u8 {
    let of = |error: &ValidationError<'_>| {
        let path = error.instance_path().as_str();
        let depth = path.strip_prefix(own).map_or(0, |rest| rest.matches('/').count());
        match error.kind() {
            Fault::Type { .. } if depth == 0 => OTHER_TYPE,
            Fault::Constant { .. } | Fault::Enum { .. } if depth < 2 => OTHER_VARIANT,
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

/// The keys beside an unknown one. `keyword` is the path of the keyword that refused it: a member of the schema that
/// has the keys.
fn beside<'s>(root: &'s Value, keyword: &str) -> Vec<&'s str> {
    let object = keyword.rsplit_once('/').and_then(|(object, _)| follow(root, object));
    let properties = object.and_then(|object| object.get("properties")?.as_object());
    properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str)).collect()
}

/// What a path of keywords leads to, through references.
fn follow<'s>(root: &'s Value, keywords: &str) -> Option<&'s Value> {
    let mut here = root;
    for step in keywords.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        here = match here {
            Value::Object(members) => members.get(&step)?,
            Value::Array(items) => items.get(step.parse::<usize>().ok()?)?,
            _ => return None,
        };
        if step == "$ref"
            && let Some(target) = here.as_str()
        {
            here = root.pointer(target.strip_prefix('#')?)?;
        }
    }
    Some(here)
}

fn message(error: &ValidationError<'_>, value: &Value) -> String {
    let items = |limit: u64| if limit == 1 { "item" } else { "items" };
    let length = |limit: u64| if limit == 1 { "character" } else { "characters" };
    let members = |limit: u64| if limit == 1 { "member" } else { "members" };
    match error.kind() {
        Fault::Type { kind } => mistyped(value, &json_types(kind)),
        Fault::Required { property } => missing(property.as_str().unwrap_or_default()),
        Fault::Pattern { pattern } => format!("{} does not match the pattern `{pattern}`", quoted(value)),
        Fault::Format { format } => format!("{} is not of the format `{format}`", quoted(value)),
        Fault::MinLength { limit } => format!("expected at least {limit} {}", length(*limit)),
        Fault::MaxLength { limit } => {
            let count = value.as_str().unwrap_or_default().chars().count();
            format!("expected at most {limit} {}, found {count}", length(*limit))
        }
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
        Fault::Contains => "no item is what one of them has to be".to_owned(),
        Fault::FalseSchema => "this is not allowed here".to_owned(),
        _ => shorten(&error.to_string()),
    }
}

/// The members that may not stand together, where that is what a negated schema says.
fn excluded(schema: &Value) -> Option<Vec<&str>> {
    let names = schema.get("required")?.as_array()?;
    (names.len() > 1).then(|| names.iter().filter_map(Value::as_str).collect())
}

fn json_types(kind: &TypeKind) -> Vec<JsonType> {
    match kind {
        TypeKind::Single(single) => vec![*single],
        TypeKind::Multiple(several) => several.iter().collect(),
    }
}

fn mistyped(value: &Value, expected: &[JsonType]) -> String {
    let names: Vec<&str> = expected.iter().map(|kind| type_name(*kind)).collect();
    format!("expected {}, found {}", names.join(" or "), found(value))
}

/// How a value is written that is right but for its type.
fn retyped(value: &Value, expected: &[JsonType]) -> Option<String> {
    let takes = |kind: JsonType| expected.contains(&kind);
    match value {
        Value::String(text) => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = takes(JsonType::Integer) || takes(JsonType::Number);
            if number && integer && digits.len() > 1 && digits.starts_with('0') {
                let octal = i64::from_str_radix(text, 8).ok()?;
                return Some(format!("numbers are decimal: `{octal}` is octal {text}"));
            }
            let same = (number && integer)
                || (takes(JsonType::Boolean) && matches!(text.as_str(), "true" | "false"))
                || (takes(JsonType::Number) && text.parse::<f64>().is_ok_and(f64::is_finite));
            same.then(|| format!("write it without quotes: `{text}`"))
        }
        Value::Number(_) | Value::Bool(_) if takes(JsonType::String) => Some(in_quotes(value)),
        _ => None,
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
mod tests;
