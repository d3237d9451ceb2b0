//! Sizes as blueprints write them: bytes, or a number and a unit.

use super::node::{Data, Placed};
use super::report::Report;
use super::table::Table;

/// The units, the decimal ones as in image-builder.
const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads a size in bytes from a key that is an integer or a text such as `4 GiB`.
pub(super) fn size(table: &mut Table<'_>, name: &'static str, report: &mut Report) -> Option<Placed<u64>> {
    let node = table.any(name)?;
    let value = match &node.value {
        Data::Integer(number) => u64::try_from(*number).ok(),
        Data::String(text) => parse(text),
        _ => None,
    };
    match value {
        Some(value) if value > 0 => Some(Placed { value, span: node.span.clone() }),
        _ => {
            let message = format!("`{}` is not a size", table.path(name));
            report.add(node.span.clone(), message, Some("write bytes, or for example \"4 GiB\"".to_owned()));
            None
        }
    }
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = match unit.trim_start() {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        let cases = [
            ("512", Some(512)),
            ("20 GB", Some(20_000_000_000)),
            ("2GiB", Some(2 << 30)),
            ("1 KiB", Some(1024)),
            ("1 kB", Some(1000)),
            ("1.5 GiB", None),
            ("-1", None),
            ("GiB", None),
            ("3 gib", None),
            ("99999999999 TiB", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
