//! Reading which partition table a disk has, and what it says of a partition: `part_type`, `part_label`, `part_uuid`.

use super::node::Placed;
use super::report::Report;
use super::table::Table;

/// The longest name of a partition in the table, in units of UTF-16 (UEFI 2.10, 5.3.3).
pub(crate) const LONGEST_NAME: usize = 36;

/// The kind of a partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartitionTable {
    /// The GUID partition table.
    Gpt,
    /// The table of PCs of old, in the disk's first sector.
    Dos,
}

impl PartitionTable {
    pub(super) const ALL: [(&str, Self); 2] = [("gpt", Self::Gpt), ("dos", Self::Dos)];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gpt => "gpt",
            Self::Dos => "dos",
        }
    }
}

/// What the table says of a partition where the definition does; the rest follows from what is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    /// Its type: a UUID, or two digits.
    pub(crate) kind: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) uuid: Option<String>,
}

impl Entry {
    /// Reads it from a partition's table; `taken` has the UUIDs of the others.
    pub(super) fn read(
        on: PartitionTable,
        table: &mut Table<'_>,
        taken: &mut Vec<String>,
        report: &mut Report,
    ) -> Self {
        let mut text =
            |key, report: &mut Report| table.string(key, report).filter(|text| !text.value.is_empty());
        let kind = text("part_type", report);
        let (name, written) = (text("part_label", report), text("part_uuid", report));
        if on == PartitionTable::Dos {
            for text in [name, written].into_iter().flatten() {
                let message = "a `dos` table has no names and no UUIDs of partitions".to_owned();
                report.add(text.span, message, Some("remove it, or use `gpt`".to_owned()));
            }
            return Self { kind: kind.and_then(|kind| digits(&kind, report)), ..Self::default() };
        }
        let kind = kind.and_then(|kind| uuid(&kind, "partition's type", report));
        if let Some(name) = &name {
            check_name(name, report);
        }
        let uuid = written.as_ref().and_then(|text| uuid(text, "partition", report));
        if let (Some(uuid), Some(written)) = (&uuid, written) {
            if taken.contains(uuid) {
                let message = format!("the UUID `{uuid}` is given twice");
                report.add(written.span, message, Some("give each its own, or leave it out".to_owned()));
            }
            taken.push(uuid.clone());
        }
        Self { kind, name: name.map(|name| name.value), uuid }
    }
}

/// The type of a partition in a `dos` table.
fn digits(text: &Placed<String>, report: &mut Report) -> Option<String> {
    let hex = text.value.len() == 2 && text.value.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Zero is the type of an entry that is not used.
    if hex && text.value != "00" {
        return Some(text.value.to_ascii_lowercase());
    }
    let message = format!("`{}` is not the type of a partition in a `dos` table", text.value);
    report.add(text.span.clone(), message, Some("write it as \"83\", or leave it out".to_owned()));
    None
}

/// A UUID in small letters, as tools write it.
fn uuid(text: &Placed<String>, what: &str, report: &mut Report) -> Option<String> {
    let parts: Vec<&str> = text.value.split('-').collect();
    let lengths = parts.iter().map(|part| part.len());
    let hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if lengths.eq([8, 4, 4, 4, 12]) && parts.iter().all(hex) {
        return Some(text.value.to_ascii_lowercase());
    }
    let hint = "write it as \"0fc63daf-8483-4772-8e79-3d69d8477de4\", or leave it out".to_owned();
    report.add(text.span.clone(), format!("`{}` is not the UUID of a {what}", text.value), Some(hint));
    None
}

/// Refuses what the table has no room for, and what `sfdisk` would read as something else.
fn check_name(name: &Placed<String>, report: &mut Report) {
    let text = name.value.as_str();
    if text.encode_utf16().count() > LONGEST_NAME {
        let message = format!("the name `{text}` is too long for a partition");
        report.add(name.span.clone(), message, Some(format!("use at most {LONGEST_NAME} characters")));
    }
    if text.contains(|c: char| c.is_control() || matches!(c, '"' | '\\')) {
        let hint = "leave out quotes, backslashes and line breaks".to_owned();
        let message = format!("`{}` is not a name of a partition", text.escape_debug());
        report.add(name.span.clone(), message, Some(hint));
    }
}
