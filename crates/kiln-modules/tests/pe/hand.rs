//! What stands in an image is what is read, in both formats.

use std::io::Cursor;

use kiln_modules::pe::{Format, Image};
use kiln_testkit::pe::{Part, add_strings, image, put_u32};

const PARTS: [Part<'_>; 3] = [
    Part { name: *b".text\0\0\0", address: 0x1000, content: b"code", flags: 0x6000_0020 },
    Part { name: *b".cmdline", address: 0x2000, content: b"root=LABEL=x quiet\n\0", flags: 0x4000_0040 },
    Part { name: *b"/4\0\0\0\0\0\0", address: 0x3000, content: b"levels", flags: 0x4030_0040 },
];

#[test]
fn every_field_is_read() {
    for wide in [false, true] {
        let mut file = image(wide, &PARTS);
        add_strings(&mut file, b".sbatlevel\0");
        let image = Image::parse(&file).expect("an image");
        assert_eq!(
            (image.coff.machine, image.coff.number_of_sections, image.coff.time_date_stamp),
            (0x8664, 3, 0x6543_2100)
        );
        assert_eq!(image.coff.machine_name(), Some("x86-64"));
        assert_eq!(
            image.coff.characteristic_names().collect::<Vec<_>>(),
            ["executable", "large-address-aware"]
        );
        assert_eq!(image.coff.size_of_optional_header, if wide { 240 } else { 224 });
        let optional = &image.optional;
        assert_eq!(optional.format, if wide { Format::Pe32Plus } else { Format::Pe32 });
        assert_eq!(optional.linker_version, (2, 40));
        assert_eq!(
            [
                optional.size_of_code,
                optional.size_of_initialized_data,
                optional.size_of_uninitialized_data,
                optional.address_of_entry_point,
                optional.base_of_code,
            ],
            [0x1111, 0x2222, 0x3333, 0x4444, 0x5555]
        );
        assert_eq!(optional.base_of_data, (!wide).then_some(0x6666));
        assert_eq!(optional.image_base, if wide { 0x1_4000_0000 } else { 0x40_0000 });
        assert_eq!((optional.section_alignment, optional.file_alignment), (0x1000, 0x200));
        assert_eq!(
            [optional.operating_system_version, optional.image_version, optional.subsystem_version],
            [(1, 2), (3, 4), (5, 6)]
        );
        assert_eq!(
            [optional.size_of_image, optional.size_of_headers, optional.checksum],
            [0x9000, 0x400, 0xc0ff_ee00]
        );
        assert_eq!((optional.subsystem, optional.subsystem_name()), (10, Some("EFI application")));
        assert_eq!(optional.dll_characteristics, 0x160);
        assert_eq!(
            optional.dll_characteristic_names().collect::<Vec<_>>(),
            ["high-entropy-addresses", "dynamic-base", "nx-compatible"]
        );
        assert_eq!((optional.stack, optional.heap), ((0x10_0000, 0x1000), (0x20_0000, 0x2000)));
        assert_eq!(optional.directories.len(), 16);
        let named: Vec<_> = optional
            .named_directories()
            .map(|(name, directory)| (name, directory.virtual_address, directory.size))
            .collect();
        assert_eq!(named, [("base relocations", 0x3000, 12)]);

        let names: Vec<_> = image.sections.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(names, [".text", ".cmdline", ".sbatlevel"]);
        for (section, part) in image.sections.iter().zip(&PARTS) {
            assert_eq!(section.virtual_address, part.address);
            assert_eq!(section.virtual_size as usize, part.content.len());
            assert_eq!(section.characteristics, part.flags);
            assert_eq!(section.bytes(&file), Some(part.content), "{}", section.name);
            let mut copied = Vec::new();
            let size = section.copy(&mut Cursor::new(&file), &mut copied).expect("copied");
            assert_eq!((copied.as_slice(), size), (part.content, part.content.len() as u64));
        }
        assert_eq!(image.sections[0].flag_names().collect::<Vec<_>>(), ["code", "execute", "read"]);
        assert!(!image.is_uki() && image.certificates.is_empty() && image.overlaps().is_empty());
        assert_eq!(image.next_address(), 0x4000);
        let text = |limit| image.sections[1].text(&mut Cursor::new(&file), limit).expect("read");
        assert_eq!(text(20).as_deref(), Some("root=LABEL=x quiet"));
        assert_eq!(text(19), None, "larger than the limit");
    }
}

#[test]
fn names_are_shown_without_control_characters() {
    for (name, shown) in [
        (*b"\x1b[31mred", r"\x1b[31mred"),
        (*b"caf\xc3\xa9\0\0\0", r"caf\xc3\xa9"),
        (*b"\0\0\0\0\0\0\0\0", ""),
        (*b"/\0\0\0\0\0\0\0", "/"),
        (*b"/usr\0\0\0\0", "/usr"),
        // Stripped: there is no string table any more.
        (*b"/4\0\0\0\0\0\0", "/4"),
    ] {
        let file = image(true, &[Part { name, address: 0x1000, content: b"", flags: 0 }]);
        assert_eq!(Image::parse(&file).expect("an image").sections[0].name, shown);
    }
}

#[test]
fn the_size_in_memory_bounds_the_content() {
    let entry = 0x80 + 24 + 240;
    // Sizes in memory and in the file, offset: range of the content, size in memory.
    for (memory, raw, offset, content, in_memory) in [
        (4, 0x200, 0x400, 0x400..0x404, 4),
        (0x1000, 0x200, 0x400, 0x400..0x600, 0x1000),
        (0, 0x200, 0x400, 0x400..0x600, 0x200),
        (0x1000, 0, 0, 0..0, 0x1000),
        // Old linkers give zeros a size in the file, at no offset.
        (0x1000, 0x7fff_0000, 0, 0..0, 0x1000),
    ] {
        let mut file = image(true, &PARTS);
        for (at, value) in [(8, memory), (16, raw), (20, offset)] {
            put_u32(&mut file, entry + at, value);
        }
        add_strings(&mut file, b".sbatlevel\0");
        let image = Image::parse(&file).expect("an image");
        assert_eq!(image.sections[0].content(), content);
        assert_eq!(image.sections[0].memory_size(), in_memory);
    }
}

#[test]
fn overlaps_are_found_with_the_section_that_reaches_furthest() {
    let part = |name, address, content| Part { name, address, content, flags: 0 };
    let names = |parts: &[Part<'_>]| {
        let image = Image::parse(&image(true, parts)).expect("an image");
        let pairs = image.overlaps().into_iter().map(|(a, b)| format!("{} {}", a.name, b.name));
        pairs.collect::<Vec<_>>()
    };
    let a = |address| part(*b"a\0\0\0\0\0\0\0", address, &[1; 0x300]);
    let b = |address| part(*b"b\0\0\0\0\0\0\0", address, &[1; 0x10]);
    let c = |address| part(*b"c\0\0\0\0\0\0\0", address, &[1; 0x10]);
    let empty = |address| part(*b"empty\0\0\0", address, b"");
    assert_eq!(names(&[a(0x1000), b(0x1300), c(0x1310)]), [""; 0]);
    assert_eq!(names(&[c(0x12ff), a(0x1000), b(0x1010), empty(0x1100)]), ["a b", "a c"]);
    assert_eq!(names(&[a(0x1000), b(0x12f8), c(0x1304)]), ["a b", "b c"]);
}
