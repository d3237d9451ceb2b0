//! The date of a release, which says how new its package lists are.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::root::Target;
use crate::ResolveError;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Target {
    /// The path of the release's file without its last word, `InRelease` or `Release`.
    pub(super) fn release(&self) -> PathBuf {
        let file = self.file.to_string_lossy();
        PathBuf::from(file.strip_suffix(&self.key.replace('/', "_")).unwrap_or(&file))
    }
}

/// The date of a release in seconds since 1970; none if it has none.
pub(crate) fn date(release: &Path) -> Result<Option<u64>, ResolveError> {
    for name in ["InRelease", "Release"] {
        let path = PathBuf::from(format!("{}{name}", release.display()));
        let failed = |source| ResolveError::Io { path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(failed(source)),
        };
        for line in BufReader::new(file).lines() {
            if let Some(text) = line.map_err(failed)?.strip_prefix("Date:") {
                return Ok(seconds(text));
            }
        }
    }
    Ok(None)
}

/// Reads `Sat, 11 Jan 2025 11:10:12 UTC`.
fn seconds(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "UTC" | "GMT" | "+0000"] = words[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let clock: Vec<u64> = time.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hours, minutes, seconds] = clock[..] else { return None };
    if year < 1970 {
        return None;
    }
    // Days of the civil calendar, with years that begin in March so that the leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn release_dates_become_seconds() {
        let cases = [
            ("Thu, 01 Jan 1970 00:00:00 UTC", Some(0)),
            (" Sat, 11 Jan 2025 11:10:12 UTC", Some(1_736_593_812)),
            ("Thu, 29 Feb 2024 23:59:59 +0000", Some(1_709_251_199)),
            ("Fri, 01 Mar 2024 00:00:00 GMT", Some(1_709_251_200)),
            ("Sat, 11 Jan 2025 11:10:12 CET", None),
            ("yesterday", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
