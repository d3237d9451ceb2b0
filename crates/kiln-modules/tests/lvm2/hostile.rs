//! Disks that lie: an error that says what and where, never a panic, and no more is read than is there.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use kiln_modules::lvm2::{Lvm2Error, Metadata, PhysicalVolume};
use kiln_testkit::lvm2::{AREA, HEADER, LABEL, MetadataArea, TEXT, disk, put_u32, put_u64, seal, usual};
use proptest::prelude::*;

fn read(disk: &[u8]) -> Result<PhysicalVolume, Lvm2Error> {
    PhysicalVolume::read(&mut Cursor::new(disk))
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(bool, Change, &str); 20] = [
        (
            false,
            |disk| disk.clear(),
            "the device is no physical volume: its first four sectors hold no label of LVM2",
        ),
        (
            false,
            |disk| disk.truncate(600),
            "the device is no physical volume: its first four sectors hold no label of LVM2",
        ),
        (
            false,
            |disk| disk[LABEL] = b'l',
            "the device is no physical volume: its first four sectors hold no label of LVM2",
        ),
        (
            true,
            |disk| put_u64(disk, LABEL + 8, 2),
            "the device is no physical volume: its first four sectors hold no label of LVM2",
        ),
        (false, |disk| disk[LABEL + 511] = 1, "the label at offset 0x200 is damaged: its checksum is "),
        (
            true,
            |disk| disk[LABEL + 31] = b'2',
            "the kind of the label at offset 0x218: `LVM2 002`; expected `LVM2 001`",
        ),
        (
            true,
            |disk| put_u32(disk, LABEL + 20, 31),
            "the offset of the PV header at offset 0x214: 31; expected 32 to 464",
        ),
        (
            true,
            |disk| put_u32(disk, LABEL + 20, u32::MAX),
            "the offset of the PV header at offset 0x214: 4294967295; expected 32 to 464",
        ),
        (
            true,
            |disk| disk[HEADER + 40..LABEL + 512].fill(1),
            "the PV header at offset 0x220: a list of areas without an end; expected one of zeros",
        ),
        (
            true,
            |disk| put_u64(disk, HEADER + 72, 0),
            "the physical volume holds no metadata: it is on another one of the volume group",
        ),
        (
            true,
            |disk| put_u64(disk, HEADER + 72, u64::MAX),
            "the header of the metadata area: 512 bytes at offset 0xffffffffffffffff are not on the device, which ends at 0x800000",
        ),
        (
            false,
            |disk| disk[AREA + 511] = 1,
            "the header of the metadata area at offset 0x1000 is damaged: its checksum is ",
        ),
        (
            true,
            |disk| disk[AREA + 4] = b'x',
            "the magic of the metadata area at offset 0x1004: `xLVM2 x[5A%r0N*>`; expected ` LVM2 x[5A%r0N*>`",
        ),
        (
            true,
            |disk| put_u32(disk, AREA + 20, 2),
            "the version of the metadata area at offset 0x1014: 2; expected 1",
        ),
        (
            true,
            |disk| put_u64(disk, AREA + 24, 8192),
            "the place of the metadata area at offset 0x1018: 0x2000; expected 0x1000, where it is",
        ),
        (
            true,
            |disk| put_u64(disk, AREA + 32, u64::MAX),
            "the size of the metadata area at offset 0x1020: 18446744073709551615; expected more than 512, at most 1044480 as in the label",
        ),
        (
            true,
            |disk| put_u64(disk, AREA + 40, 511),
            "the place of the metadata's text at offset 0x1028: 511; expected 512 to 1044479",
        ),
        (
            true,
            |disk| put_u64(disk, AREA + 48, 1_043_969),
            "the size of the metadata's text at offset 0x1030: 1043969; expected 1 to 1043968",
        ),
        (
            false,
            |disk| disk[AREA + 512] = b'x',
            "the metadata's text at offset 0x1200 is damaged: its checksum is ",
        ),
        (true, |disk| put_u64(disk, AREA + 40, 0), "the physical volume belongs to no volume group"),
    ];
    for (sealed, change, expected) in cases {
        let mut disk = disk(&[usual(TEXT)]);
        change(&mut disk);
        if sealed {
            seal(&mut disk);
        }
        let error = read(&disk).expect_err(expected).to_string();
        if expected.ends_with(' ') {
            assert!(error.starts_with(expected), "{error}");
        } else {
            assert_eq!(error, expected);
        }
    }
    let ignored = MetadataArea { ignored: true, ..usual(TEXT) };
    assert!(matches!(read(&disk(&[ignored])), Err(Lvm2Error::NoMetadata)));
}

#[test]
fn texts_that_describe_no_group_are_refused() {
    for (text, expected) in [
        ("", "the metadata's text, byte 0: the end; expected one section, that of the volume group"),
        ("a = 1", "the metadata's text, byte 5: the end; expected one section, that of the volume group"),
        (
            "a { } b { }",
            "the metadata's text, byte 6: a second section; expected one section, that of the volume group",
        ),
        ("a { ", "the metadata's text, byte 4: the end; expected a name or `}`"),
        ("- { }", "`-` is no name for a volume group: "),
    ] {
        let error = Metadata::parse(text.as_bytes()).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    // What is after the zero does not count.
    assert_eq!(Metadata::parse(b"a { }\0}").expect("a group").text(), b"a { }");
}

/// Zero beyond its bytes, and knows how much was read of it.
struct Sparse<'a> {
    bytes: &'a [u8],
    size: u64,
    place: u64,
    read: u64,
}

impl Read for Sparse<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for (index, byte) in buffer.iter_mut().enumerate() {
            *byte = self.bytes.get(self.place as usize + index).copied().unwrap_or(0);
        }
        self.place += buffer.len() as u64;
        self.read += buffer.len() as u64;
        Ok(buffer.len())
    }
}

impl Seek for Sparse<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.place = match to {
            SeekFrom::Start(place) => place,
            SeekFrom::End(0) => self.size,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(self.place)
    }
}

/// An area of an exbibyte, and a text that is as large as it: no more than headers is read.
#[test]
fn nothing_is_allocated_for_what_is_too_large() {
    let mut bytes = disk(&[usual(TEXT)]);
    put_u64(&mut bytes, HEADER + 80, 1 << 60);
    put_u64(&mut bytes, AREA + 32, 1 << 60);
    put_u64(&mut bytes, AREA + 48, 1 << 59);
    seal(&mut bytes);
    // Its area is not on the disk as far as `seal` can see.
    let sum = kiln_testkit::lvm2::checksum(&bytes[AREA + 4..AREA + 512]);
    put_u32(&mut bytes, AREA, sum);
    let mut sparse = Sparse { bytes: &bytes, size: 1 << 61, place: 0, read: 0 };
    let error = PhysicalVolume::read(&mut sparse).expect_err("too large").to_string();
    let expected =
        "the size of the metadata's text at offset 0x1030: 576460752303423488; expected 1 to 16777216";
    assert_eq!(error, expected);
    assert_eq!(sparse.read, 3 * 512);
}

/// As deep, as long and as full of quotation marks as it gets: in time that grows with the size only.
#[test]
fn large_texts_take_little_time() {
    let started = std::time::Instant::now();
    for part in ["a {", "}", "#\n", "\"", "\\\"", "a=1\n", "a=[", "a{}", "s{a{b{c{}}}}\n", "# #\"'\n"] {
        let text = "g {\n".to_owned() + &part.repeat((1 << 20) / part.len()) + "\n}\n";
        if let Ok(mut metadata) = Metadata::parse(text.as_bytes()) {
            metadata.volumes();
            metadata.sequence_number();
            metadata.remove_comments();
            metadata.rename("other").expect("a name");
            metadata.set_description("x");
        }
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}

/// Whatever a text is: no panic; and if it is one, it can be changed and read again.
fn text_holds(text: &[u8]) -> Result<(), TestCaseError> {
    let Ok(mut metadata) = Metadata::parse(text) else { return Ok(()) };
    prop_assert_eq!(metadata.text(), text.split(|byte| *byte == 0).next().unwrap_or_default());
    let (volumes, number) = (metadata.volumes(), metadata.sequence_number());
    metadata.rename("renamed").expect("a name");
    metadata.set_creation_time(7);
    metadata.set_description("d\"\\");
    let again = Metadata::parse(metadata.text()).expect("still a text");
    prop_assert_eq!(&again, &metadata);
    prop_assert_eq!(again.name(), "renamed");
    prop_assert_eq!((again.volumes(), again.sequence_number()), (volumes.clone(), number));
    metadata.remove_comments();
    let bare = Metadata::parse(metadata.text()).expect("still a text");
    prop_assert_eq!((bare.volumes(), bare.sequence_number()), (volumes, number));
    Ok(())
}

/// A change of a disk: bits of a byte, or a number.
fn changes(size: usize) -> impl Strategy<Value = Vec<(usize, Option<u64>, u8)>> {
    let number = prop_oneof![
        Just(0_u64),
        Just(1),
        Just(511),
        Just(512),
        Just(u64::MAX),
        Just(i64::MAX as u64),
        0..0x10_0000_u64,
        any::<u64>()
    ];
    prop::collection::vec((0..size, prop::option::of(number), 1..=u8::MAX), 1..5)
}

fn change(bytes: &mut [u8], changes: &[(usize, Option<u64>, u8)]) {
    for (place, number, bits) in changes {
        match number {
            Some(number) if place + 8 <= bytes.len() => put_u64(bytes, *place, *number),
            _ => bytes[*place] ^= bits,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Headers, with checksums that are right.
    #[test]
    fn changed_headers_are_read_or_refused(label in changes(140), area in changes(96), sealed in any::<bool>()) {
        let mut disk = disk(&[usual(TEXT)]);
        change(&mut disk[LABEL..], &label);
        change(&mut disk[AREA..], &area);
        if sealed {
            seal(&mut disk);
        }
        let size = disk.len();
        let mut device = Cursor::new(disk);
        if let Ok(mut volume) = PhysicalVolume::read(&mut device) {
            let _ = volume.volume("root");
            volume.metadata_mut().rename("renamed").expect("a name");
            match volume.write(&mut device) {
                Ok(()) => {
                    prop_assert_eq!(device.get_ref().len(), size, "written beyond the end");
                    let again = PhysicalVolume::read(&mut device).expect("as it was written");
                    prop_assert_eq!(again.metadata().name(), "renamed");
                }
                Err(error) => prop_assert!(matches!(error, Lvm2Error::TooLarge { .. }), "{}", error),
            }
        }
    }

    #[test]
    fn changed_texts_are_read_or_refused(changes in changes(TEXT.len())) {
        let mut text = TEXT.as_bytes().to_vec();
        change(&mut text, &changes);
        text_holds(&text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        if let Ok(volume) = read(&disk(&[usual(&text)])) {
            for name in volume.metadata().volumes() {
                if let Ok(volume) = volume.volume(&name) {
                    let mut next = 0;
                    for extent in volume.extents {
                        prop_assert_eq!(extent.start, next);
                        next += extent.length;
                    }
                }
            }
        }
    }

    #[test]
    fn texts_of_all_kinds_are_read_or_refused(text in r#"[a-c]{1,2} \{( ?(\{|\}|\[|\]|=|,|#|"|'|\\|\n|a|b1|[0-9]|segment1|seqno)){0,30}\n?\}"#) {
        text_holds(text.as_bytes())?;
    }
}
