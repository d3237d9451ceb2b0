//! Answers to requests for the rest of a file (RFC 9110, 14.4).

use ureq::http::HeaderMap;

/// What an answer with status 206 or 416 says that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// The first byte and the last one; none if nothing could be had.
    pub(super) part: Option<(u64, u64)>,
    /// How many bytes the whole has, if that is said.
    pub(super) total: Option<u64>,
}

impl ContentRange {
    /// Reads `Content-Range`; none if there is none, or if it makes no sense.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get("content-range")?.to_str().ok()?)
    }

    fn parse(value: &str) -> Option<Self> {
        let (part, total) = value.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let total = if total.trim() == "*" { None } else { Some(number(total)?) };
        let part = if part.trim() == "*" {
            None
        } else {
            let (first, last) = part.split_once('-')?;
            Some((number(first)?, number(last)?))
        };
        let makes_sense =
            part.is_none_or(|(first, last)| first <= last && total.is_none_or(|total| last < total));
        makes_sense.then_some(Self { part, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range = |part, total| Some(ContentRange { part, total });
        let cases = [
            ("bytes 5-9/10", range(Some((5, 9)), Some(10))),
            ("bytes 5-9/*", range(Some((5, 9)), None)),
            ("bytes */10", range(None, Some(10))),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes 5-/10", None),
            ("bytes -5/10", None),
            ("bytes 5-9", None),
            ("items 5-9/10", None),
            ("", None),
        ];
        for (value, expected) in cases {
            assert_eq!(ContentRange::parse(value), expected, "{value}");
        }
    }
}
