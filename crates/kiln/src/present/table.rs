//! Lists for people: aligned columns, ages.

use std::time::{Duration, SystemTime};

/// To which side a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Aligns rows of cells, one line each.
pub(crate) fn table(rows: &[Vec<String>], sides: &[Side]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..sides.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for ((cell, side), width) in row.iter().zip(sides).zip(&widths) {
            // A column without any content is none.
            if *width == 0 {
                continue;
            }
            if !line.is_empty() {
                line.push_str("  ");
            }
            match side {
                Side::Left => line.push_str(&format!("{cell:<width$}")),
                Side::Right => line.push_str(&format!("{cell:>width$}")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// How long ago something was: `just now`, `5 min ago`, `3 h ago`, `12 d ago`.
pub(crate) fn ago(time: SystemTime, now: SystemTime) -> String {
    let Ok(past) = now.duration_since(time) else { return "in the future".to_owned() };
    let seconds = past.as_secs();
    match seconds {
        0..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", Duration::from_secs(seconds).as_secs() / 86_400),
    }
}

/// A number of entries.
pub(crate) fn entries(number: usize) -> String {
    format!("{number} {}", if number == 1 { "entry" } else { "entries" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["name", "", "size"], ["a", "", "1"], ["länger", "", "10"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let sides = [Side::Left, Side::Left, Side::Right];
        assert_eq!(table(&rows, &sides), "name    size\na          1\nlänger    10\n");
        assert_eq!(table(&[], &sides), "");
    }

    #[test]
    fn ages() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let cases = [
            (0, "just now"),
            (59, "just now"),
            (60, "1 min ago"),
            (3599, "59 min ago"),
            (3600, "1 h ago"),
            (172_799, "47 h ago"),
            (172_800, "2 d ago"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(ago(now - Duration::from_secs(seconds), now), expected);
        }
        assert_eq!(ago(now + Duration::from_secs(1), now), "in the future");
    }
}
