//! Debian version numbers and their order: `[epoch:]upstream[-revision]`, compared as deb-version(7) says.

use std::cmp::Ordering;
use std::fmt;

/// A version number; equal numbers may be written differently (`1.0` and `0:1.0-0`).
#[derive(Clone, Debug)]
pub(super) struct Version(String);

impl Version {
    /// Takes any text: what is not well-formed still has a place in the order.
    pub(super) fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    fn parts(&self) -> (u64, &str, &str) {
        let (epoch, rest) = match self.0.split_once(':') {
            Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
            None => (0, self.0.as_str()),
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch, upstream, revision)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, two) = (self.parts(), other.parts());
        one.0.cmp(&two.0).then_with(|| compare(one.1, two.1)).then_with(|| compare(one.2, two.2))
    }
}

/// Compares parts that alternate between text and digits.
fn compare(one: &str, two: &str) -> Ordering {
    let (mut one, mut two) = (one.as_bytes(), two.as_bytes());
    while !one.is_empty() || !two.is_empty() {
        loop {
            let (first, second) = (text_weight(one), text_weight(two));
            if first != second {
                return first.cmp(&second);
            }
            if first == 0 {
                break;
            }
            (one, two) = (rest(one), rest(two));
        }
        let (first, second) = (take_digits(&mut one), take_digits(&mut two));
        let order = first.len().cmp(&second.len()).then_with(|| first.cmp(second));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// The rank of the leading character of a text part: `~`, then the end or a digit, then letters, then the rest.
fn text_weight(text: &[u8]) -> i32 {
    match text.first() {
        Some(b'~') => -1,
        None | Some(b'0'..=b'9') => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(*letter),
        Some(other) => i32::from(*other) + 256,
    }
}

fn rest(text: &[u8]) -> &[u8] {
    text.get(1..).unwrap_or_default()
}

/// Takes the leading digits, without leading zeros.
fn take_digits<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeros = digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    digits.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        let ascending = [
            "0~~",
            "0~",
            "0",
            "1.0~rc1",
            "1.0",
            "1.0-1~bpo",
            "1.0-1",
            "1.0-1+b2",
            "1.0-1+deb12u1",
            "1.0-2",
            "1.0a",
            "1.0+x",
            "1.0.1",
            "1.2",
            "1.10",
            "1:0.1",
        ];
        for (index, one) in ascending.iter().enumerate() {
            for (other_index, two) in ascending.iter().enumerate() {
                let (first, second) = (Version::new(one), Version::new(two));
                assert_eq!(first.cmp(&second), index.cmp(&other_index), "{one} against {two}");
            }
        }
        for (one, two) in [("1.0", "0:1.0"), ("1.0", "1.0-0"), ("01.002", "1.2")] {
            assert_eq!(Version::new(one), Version::new(two), "{one} against {two}");
        }
    }
}
