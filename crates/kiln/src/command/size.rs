//! Sizes as they are typed: `20GiB`, `500MB`, `10%`, `unlimited`.

use kiln_store::cache::MaximumSize;

/// The units of the reference's command line.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("", 1),
];

/// A size that the disk decides about, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system.
    Percent(u64),
}

impl Share {
    /// The bytes that are meant on a file system of a size.
    pub(crate) fn of(self, size: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // Rounded down, and without overflow.
            Self::Percent(percent) => size / 100 * percent + size % 100 * percent / 100,
        }
    }
}

/// Parses a limit as the reference does: a size, or `unlimited`.
pub(crate) fn parse_limit(text: &str) -> Result<MaximumSize, String> {
    if text == "unlimited" {
        return Ok(MaximumSize::Unlimited);
    }
    parse(text).map(MaximumSize::Bytes).ok_or_else(|| {
        "expected bytes, a number with kB, KiB, MB, MiB, GB, GiB, TB or TiB, or `unlimited`".to_owned()
    })
}

/// Parses a size.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    parse(text)
        .ok_or_else(|| "expected bytes, or a number with kB, KiB, MB, MiB, GB, GiB, TB or TiB".to_owned())
}

/// Parses a size or a part of the file system.
pub(crate) fn parse_share(text: &str) -> Result<Share, String> {
    let percent = text.strip_suffix('%').map(|number| number.trim().parse::<u64>());
    match percent {
        Some(Ok(percent @ 0..=100)) => Ok(Share::Percent(percent)),
        Some(_) => Err("expected a whole number of per cent, from 0 to 100".to_owned()),
        None => parse(text).map(Share::Bytes).ok_or_else(|| {
            "expected bytes, a number with kB, KiB, MB, MiB, GB, GiB, TB or TiB, or per cent".to_owned()
        }),
    }
}

/// Space may stand before the number and before the unit.
fn parse(text: &str) -> Option<u64> {
    UNITS.iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix(unit)?;
        let number = if unit.is_empty() { number } else { number.trim_end() }.trim_start();
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        // More than there can be is as much as there can be.
        digits.then(|| number.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(*factor))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_in_the_reference() {
        let cases = [
            ("0", Some(0)),
            (" 17", Some(17)),
            ("1kB", Some(1000)),
            ("1 KiB", Some(1024)),
            ("20GiB", Some(20 << 30)),
            ("3TB", Some(3_000_000_000_000)),
            ("17 ", None),
            ("", None),
            ("kB", None),
            ("1KB", None),
            ("1kiB", None),
            ("1.5GB", None),
            ("-1", None),
            ("99999999999999999999", Some(u64::MAX)),
            ("99999999999TiB", Some(u64::MAX)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_bytes(text).ok(), expected, "{text}");
            assert_eq!(parse_limit(text).ok(), expected.map(MaximumSize::Bytes), "{text}");
        }
        assert_eq!(parse_limit("unlimited"), Ok(MaximumSize::Unlimited));
        assert!(parse_bytes("unlimited").is_err());
    }

    #[test]
    fn shares_of_a_file_system() {
        let cases = [
            ("5%", Some(Share::Percent(5)), 50),
            ("100 %", Some(Share::Percent(100)), 1007),
            ("1MB", Some(Share::Bytes(1_000_000)), 1_000_000),
            ("101%", None, 0),
            ("-1%", None, 0),
            ("%", None, 0),
        ];
        for (text, expected, bytes) in cases {
            assert_eq!(parse_share(text).ok(), expected, "{text}");
            if let Some(share) = expected {
                assert_eq!(share.of(1007), bytes, "{text}");
            }
        }
        assert_eq!(Share::Percent(100).of(u64::MAX), u64::MAX);
    }
}
