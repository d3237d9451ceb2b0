//! Files that lie: an error that says what and where, never a panic, and no more is read than headers are large.

use std::time::{Duration, Instant};

use kiln_modules::pe::{Image, PeError};
use kiln_testkit::host;
use kiln_testkit::pe::{OPTIONAL, Part, SIGNATURE, add_strings, image, put_u16, put_u32};
use proptest::prelude::*;

use super::counted::Counted;
use super::real::{NEEDS, files};

/// Where the section table is in an image made here.
const TABLE: usize = OPTIONAL + 240;

fn good() -> Vec<u8> {
    let mut file = image(
        true,
        &[
            Part { name: *b"/4\0\0\0\0\0\0", address: 0x1000, content: b"content", flags: 0x20 },
            Part { name: *b".linux\0\0", address: 0x2000, content: b"kernel", flags: 0x40 },
        ],
    );
    add_strings(&mut file, b".a-long-name\0");
    Image::parse(&file).expect("an image");
    file
}

fn message(file: &[u8]) -> String {
    Image::parse(file).expect_err("not an image").to_string()
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str); 22] = [
        (
            |file| file.clear(),
            "the DOS header: 64 bytes at offset 0x0 are not in the file, which ends at 0x0",
        ),
        (
            |file| file.truncate(63),
            "the DOS header: 64 bytes at offset 0x0 are not in the file, which ends at 0x3f",
        ),
        (|file| file[0] = 0x7f, r"the magic of the DOS header at offset 0x0: `\x7fZ`; expected `MZ`"),
        (
            |file| put_u32(file, 0x3c, u32::MAX),
            "the COFF header: 24 bytes at offset 0xffffffff are not in the file, which ends at 0x811",
        ),
        (
            |file| file[SIGNATURE] = b'N',
            r"the PE signature at offset 0x80: `NE\x00\x00`; expected `PE\x00\x00`",
        ),
        (
            |file| put_u16(file, SIGNATURE + 6, 4097),
            "the number of sections at offset 0x86: 4097; expected at most 4096",
        ),
        (
            |file| put_u16(file, SIGNATURE + 6, 4096),
            "the section table: 163840 bytes at offset 0x188 are not in the file, which ends at 0x811",
        ),
        (
            |file| put_u16(file, SIGNATURE + 20, u16::MAX),
            "the optional header: 65535 bytes at offset 0x98 are not in the file, which ends at 0x811",
        ),
        (
            |file| put_u16(file, SIGNATURE + 20, 1),
            "the size of the optional header at offset 0x94: 1; expected at least 96 bytes as in PE32",
        ),
        (
            // What was said of it would be behind the file's end.
            |file| {
                put_u16(file, SIGNATURE + 20, 0);
                file.truncate(OPTIONAL);
            },
            "the size of the optional header at offset 0x94: 0; expected at least 96 bytes as in PE32",
        ),
        (
            |file| put_u16(file, OPTIONAL, 0x107),
            "the magic of the optional header at offset 0x98: 0x107; expected 0x10b (PE32) or 0x20b (PE32+)",
        ),
        (
            |file| put_u16(file, SIGNATURE + 20, 111),
            "the size of the optional header at offset 0x94: 111; expected at least 112 bytes as in PE32+",
        ),
        (
            |file| put_u32(file, OPTIONAL + 32, 0),
            "the alignment of sections in memory at offset 0xb8: 0; expected a power of two",
        ),
        (
            |file| put_u32(file, OPTIONAL + 36, 513),
            "the alignment of sections in the file at offset 0xbc: 513; expected a power of two",
        ),
        (
            |file| put_u32(file, OPTIONAL + 108, u32::MAX),
            "the number of data directories at offset 0x104: 4294967295; expected at most 16, for which the optional header has room",
        ),
        (
            |file| put_u32(file, TABLE + 16, u32::MAX),
            "the content of section 1 (`.a-long-name`, described at offset 0x188): 4294967295 bytes at offset 0x400 are not in the file, which ends at 0x811",
        ),
        (
            |file| put_u32(file, TABLE + 40 + 20, u32::MAX),
            "the content of section 2 (`.linux`, described at offset 0x1b0): 512 bytes at offset 0xffffffff are not in the file, which ends at 0x811",
        ),
        (
            |file| file[TABLE..TABLE + 8].copy_from_slice(b"/9999999"),
            "the name of section 1 (described at offset 0x188): 1 bytes at offset 0x989e7f are not in the file, which ends at 0x811",
        ),
        (
            |file| file.truncate(0x810),
            "the name of section 1 (described at offset 0x188) at offset 0x804: longer or cut off; expected a name of less than 256 bytes that ends with a zero",
        ),
        (
            |file| put_u32(file, SIGNATURE + 16, u32::MAX),
            "the name of section 1 (described at offset 0x188): 1 bytes at offset 0x12000007f2 are not in the file, which ends at 0x811",
        ),
        (
            |file| {
                put_u32(file, OPTIONAL + 112 + 32, 0x400);
                put_u32(file, OPTIONAL + 112 + 36, 0x8000_0000);
            },
            "the table of certificates: 2147483648 bytes at offset 0x400 are not in the file, which ends at 0x811",
        ),
        (
            |file| {
                put_u32(file, OPTIONAL + 112 + 32, 0x600);
                put_u32(file, OPTIONAL + 112 + 36, 0x10);
                put_u32(file, 0x600, 7);
            },
            "the size of a certificate at offset 0x600: 7; expected 8 to 16 bytes",
        ),
    ];
    for (change, expected) in cases {
        let mut file = good();
        change(&mut file);
        assert_eq!(message(&file), expected);
    }
}

#[test]
fn an_endless_table_of_certificates_ends() {
    let mut file = good();
    put_u32(&mut file, OPTIONAL + 112 + 32, 0x600);
    put_u32(&mut file, OPTIONAL + 112 + 36, 8 * 65);
    file.resize(0x600 + 8 * 65, 0);
    for index in 0..65 {
        put_u32(&mut file, 0x600 + 8 * index, 8);
    }
    // The strings went under.
    put_u32(&mut file, SIGNATURE + 12, 0);
    assert_eq!(
        message(&file),
        "the table of certificates at offset 0x800: longer; expected at most 64 certificates"
    );
    put_u32(&mut file, OPTIONAL + 112 + 36, 8 * 64);
    let image = Image::parse(&file).expect("an image");
    assert_eq!(image.certificates.len(), 64);
    assert_eq!((image.certificates[1].offset, image.certificates[1].size), (0x608, 8));
}

#[test]
fn every_truncation_is_an_error() {
    let file = good();
    for size in 0..file.len() {
        assert!(
            matches!(Image::parse(&file[..size]), Err(PeError::Ends { .. } | PeError::Wrong { .. })),
            "{size} bytes"
        );
    }
}

/// A file of 4 GiB that says that everything is as large as it can be: only the headers are read of it.
#[test]
fn of_huge_files_only_the_headers_are_read() {
    let mut file = good();
    for section in [TABLE, TABLE + 40] {
        for field in [8, 16] {
            put_u32(&mut file, section + field, u32::MAX);
        }
    }
    let mut counted = Counted::new(&file, 1 << 33);
    let image = Image::read(&mut counted).expect("an image");
    assert_eq!(image.sections[1].content(), 0x600..0x1_0000_05ff);
    let headers = 64 + 24 + 240 + 2 * 40 + 256;
    assert_eq!(counted.read, headers);
    assert_eq!(image.sections[1].text(&mut counted, 1 << 20).expect("read"), None);
    assert_eq!(counted.read, headers);

    // As many sections as there may be, all with the longest name.
    put_u16(&mut file, SIGNATURE + 6, 4096);
    let table: Vec<u8> = file[TABLE..TABLE + 40].to_vec();
    file.resize(TABLE + 4096 * 40, 0);
    for index in 0..4096 {
        file[TABLE + index * 40..][..40].copy_from_slice(&table);
    }
    let strings = file.len() as u32;
    put_u32(&mut file, SIGNATURE + 12, strings - 4);
    file[TABLE + 1] = b'4';
    file.extend_from_slice(&[0xff; 255]);
    file.push(0);
    let mut counted = Counted::new(&file, 1 << 33);
    let image = Image::read(&mut counted).expect("an image");
    assert!(image.sections.iter().all(|section| section.name == r"\xff".repeat(255)));
    assert_eq!(counted.read, 64 + 24 + 240 + 4096 * (40 + 256));
    assert_eq!(counted.largest, 4096 * 40);
}

/// Whatever the bytes are: no panic, little is read, and what is found lies in the file.
fn holds(file: &[u8]) -> Result<(), TestCaseError> {
    let size = file.len() as u64;
    let mut counted = Counted::new(file, size);
    let started = Instant::now();
    let read = Image::read(&mut counted);
    prop_assert!(started.elapsed() < Duration::from_secs(2));
    prop_assert!(counted.largest <= 4096 * 40, "{} bytes at once", counted.largest);
    match read {
        Ok(image) => {
            prop_assert!(counted.read <= 64 + 24 + 65536 + image.sections.len() as u64 * 296 + 64 * 8);
            for section in &image.sections {
                prop_assert!(section.content().end <= size);
                prop_assert!(section.name.is_ascii() && !section.name.contains(|c: char| c.is_control()));
                let bytes = section.bytes(file).expect("within the file");
                prop_assert_eq!(bytes.len() as u64, section.content().end - section.content().start);
            }
            for certificate in &image.certificates {
                prop_assert!(certificate.offset + u64::from(certificate.size) <= size);
            }
            prop_assert!(image.next_address() >= image.sections.iter().map(|s| s.end()).max().unwrap_or(0));
            image.overlaps();
        }
        Err(PeError::Ends { offset, size: needed, end, .. }) => {
            prop_assert_eq!(end, size);
            prop_assert!(offset + needed > size);
        }
        Err(PeError::Wrong { offset, .. }) => prop_assert!(offset < size),
        Err(PeError::Read { .. }) => prop_assert!(false, "bytes can be read"),
    }
    Ok(())
}

/// A change of a file.
#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Number(usize, u32),
    Truncate(usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    // Headers are in the first KiB.
    let place = prop_oneof![4 => 0..1024_usize, 1 => any::<usize>()];
    let number = prop_oneof![
        Just(0_u32),
        Just(1),
        Just(0x7fff_ffff),
        Just(0x8000_0000),
        Just(u32::MAX),
        0..0x1_0000_u32,
        any::<u32>()
    ];
    let change = prop_oneof![
        4 => (place.clone(), 1..=u8::MAX).prop_map(|(place, bits)| Change::Flip(place, bits)),
        4 => (place.clone(), number).prop_map(|(place, number)| Change::Number(place, number)),
        1 => place.prop_map(Change::Truncate),
    ];
    prop::collection::vec(change, 1..6)
}

fn changed(file: &mut Vec<u8>, changes: &[Change]) {
    for change in changes {
        let size = file.len().max(1);
        match *change {
            Change::Flip(place, bits) => {
                file.iter_mut().skip(place % size).take(1).for_each(|byte| *byte ^= bits);
            }
            Change::Number(place, number) => {
                let bytes = number.to_le_bytes();
                file.iter_mut().skip(place % size).zip(bytes).for_each(|(byte, new)| *byte = new);
            }
            Change::Truncate(place) => file.truncate(place % size),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_images(changes in changes()) {
        let mut file = good();
        changed(&mut file, &changes);
        holds(&file)?;
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        holds(&bytes)?;
    }
}

#[test]
fn changed_real_images() {
    if !host::provided("changing real images", &NEEDS) {
        return;
    }
    let config = ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() };
    for (path, file) in files() {
        let mut runner = proptest::test_runner::TestRunner::new(config.clone());
        let outcome = runner.run(&changes(), |changes| {
            // What is behind the first 64 KiB is content: it is there, and not copied for each case.
            let mut head = file[..file.len().min(0x1_0000)].to_vec();
            changed(&mut head, &changes);
            holds(&head)?;
            let mut counted = Counted::new(&head, file.len() as u64);
            if let Ok(image) = Image::read(&mut counted) {
                let within = |section: &kiln_modules::pe::Section| section.content().end <= file.len() as u64;
                prop_assert!(image.sections.iter().all(within));
            }
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
