//! JSON as Python reads and writes it, because ids are hashes of Python's text.
//!
//! Reading keeps integers of any size, tells `1` from `1.0`, lets the last of duplicate keys win, and accepts
//! `NaN` and `Infinity`. Writing is `json.dumps(value, sort_keys=True)`: separators `", "` and `": "`, keys by
//! code point, everything outside printable ASCII escaped, floats as `repr` has them.
//!
//! Values carry no positions. An error is rare and its place is found by reading the text again
//! ([`super::place`]).

use std::fmt::{self, Write};

use indexmap::IndexMap;

/// An object: keys in the order of their first appearance.
pub type Object = IndexMap<String, Json>;

/// Nesting beyond this is refused, as in the reference, where it exhausts the interpreter's stack.
const MAX_DEPTH: usize = 900;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer that fits.
    Integer(i64),
    /// The digits of an integer that does not fit.
    BigInteger(Box<str>),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// A text.
    String(String),
    /// A list.
    Array(Vec<Json>),
    /// A map.
    Object(Object),
}

/// Why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// What was expected or found.
    pub message: String,
    /// Byte offset of the fault.
    pub offset: usize,
}

impl Json {
    /// Reads a whole text.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut parser = Parser::new(text);
        parser.space();
        let value = parser.value(0)?;
        parser.space();
        match parser.peek() {
            None => Ok(value),
            Some(_) => Err(parser.error("unexpected text after the end of the value")),
        }
    }

    /// The member of an object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_object()?.get(key)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The object, if it is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// What Python takes for false: `null`, `false`, zero, and what is empty.
    pub fn is_falsy(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(value) => !value,
            Self::Integer(value) => *value == 0,
            Self::BigInteger(_) => false,
            Self::Float(value) => *value == 0.0,
            Self::String(text) => text.is_empty(),
            Self::Array(items) => items.is_empty(),
            Self::Object(members) => members.is_empty(),
        }
    }

    /// The word for the value's type.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::BigInteger(_) => "an integer",
            Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// Writes the value as `json.dumps(value, sort_keys=True)` does.
    pub fn write_sorted(&self, out: &mut impl Write) -> fmt::Result {
        self.write(out, true)
    }

    /// Writes the value as `json.dumps(value)` does: keys in their own order.
    pub fn write_plain(&self, out: &mut impl Write) -> fmt::Result {
        self.write(out, false)
    }

    fn write(&self, out: &mut impl Write, sorted: bool) -> fmt::Result {
        match self {
            Self::Null => out.write_str("null"),
            Self::Bool(true) => out.write_str("true"),
            Self::Bool(false) => out.write_str("false"),
            Self::Integer(value) => write!(out, "{value}"),
            Self::BigInteger(digits) => out.write_str(digits),
            Self::Float(value) => write_float(*value, out),
            Self::String(text) => write_string(text, out),
            Self::Array(items) => {
                out.write_char('[')?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.write_str(", ")?;
                    }
                    item.write(out, sorted)?;
                }
                out.write_char(']')
            }
            Self::Object(members) if sorted => {
                let mut members: Vec<_> = members.iter().collect();
                // UTF-8 sorts by code point, as Python does.
                members.sort_unstable_by_key(|(key, _)| key.as_str());
                write_members(members.into_iter(), out, true)
            }
            Self::Object(members) => write_members(members.iter(), out, false),
        }
    }

    /// The value for code that works with `serde_json`. Integers beyond 64 bits lose digits.
    pub fn to_value(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Integer(value) => Value::from(*value),
            Self::BigInteger(digits) => digits
                .parse::<u64>()
                .map(Value::from)
                .unwrap_or_else(|_| Value::from(digits.parse::<f64>().unwrap_or(f64::MAX))),
            // JSON proper has no infinity.
            Self::Float(value) => Value::from(value.clamp(f64::MIN, f64::MAX)),
            Self::String(text) => Value::String(text.clone()),
            Self::Array(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Self::Object(members) => Value::Object(to_map(members)),
        }
    }

    /// The opposite of [`to_value`](Self::to_value).
    pub fn from_value(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Self::Integer(value),
                (None, Some(value)) => Self::BigInteger(value.to_string().into()),
                (None, None) => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::String(text.clone()),
            Value::Array(items) => Self::Array(items.iter().map(Self::from_value).collect()),
            Value::Object(members) => Self::Object(
                members.iter().map(|(key, value)| (key.clone(), Self::from_value(value))).collect(),
            ),
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_plain(formatter)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

/// An object for code that works with `serde_json`.
pub fn to_map(members: &Object) -> serde_json::Map<String, serde_json::Value> {
    members.iter().map(|(key, value)| (key.clone(), value.to_value())).collect()
}

fn write_members<'a>(
    members: impl Iterator<Item = (&'a String, &'a Json)>,
    out: &mut impl Write,
    sorted: bool,
) -> fmt::Result {
    out.write_char('{')?;
    for (index, (key, value)) in members.enumerate() {
        if index > 0 {
            out.write_str(", ")?;
        }
        write_string(key, out)?;
        out.write_str(": ")?;
        value.write(out, sorted)?;
    }
    out.write_char('}')
}

/// Writes a text with quotes, everything outside printable ASCII escaped.
pub fn write_string(text: &str, out: &mut impl Write) -> fmt::Result {
    out.write_char('"')?;
    let mut plain = 0;
    for (at, character) in text.char_indices() {
        if matches!(character, ' '..='~') && character != '"' && character != '\\' {
            continue;
        }
        out.write_str(text.get(plain..at).unwrap_or_default())?;
        plain = at + character.len_utf8();
        match character {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\u{8}' => out.write_str("\\b")?,
            '\u{c}' => out.write_str("\\f")?,
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
    }
    out.write_str(text.get(plain..).unwrap_or_default())?;
    out.write_char('"')
}

/// Writes a float as Python's `repr`: the shortest digits, positional from 1e-4 up to below 1e16.
fn write_float(value: f64, out: &mut impl Write) -> fmt::Result {
    if value.is_nan() {
        return out.write_str("NaN");
    }
    if value.is_infinite() {
        return out.write_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || value == 0.0 {
        let positional = format!("{value}");
        out.write_str(&positional)?;
        return if positional.contains('.') { Ok(()) } else { out.write_str(".0") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    write!(out, "{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// A cursor over a JSON text. Shared with the search for places.
pub(super) struct Parser<'a> {
    text: &'a str,
    pub(super) at: usize,
    /// Where the last key began and ended, quotes included.
    pub(super) key: (usize, usize),
}

impl<'a> Parser<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0, key: (0, 0) }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    pub(super) fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { message: message.into(), offset: self.at }
    }

    pub(super) fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word));
        if found {
            self.at += word.len();
        }
        found
    }

    pub(super) fn value(&mut self, depth: usize) -> Result<Json, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        match self.peek() {
            Some(b'{') => {
                let mut members = Object::new();
                self.members(|parser, key| {
                    let value = parser.value(depth + 1)?;
                    // Of duplicate keys the last value wins, at the place of the first.
                    members.insert(key, value);
                    Ok(())
                })?;
                Ok(Json::Object(members))
            }
            Some(b'[') => {
                let mut items = Vec::new();
                self.items(|parser, _| {
                    items.push(parser.value(depth + 1)?);
                    Ok(())
                })?;
                Ok(Json::Array(items))
            }
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.take("null") => Ok(Json::Null),
            _ if self.take("true") => Ok(Json::Bool(true)),
            _ if self.take("false") => Ok(Json::Bool(false)),
            _ if self.take("NaN") => Ok(Json::Float(f64::NAN)),
            _ if self.take("Infinity") => Ok(Json::Float(f64::INFINITY)),
            Some(_) => Err(self.error("expected a value")),
            None => Err(self.error("unexpected end: expected a value")),
        }
    }

    /// Walks an object; `each` reads the value after each key.
    pub(super) fn members(
        &mut self,
        mut each: impl FnMut(&mut Self, String) -> Result<(), SyntaxError>,
    ) -> Result<(), SyntaxError> {
        self.at += 1;
        self.space();
        if self.take("}") {
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a key in double quotes"));
            }
            let start = self.at;
            let key = self.string()?;
            let place = (start, self.at);
            self.space();
            if !self.take(":") {
                return Err(self.error("expected `:` after the key"));
            }
            self.space();
            self.key = place;
            each(self, key)?;
            self.space();
            if self.take("}") {
                return Ok(());
            }
            if !self.take(",") {
                return Err(self.error("expected `,` or `}`"));
            }
            self.space();
        }
    }

    /// Walks an array; `each` reads each item.
    pub(super) fn items(
        &mut self,
        mut each: impl FnMut(&mut Self, usize) -> Result<(), SyntaxError>,
    ) -> Result<(), SyntaxError> {
        self.at += 1;
        self.space();
        if self.take("]") {
            return Ok(());
        }
        for index in 0.. {
            each(self, index)?;
            self.space();
            if self.take("]") {
                break;
            }
            if !self.take(",") {
                return Err(self.error("expected `,` or `]`"));
            }
            self.space();
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Json, SyntaxError> {
        let start = self.at;
        if self.take("-Infinity") {
            return Ok(Json::Float(f64::NEG_INFINITY));
        }
        self.take("-");
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.error("expected a digit")),
        }
        let mut float = false;
        if self.peek() == Some(b'.') {
            float = true;
            self.at += 1;
            if !matches!(self.peek(), Some(b'0'..=b'9')) {
                return Err(self.error("expected a digit after the point"));
            }
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            float = true;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !matches!(self.peek(), Some(b'0'..=b'9')) {
                return Err(self.error("expected a digit in the exponent"));
            }
            self.digits();
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        if float {
            return text.parse().map(Json::Float).map_err(|_| self.error("not a number"));
        }
        Ok(text.parse().map_or_else(|_| Json::BigInteger(text.into()), Json::Integer))
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        self.at += 1;
        let mut result = String::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|byte| byte != b'"' && byte != b'\\' && byte >= 0x20) {
                self.at += 1;
            }
            result.push_str(self.text.get(start..self.at).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(result);
                }
                Some(b'\\') => result.push(self.escape()?),
                Some(_) => return Err(self.error("a control character in a string must be escaped")),
                None => return Err(self.error("the string does not end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let start = self.at;
        self.at += 1;
        let character = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let first = self.hex()?;
                let mut units = vec![first];
                if (0xd800..0xdc00).contains(&first) && self.take("\\u") {
                    units.push(self.hex()?);
                }
                let mut decoded = char::decode_utf16(units);
                return match (decoded.next(), decoded.next()) {
                    (Some(Ok(character)), None) => Ok(character),
                    _ => {
                        self.at = start;
                        Err(self.error("half of a surrogate pair"))
                    }
                };
            }
            _ => return Err(self.error("unknown escape")),
        };
        self.at += 1;
        Ok(character)
    }

    fn hex(&mut self) -> Result<u16, SyntaxError> {
        let digits =
            self.text.get(self.at..self.at + 4).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        match unit {
            Some(unit) => {
                self.at += 4;
                Ok(unit)
            }
            None => Err(self.error("expected four hexadecimal digits")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_out_as_python_writes_them() {
        let cases = [
            ("1", "1"),
            ("1.0", "1.0"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("1e2", "100.0"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1e16", "1e+16"),
            ("9999999999999998.0", "9999999999999998.0"),
            ("1e22", "1e+22"),
            ("5e-324", "5e-324"),
            ("1.5e-7", "1.5e-07"),
            ("1e400", "Infinity"),
            ("-Infinity", "-Infinity"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            (r#""é😀\u007f\/""#, "\"\\u00e9\\ud83d\\ude00\\u007f/\""),
            (r#"{"b":1,"a":[],"b":{}}"#, r#"{"a": [], "b": {}}"#),
        ];
        for (text, expected) in cases {
            let mut out = String::new();
            Json::parse(text).expect(text).write_sorted(&mut out).expect("a string takes everything");
            assert_eq!(out, expected, "{text}");
        }
    }

    #[test]
    fn faults_have_a_place_and_a_reason() {
        let cases = [
            ("{\"a\": }", 6, "expected a value"),
            ("{\"a\" 1}", 5, "expected `:` after the key"),
            ("[1, 2", 5, "expected `,` or `]`"),
            ("[1 2]", 3, "expected `,` or `]`"),
            ("{a: 1}", 1, "expected a key in double quotes"),
            ("[01]", 2, "expected `,` or `]`"),
            ("\"\\ud800\"", 1, "half of a surrogate pair"),
            ("{} x", 3, "unexpected text after the end of the value"),
            ("", 0, "unexpected end: expected a value"),
        ];
        for (text, offset, message) in cases {
            let error = Json::parse(text).expect_err(text);
            assert_eq!((error.offset, error.message.as_str()), (offset, message), "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_not_fatal() {
        let error = Json::parse(&"[".repeat(100_000)).expect_err("too deep");
        assert_eq!(error.message, "nested too deeply");
    }
}
