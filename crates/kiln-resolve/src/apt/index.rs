//! Reading package indexes: paragraphs of `Field: value` lines.
//!
//! An index of a distribution has tens of megabytes, so it is read line by line and only what was asked for stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::root::Target;
use crate::ResolveError;

/// A package's file as its index describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Where the file is, its path not quoted.
    pub(crate) url: String,
    pub(crate) sha256: String,
    pub(crate) size: u64,
    /// What the package takes up when installed, in bytes, as its maker estimates.
    pub(crate) installed: u64,
    /// The release that the index belongs to: its file without `InRelease`.
    pub(crate) release: PathBuf,
}

#[derive(Default)]
struct Paragraph {
    name: String,
    version: String,
    file: String,
    sha256: String,
    size: u64,
    installed: u64,
    provides: String,
}

/// The names of all packages, real and virtual.
pub(crate) fn names(targets: &[Target]) -> Result<BTreeSet<String>, ResolveError> {
    let mut names = BTreeSet::new();
    for target in targets {
        paragraphs(&target.file, |paragraph| {
            for provided in paragraph.provides.split(',') {
                let name = provided.split(['(', ':']).next().unwrap_or_default().trim();
                if !name.is_empty() && !names.contains(name) {
                    names.insert(name.to_owned());
                }
            }
            if !names.contains(&paragraph.name) {
                names.insert(std::mem::take(&mut paragraph.name));
            }
        })?;
    }
    Ok(names)
}

/// The records of the given URLs, by URL as it was given.
pub(crate) fn records(
    targets: &[Target],
    wanted: &BTreeSet<String>,
) -> Result<BTreeMap<String, Record>, ResolveError> {
    let wanted: BTreeMap<String, &String> = wanted.iter().map(|url| (normal(url), url)).collect();
    let mut found: BTreeMap<String, Record> = BTreeMap::new();
    for target in targets {
        let release = target.release();
        let base = normal(&target.repository);
        paragraphs(&target.file, |paragraph| {
            let Some(url) = wanted.get(&normal(&format!("{base}{}", paragraph.file))) else { return };
            found.entry((*url).clone()).or_insert_with(|| Record {
                name: std::mem::take(&mut paragraph.name),
                version: std::mem::take(&mut paragraph.version),
                url: format!("{}{}", target.repository, paragraph.file.trim_start_matches("./")),
                sha256: std::mem::take(&mut paragraph.sha256),
                size: paragraph.size,
                installed: paragraph.installed * 1024,
                release: release.clone(),
            });
        })?;
    }
    Ok(found)
}

/// A URL with the quoting of its path undone, for comparing.
fn normal(url: &str) -> String {
    let mut bytes = Vec::with_capacity(url.len());
    let mut rest = url.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).replace("/./", "/")
}

fn paragraphs(path: &Path, mut each: impl FnMut(&mut Paragraph)) -> Result<(), ResolveError> {
    let failed = |source| ResolveError::Io { path: path.to_owned(), source };
    let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(failed)?);
    let mut paragraph = Paragraph::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = file.read_until(b'\n', &mut line).map_err(failed)?;
        let text = line.trim_ascii_end();
        if text.is_empty() {
            if !paragraph.name.is_empty() {
                each(&mut paragraph);
            }
            paragraph = Paragraph::default();
            if count == 0 {
                return Ok(());
            }
        } else {
            paragraph.take(text);
        }
    }
}

impl Paragraph {
    fn take(&mut self, line: &[u8]) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(field), Some(value)) = (parts.next(), parts.next()) else { return };
        let text = || String::from_utf8_lossy(value.trim_ascii()).into_owned();
        match field {
            b"Package" => self.name = text(),
            b"Version" => self.version = text(),
            b"Filename" => self.file = text(),
            b"SHA256" => self.sha256 = text(),
            b"Provides" => self.provides = text(),
            b"Size" => self.size = text().parse().unwrap_or_default(),
            b"Installed-Size" => self.installed = text().parse().unwrap_or_default(),
            _ => {}
        }
    }
}
