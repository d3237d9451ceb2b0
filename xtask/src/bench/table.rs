//! The table of results, and the page it stands on.

use std::time::Duration;

use crate::text;

/// What comes before and after the table on its page.
pub(super) const MARKS: (&str, &str) = ("<!-- bench: begin -->", "<!-- bench: end -->");

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Time(Duration),
    Memory(u64),
}

impl Value {
    fn text(self) -> String {
        match self {
            Self::Time(time) => text::duration(time),
            Self::Memory(bytes) => text::bytes(bytes),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "only compared and shown with one decimal")]
    fn number(self) -> f64 {
        match self {
            Self::Time(time) => time.as_secs_f64(),
            Self::Memory(bytes) => bytes as f64,
        }
    }
}

/// What Kiln is expected to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    /// A value not to be exceeded.
    AtMost(Value),
    /// How many times as fast as the other side it must be.
    TimesAsFast(f64),
}

/// A line of the table.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// What was done.
    pub(super) case: String,
    /// What is expected.
    pub(super) limit: Option<Limit>,
    /// Kiln's value.
    pub(super) kiln: Value,
    /// The other side's name and value.
    pub(super) other: Option<(&'static str, Value)>,
}

impl Row {
    /// How many times the other side's value is Kiln's.
    fn factor(&self) -> Option<f64> {
        self.other.map(|(_, other)| other.number() / self.kiln.number().max(f64::MIN_POSITIVE))
    }

    fn verdict(&self) -> String {
        let Some(limit) = self.limit else { return String::new() };
        let (text, met) = match limit {
            Limit::AtMost(limit) => {
                (format!("at most {}", limit.text()), Some(self.kiln.number() <= limit.number()))
            }
            Limit::TimesAsFast(factor) => {
                (format!("{factor:.1} × as fast"), self.factor().map(|found| found >= factor))
            }
        };
        match met {
            Some(true) => format!("{text}: met"),
            Some(false) => format!("{text}: **missed**"),
            None => text,
        }
    }
}

/// The rows as a table in Markdown.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut table = String::from("| what | Kiln | other | factor | expected |\n|---|--:|--:|--:|---|\n");
    for row in rows {
        let other = row.other.map(|(name, value)| format!("{name} {}", value.text())).unwrap_or_default();
        let factor = row.factor().map(|factor| format!("{factor:.1}")).unwrap_or_default();
        let cells = [&row.case, &row.kiln.text(), &other, &factor, &row.verdict()];
        table.push_str(&format!("| {} |\n", cells.map(String::as_str).join(" | ")));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_show_values_factor_and_verdict() {
        let time = |millis| Value::Time(Duration::from_millis(millis));
        let rows = [
            Row {
                case: "a".into(),
                limit: Some(Limit::AtMost(time(8))),
                kiln: time(5),
                other: Some(("r", time(150))),
            },
            Row {
                case: "b".into(),
                limit: Some(Limit::TimesAsFast(1.5)),
                kiln: time(100),
                other: Some(("r", time(120))),
            },
            Row { case: "c".into(), limit: Some(Limit::TimesAsFast(1.5)), kiln: time(100), other: None },
            Row {
                case: "d".into(),
                limit: Some(Limit::AtMost(Value::Memory(64 << 20))),
                kiln: Value::Memory(65 << 20),
                other: None,
            },
        ];
        assert_eq!(
            markdown(&rows),
            "| what | Kiln | other | factor | expected |\n|---|--:|--:|--:|---|\n\
             | a | 5.0 ms | r 150 ms | 30.0 | at most 8.0 ms: met |\n\
             | b | 100 ms | r 120 ms | 1.2 | 1.5 × as fast: **missed** |\n\
             | c | 100 ms |  |  | 1.5 × as fast |\n\
             | d | 65 MiB |  |  | at most 64 MiB: **missed** |\n"
        );
    }
}
