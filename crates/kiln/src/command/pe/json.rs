//! An image as JSON: the numbers as numbers, and what they are called beside them.

use kiln_modules::pe::Section;
use serde_json::{Value, json};

use super::Shown;

pub(super) fn describe(shown: &Shown<'_>) -> Value {
    let image = &shown.image;
    let (coff, optional) = (&image.coff, &image.optional);
    let version = |(major, minor): (u16, u16)| format!("{major}.{minor}");
    let directories: Vec<Value> = optional
        .named_directories()
        .map(|(name, found)| json!({"name": name, "address": found.virtual_address, "size": found.size}))
        .collect();
    let certificates: Vec<Value> = image
        .certificates
        .iter()
        .map(|found| json!({"offset": found.offset, "size": found.size, "revision": found.revision, "type": found.kind}))
        .collect();
    let sections =
        image.sections.iter().zip(&shown.texts).map(|(found, text)| section(found, text.as_deref()));
    let overlaps = image.overlaps().into_iter().map(|(first, second)| json!([first.name, second.name]));
    json!({
        "file": shown.path.to_string_lossy(),
        "format": optional.format.name(),
        "uki": image.is_uki(),
        "machine": {"number": coff.machine, "name": coff.machine_name()},
        "timestamp": coff.time_date_stamp,
        "characteristics": {
            "number": coff.characteristics,
            "names": coff.characteristic_names().collect::<Vec<_>>(),
        },
        "entry_point": optional.address_of_entry_point,
        "image_base": optional.image_base,
        "section_alignment": optional.section_alignment,
        "file_alignment": optional.file_alignment,
        "linker_version": version((optional.linker_version.0.into(), optional.linker_version.1.into())),
        "operating_system_version": version(optional.operating_system_version),
        "image_version": version(optional.image_version),
        "subsystem_version": version(optional.subsystem_version),
        "code_size": optional.size_of_code,
        "data_size": optional.size_of_initialized_data,
        "zeros_size": optional.size_of_uninitialized_data,
        "code_base": optional.base_of_code,
        "image_size": optional.size_of_image,
        "headers_size": optional.size_of_headers,
        "checksum": optional.checksum,
        "subsystem": {"number": optional.subsystem, "name": optional.subsystem_name()},
        "dll_characteristics": {
            "number": optional.dll_characteristics,
            "names": optional.dll_characteristic_names().collect::<Vec<_>>(),
        },
        "stack": {"reserve": optional.stack.0, "commit": optional.stack.1},
        "heap": {"reserve": optional.heap.0, "commit": optional.heap.1},
        "directories": directories,
        "sections": sections.collect::<Vec<_>>(),
        "certificates": certificates,
        "overlaps": overlaps.collect::<Vec<_>>(),
        "next_address": image.next_address(),
    })
}

fn section(section: &Section, text: Option<&str>) -> Value {
    let content = section.content();
    let mut described = json!({
        "name": section.name,
        "address": section.virtual_address,
        "size": section.virtual_size,
        "offset": section.pointer_to_raw_data,
        "file_size": section.size_of_raw_data,
        "content": {"offset": content.start, "size": content.end - content.start},
        "flags": {"number": section.characteristics, "names": section.flag_names().collect::<Vec<_>>()},
    });
    if let (Some(text), Some(members)) = (text, described.as_object_mut()) {
        members.insert("text".to_owned(), text.into());
    }
    described
}
