//! `cache.info`: the version of the layout and the limit. `object.info`: what commits an entry.

use std::path::Path;

use serde_json::{Map, Value};

use super::{CacheError, json};

/// The version of the layout that this program knows.
const VERSION: i64 = 1;

/// The limit for what a cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaximumSize {
    /// So many bytes. Zero, the default of a new cache, keeps nothing.
    Bytes(u64),
    /// No limit.
    Unlimited,
}

/// The key of `object.info` with the bytes that an entry is accounted with.
pub(super) const SIZE: &str = "size";
/// The key of `object.info` with the boot in which an entry was made.
pub(super) const BOOT: &str = "creation-boot-id";
/// The key of `object.info`, Kiln's own, with what the content depends on beside its name.
pub(super) const RECIPE: &str = "recipe";

/// Understands the text of `object.info`; none if it is not whole.
pub(super) fn parse_info(text: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(text).ok()
}

/// The bytes that an entry is accounted with.
pub(super) fn accounted(info: &Map<String, Value>) -> u64 {
    info.get(SIZE).and_then(Value::as_u64).unwrap_or(0)
}

/// The boot in which an entry was made.
pub(super) fn boot_of(info: &Map<String, Value>) -> Option<&str> {
    info.get(BOOT).and_then(Value::as_str)
}

/// What `cache.info` says, as far as it is understood.
#[derive(Clone, Debug)]
pub(super) struct Info {
    pub(super) version: Option<i64>,
    pub(super) maximum_size: MaximumSize,
    /// The whole object, with what is not understood; none if it is no object.
    raw: Option<Map<String, Value>>,
}

impl Info {
    pub(super) fn read(path: &Path) -> Result<Self, CacheError> {
        let text = std::fs::read_to_string(path).map_err(CacheError::io("read", path))?;
        Self::parse(&text).map_err(|source| CacheError::Syntax { path: path.to_owned(), source })
    }

    fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let raw = match serde_json::from_str(text)? {
            Value::Object(raw) => Some(raw),
            _ => None,
        };
        let get = |key: &str| raw.as_ref().and_then(|raw| raw.get(key));
        let version = get("version").and_then(Value::as_i64);
        let maximum_size = match get("maximum-size") {
            Some(Value::String(text)) if text == "unlimited" => MaximumSize::Unlimited,
            // Below zero means no limit to the reference.
            Some(Value::Number(number)) if number.as_i64().is_some_and(i64::is_negative) => {
                MaximumSize::Unlimited
            }
            Some(Value::Number(number)) => MaximumSize::Bytes(number.as_u64().unwrap_or(0)),
            _ => MaximumSize::Bytes(0),
        };
        Ok(Self { version, maximum_size, raw })
    }

    pub(super) fn is_compatible(&self) -> bool {
        self.version == Some(VERSION)
    }

    /// The text with another limit; none if the file says that already, or holds something that must not be touched.
    pub(super) fn with_maximum_size(&self, maximum: MaximumSize) -> Option<String> {
        let mut raw = self.raw.clone()?;
        let value = match maximum {
            MaximumSize::Bytes(bytes) => bytes.into(),
            MaximumSize::Unlimited => "unlimited".into(),
        };
        let before = raw.insert("maximum-size".to_owned(), value);
        (before.as_ref() != raw.get("maximum-size")).then(|| json::dump(&raw))
    }

    /// The same with another limit, for this program only.
    pub(super) fn limited_to(self, maximum_size: MaximumSize) -> Self {
        Self { maximum_size, ..self }
    }

    /// The text for a new cache.
    pub(super) fn initial() -> String {
        let mut raw = Map::new();
        raw.insert("version".to_owned(), VERSION.into());
        json::dump(&raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood() {
        use MaximumSize::{Bytes, Unlimited};
        let cases = [
            (r#"{"version": 1}"#, Some(1), Bytes(0), true),
            (r#"{"version": 2, "maximum-size": 5}"#, Some(2), Bytes(5), false),
            (r#"{"version": 1, "maximum-size": "unlimited"}"#, Some(1), Unlimited, true),
            (r#"{"version": 1, "maximum-size": -1}"#, Some(1), Unlimited, true),
            (r#"{"version": 1, "maximum-size": "5 GB"}"#, Some(1), Bytes(0), true),
            (r#"{"version": 1.0}"#, None, Bytes(0), false),
            (r#"{"version": "1"}"#, None, Bytes(0), false),
            ("[1]", None, Bytes(0), false),
            ("{}", None, Bytes(0), false),
        ];
        for (text, version, maximum, compatible) in cases {
            let info = Info::parse(text).expect(text);
            assert_eq!((info.version, info.maximum_size), (version, maximum), "{text}");
            assert_eq!(info.is_compatible(), compatible, "{text}");
        }
        assert!(Info::parse("").is_err());
    }

    #[test]
    fn what_is_not_understood_survives() {
        let info =
            Info::parse(r#"{"zeta": [1], "version": 1, "maximum-size": 3, "alpha": null}"#).expect("valid");
        assert_eq!(
            info.with_maximum_size(MaximumSize::Unlimited).as_deref(),
            Some(r#"{"zeta": [1], "version": 1, "maximum-size": "unlimited", "alpha": null}"#)
        );
        assert_eq!(info.with_maximum_size(MaximumSize::Bytes(3)), None, "it says that already");
        assert_eq!(Info::parse("[]").expect("valid").with_maximum_size(MaximumSize::Unlimited), None);
        assert_eq!(Info::initial(), r#"{"version": 1}"#);
    }
}
