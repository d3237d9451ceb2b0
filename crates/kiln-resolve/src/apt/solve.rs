//! Asking the solver what a set of packages needs.

use std::collections::BTreeSet;

use super::index::{self, Record};
use super::release;
use super::root::{Apt, Target, complaint};
use crate::ResolveError;

/// Why a set of packages cannot be installed, in apt's words.
pub(crate) struct Refusal {
    pub(crate) lines: Vec<String>,
}

impl Apt<'_> {
    /// The URLs of all that must be installed for the given packages, in apt's quoting.
    pub(crate) fn solve(
        &self,
        packages: &[String],
        recommends: bool,
    ) -> Result<Result<BTreeSet<String>, Refusal>, ResolveError> {
        let recommends = if recommends { "--install-recommends" } else { "--no-install-recommends" };
        let mut arguments = vec!["-q", "-y", recommends, "--no-remove", "--print-uris", "install", "--"];
        arguments.extend(packages.iter().map(String::as_str));
        let ended = self.run(&arguments, |_| {})?;
        if ended.status.success() {
            let urls = ended.stdout.iter().filter_map(|line| line.strip_prefix('\'')?.split('\'').next());
            return Ok(Ok(urls.map(str::to_owned).collect()));
        }
        let unmet = ended.stdout.iter().skip_while(|line| !line.contains("unmet dependencies")).skip(1);
        let mut lines: Vec<String> = unmet
            .take_while(|line| line.starts_with(' '))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        if lines.is_empty() {
            lines = ended.stderr.iter().filter_map(|line| complaint(line)).map(str::to_owned).collect();
        }
        if lines.is_empty() {
            return Err(self.failure(&ended));
        }
        Ok(Err(Refusal { lines }))
    }
}

/// The records of solved packages, sorted by name; every one must have what a manifest needs.
pub(crate) fn lock(targets: &[Target], urls: &BTreeSet<String>) -> Result<Vec<Record>, ResolveError> {
    let mut found = index::records(targets, urls)?;
    let mut records = Vec::new();
    for url in urls {
        let mut record = found.remove(url).ok_or_else(|| ResolveError::NoRecord { url: url.clone() })?;
        record.url =
            fetchable(&record.url).ok_or_else(|| ResolveError::Transport { url: record.url.clone() })?;
        let digits = record.sha256.len() == 64 && record.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits || record.size == 0 {
            return Err(ResolveError::NoChecksum { package: record.name });
        }
        records.push(record);
    }
    records.sort();
    Ok(records)
}

/// The URL as a source can fetch it: apt has ways of its own, and short forms for local files.
fn fetchable(url: &str) -> Option<String> {
    let (method, rest) = url.split_once(':')?;
    match method {
        "http" | "https" => Some(url.to_owned()),
        "file" | "copy" => Some(format!("file:///{}", rest.trim_start_matches('/'))),
        _ => None,
    }
}

/// The newest date of the releases that packages come from.
pub(crate) fn epoch<'a>(records: impl Iterator<Item = &'a Record>) -> Result<Option<u64>, ResolveError> {
    let releases: BTreeSet<_> = records.map(|record| &record.release).collect();
    let mut newest = None;
    for release in releases {
        newest = newest.max(release::date(release)?);
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::fetchable;

    #[test]
    fn only_what_a_source_can_fetch_is_locked() {
        let cases = [
            ("http://example.invalid/a_1~b.deb", Some("http://example.invalid/a_1~b.deb")),
            ("https://example.invalid/a.deb", Some("https://example.invalid/a.deb")),
            ("file:/pool/a.deb", Some("file:///pool/a.deb")),
            ("copy:///pool/a.deb", Some("file:///pool/a.deb")),
            ("cdrom:[disc]/a.deb", None),
            ("mirror+file:/list/a.deb", None),
            ("a.deb", None),
        ];
        for (url, expected) in cases {
            assert_eq!(fetchable(url).as_deref(), expected, "{url}");
        }
    }
}
