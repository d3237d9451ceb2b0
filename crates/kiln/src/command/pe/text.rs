//! An image for people: what it is, a table of its sections, and the texts of a unified kernel image.

use std::fmt::Write as _;

use kiln_modules::pe::UKI_SECTIONS;

use super::Shown;
use crate::present::{Side, table};

pub(super) fn describe(shown: &Shown<'_>) -> String {
    let image = &shown.image;
    let (coff, optional) = (&image.coff, &image.optional);
    let number_or =
        |name: Option<&str>, number: u16| name.map_or_else(|| format!("{number:#x}"), str::to_owned);
    let mut text = format!(
        "{}: {} {} for {}{}\n",
        shown.path.display(),
        optional.format.name(),
        number_or(optional.subsystem_name(), optional.subsystem),
        number_or(coff.machine_name(), coff.machine),
        if image.is_uki() { ", a unified kernel image" } else { "" },
    );
    let certificates = match &image.certificates[..] {
        [] => "none".to_owned(),
        all => all
            .iter()
            .map(|found| format!("{} bytes at offset {:#x}", found.size, found.offset))
            .collect::<Vec<_>>()
            .join(", "),
    };
    let named = |number: u16, names: Vec<&str>| {
        if names.is_empty() { format!("{number:#x}") } else { format!("{number:#x} ({})", names.join(", ")) }
    };
    let facts = [
        ("image base", format!("{:#x}", optional.image_base)),
        ("entry point", format!("{:#x}", optional.address_of_entry_point)),
        (
            "size",
            format!("{:#x} in memory, {:#x} of headers", optional.size_of_image, optional.size_of_headers),
        ),
        (
            "alignment",
            format!(
                "{:#x} in memory, {:#x} in the file",
                optional.section_alignment, optional.file_alignment
            ),
        ),
        ("characteristics", named(coff.characteristics, coff.characteristic_names().collect())),
        (
            "DLL characteristics",
            named(optional.dll_characteristics, optional.dll_characteristic_names().collect()),
        ),
        ("checksum", format!("{:#x}", optional.checksum)),
        ("certificates", certificates),
    ];
    let facts = facts.map(|(name, value)| vec![format!("  {name}"), value]);
    text.push_str(&table(&facts, &[Side::Left, Side::Left]));

    let directories: Vec<Vec<String>> = optional
        .named_directories()
        .map(|(name, found)| {
            let place = format!("{:#x}", found.virtual_address);
            vec![format!("  {name}"), place, format!("{:#x}", found.size)]
        })
        .collect();
    if !directories.is_empty() {
        let mut rows = vec![["  directory", "address", "size"].map(str::to_owned).to_vec()];
        rows.extend(directories);
        let _ = write!(text, "\n{}", table(&rows, &[Side::Left, Side::Right, Side::Right]));
    }

    if !image.sections.is_empty() {
        let _ = write!(text, "\n{}", sections(shown));
    }
    for (first, second) in image.overlaps() {
        let _ = writeln!(text, "\nsections overlap in memory: `{}` and `{}`", first.name, second.name);
    }
    for (section, content) in image.sections.iter().zip(&shown.texts) {
        let Some(content) = content else { continue };
        let _ = writeln!(text, "\n{}", section.name);
        for line in content.lines() {
            let _ = writeln!(text, "  {}", printable(line));
        }
    }
    text
}

fn sections(shown: &Shown<'_>) -> String {
    let head = ["#", "section", "address", "size", "offset", "in file", "flags", "holds"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    for (section, number) in shown.image.sections.iter().zip(1_usize..) {
        let known = UKI_SECTIONS.iter().find(|known| known.name == section.name);
        rows.push(vec![
            number.to_string(),
            section.name.clone(),
            format!("{:#x}", section.virtual_address),
            format!("{:#x}", section.virtual_size),
            format!("{:#x}", section.pointer_to_raw_data),
            format!("{:#x}", section.size_of_raw_data),
            section.flag_names().collect::<Vec<_>>().join(","),
            known.map_or_else(String::new, |known| known.holds.to_owned()),
        ]);
    }
    for row in &mut rows {
        row[0].insert_str(0, "  ");
    }
    use Side::{Left, Right};
    table(&rows, &[Right, Left, Right, Right, Right, Right, Left, Left])
}

/// A line of a foreign text without what terminals obey.
fn printable(line: &str) -> String {
    let escape = |character: char| {
        if character.is_control() && character != '\t' {
            character.escape_default().to_string()
        } else {
            character.to_string()
        }
    };
    line.chars().map(escape).collect()
}
