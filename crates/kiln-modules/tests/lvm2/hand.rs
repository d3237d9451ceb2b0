//! What is on the disk is read, and what is changed is all that changes.

use std::io::Cursor;

use kiln_modules::lvm2::{Area, Extent, PhysicalVolume};
use kiln_testkit::lvm2::{AREA, ID, MetadataArea, SIZE, TEXT, disk, usual};

fn read(disk: &[u8]) -> PhysicalVolume {
    PhysicalVolume::read(&mut Cursor::new(disk)).expect("a physical volume")
}

fn text(volume: &PhysicalVolume) -> &str {
    std::str::from_utf8(volume.metadata().text()).expect("UTF-8")
}

/// The pages that differ, as offsets in units of 512 bytes.
fn changed(one: &[u8], other: &[u8]) -> Vec<usize> {
    assert_eq!(one.len(), other.len());
    one.chunks(512)
        .zip(other.chunks(512))
        .enumerate()
        .filter(|(_, (one, other))| one != other)
        .map(|(n, _)| n)
        .collect()
}

#[test]
fn everything_is_read() {
    let volume = read(&disk(&[usual(TEXT)]));
    assert_eq!((volume.id().as_str(), volume.size()), (ID, SIZE as u64));
    assert_eq!(volume.data_areas(), [Area { offset: 1 << 20, size: 0 }]);
    assert_eq!(volume.metadata_areas(), [Area { offset: 4096, size: (1 << 20) - 4096 }]);
    let metadata = volume.metadata();
    assert_eq!(text(&volume), TEXT);
    assert_eq!((metadata.name(), metadata.sequence_number()), ("group", 3));
    assert_eq!(metadata.id().as_deref(), Some("GGGGGG-0000-1111-2222-3333-4444-555555"));
    assert_eq!(metadata.volumes(), ["root", "swap"]);
    assert_eq!(metadata.value("description").as_deref(), Some("Write from lvcreate -an \"group\"."));
    assert_eq!(metadata.value("creation_host").as_deref(), Some("builder"));
    assert_eq!(metadata.value("creation_time").as_deref(), Some("1700000000"));
    assert_eq!(metadata.value("group"), None);
}

fn linear(start: u64, length: u64, offset: u64) -> Extent {
    Extent { start, length, stripes: vec![offset], stripe_size: 0 }
}

#[test]
fn stripes_are_in_sectors() {
    let striped = TEXT.replacen("stripe_count = 1", "stripe_count = 2\nstripe_size = 128", 1);
    let striped = striped.replacen("\"pv0\", 0", "\"pv0\", 0, \"pv0\", 3", 1);
    let root = read(&disk(&[usual(&striped)])).volume("root").expect("a volume");
    let stripes = vec![2048, 2048 + 3 * 2048];
    let first = Extent { start: 0, length: 4096, stripes, stripe_size: 128 };
    assert_eq!(root.extents, [first, linear(4096, 6144, 2048 + 4 * 2048)]);
    for (from, to, expected) in [
        (
            "stripe_size = 128",
            "stripe_size = 96",
            "2 extents of 2048 sectors cannot be 2 stripes of 96 sectors at a time",
        ),
        (
            "stripe_size = 128",
            "stripe_size = 0",
            "2 extents of 2048 sectors cannot be 2 stripes of 0 sectors at a time",
        ),
        ("stripe_size = 128", "", "a segment's description has no `stripe_size`"),
        ("stripe_count = 2", "stripe_count = 3", "a segment's description has no `stripes`"),
        (
            "stripe_count = 2",
            "stripe_count = 0",
            "2 extents of 2048 sectors cannot be 0 stripes of 0 sectors at a time",
        ),
        ("\"pv0\", 3", "\"pv0\", 7", "1 extents at extent 7 are not on the physical volume, which has 7"),
    ] {
        let error =
            read(&disk(&[usual(&striped.replacen(from, to, 1))])).volume("root").expect_err(to).to_string();
        assert_eq!(error, format!("the volume `root`: {expected}"));
    }
}

#[test]
fn extents_are_in_sectors() {
    let volume = read(&disk(&[usual(TEXT)]));
    let root = volume.volume("root").expect("a volume");
    assert_eq!(root.id, "GGGGGG00001111222233334444555555RRRRRR00001111222233334444555555");
    assert!(root.writable);
    let extents = [linear(0, 4096, 2048), linear(4096, 6144, 2048 + 4 * 2048)];
    assert_eq!(root.extents, extents);
    let swap = volume.volume("swap").expect("a volume");
    assert_eq!((swap.writable, swap.extents), (false, vec![linear(0, 4096, 6144)]));
}

#[test]
fn what_a_volume_cannot_be_is_said() {
    for (name, from, to, expected) in [
        ("home", "", "", "the volume group `group` has no volume `home`, only `root`, `swap`"),
        (
            "swap",
            "type = \"striped\"",
            "type = \"thin\"",
            "its type is `thin`; only linear and striped volumes can be opened without LVM: make one in its place, and copy what is on it",
        ),
        ("root", "stripe_count = 1", "stripe_count = 2", "a segment's description has no `stripes`"),
        (
            "root",
            "\"pv0\", 4",
            "\"pv1\", 4",
            "it is not on the parent device (`pv0`) alone: parts are on `pv1`; have all of it on one physical volume \
             (`pvmove`, or `lvcreate` with that one only)",
        ),
        (
            "root",
            "\"pv0\", 4",
            "\"pv0\", 5",
            "3 extents at extent 5 are not on the physical volume, which has 7",
        ),
        ("root", "start_extent = 2", "start_extent = 3", "extent 2 is described nowhere"),
        ("root", "start_extent = 2", "start_extent = 1", "extent 2 is described twice"),
        (
            "root",
            "extent_count = 3",
            "extent_count = 0",
            "0 extents at extent 4 are not on the physical volume, which has 7",
        ),
        (
            "root",
            "stripes = [\n\"pv0\", 4",
            "stripes = [\n\"pv0\"",
            "a segment's description has no `stripes`",
        ),
        ("root", "extent_size = 2048", "extent_size = 9223372036854775807", "it is larger than any device"),
        ("root", "extent_size = 2048", "extent_size = 0", "its description has no `extent_size`"),
        (
            "root",
            "id = \"AbC",
            "id = \"Abc",
            "its volume group does not name this physical volume, `AbCdEf-0123-4567-89ab-cdef-ghij-klmnop`",
        ),
        ("swap", "stripes", "strips", "a segment's description has no `stripes`"),
    ] {
        let text = TEXT.replace(from, to);
        let text = if from.is_empty() { TEXT } else { &text };
        let error = read(&disk(&[usual(text)])).volume(name).expect_err(expected).to_string();
        let prefix = if name == "home" { String::new() } else { format!("the volume `{name}`: ") };
        assert_eq!(error, prefix + expected);
    }
}

#[test]
fn only_what_is_changed_changes() {
    let before = disk(&[usual(TEXT)]);
    let mut device = Cursor::new(before.clone());
    let mut volume = PhysicalVolume::read(&mut device).expect("a physical volume");
    volume.metadata_mut().rename("a-longer_name+0.1").expect("a name");
    volume.metadata_mut().set_creation_time(u64::MAX);
    volume.metadata_mut().set_creation_host("a \"b\" \\c");
    volume.metadata_mut().set_description("made here");
    volume.write(&mut device).expect("written");

    let expected = TEXT
        .replacen("group {", "a-longer_name+0.1 {", 1)
        .replace(
            "creation_time = 1700000000\t# Tue Nov 14 22:13:20 2023\n\n",
            &format!("creation_time = {}\t# Tue Nov 14 22:13:20 2023\n\n", u64::MAX),
        )
        .replace("creation_host = \"builder\"\t", "creation_host = \"a \\\"b\\\" \\\\c\"\t")
        .replace("\"Write from lvcreate -an \\\"group\\\".\"", "\"made here\"");
    let after = device.into_inner();
    let again = read(&after);
    assert_eq!(text(&again), expected);
    assert_eq!(text(&volume), expected);
    assert_eq!(again.metadata().name(), "a-longer_name+0.1");
    assert_eq!(again.metadata().value("creation_host").as_deref(), Some("a \"b\" \\c"));
    assert_eq!(again.volume("root").expect("a volume"), read(&before).volume("root").expect("a volume"));
    // The header, and what the new text takes after the old one.
    let sectors = |bytes: usize| bytes.div_ceil(512);
    let first = (AREA + 512) / 512 + sectors(TEXT.len() + 1);
    let new: Vec<_> = [AREA / 512].into_iter().chain(first..first + sectors(expected.len() + 1)).collect();
    assert_eq!(changed(&before, &after), new);
}

#[test]
fn members_that_are_not_there_are_added() {
    let bare = "group {\nseqno = 1\n}\n";
    let mut device = Cursor::new(disk(&[usual(bare)]));
    let mut volume = PhysicalVolume::read(&mut device).expect("a physical volume");
    volume.metadata_mut().set_description("with\0 zero");
    volume.metadata_mut().set_creation_time(0);
    volume.write(&mut device).expect("written");
    let again = read(device.get_ref());
    assert_eq!(text(&again), format!("{bare}\ndescription = \"with zero\"\n\ncreation_time = 0\n"));
    assert_eq!(again.metadata().volumes(), Vec::<String>::new());
}

#[test]
fn comments_can_be_taken_out() {
    let mut device = Cursor::new(disk(&[usual(TEXT)]));
    let mut volume = PhysicalVolume::read(&mut device).expect("a physical volume");
    volume.metadata_mut().remove_comments();
    volume.write(&mut device).expect("written");
    let again = read(device.get_ref());
    let lines = |text: &str| {
        let plain = |line: &str| line.split('#').next().unwrap_or_default().trim_end().to_owned();
        text.lines().map(plain).collect::<Vec<_>>()
    };
    assert_eq!(text(&again).lines().collect::<Vec<_>>(), lines(TEXT));
}

#[test]
fn names_are_held_to_lvms_rules() {
    let mut volume = read(&disk(&[usual(TEXT)]));
    let longest = "x".repeat(127);
    for name in ["a", "0", "+", "_", ".a", "...", "a-b", "6a1c5b7c-2b3c-4bd2-8f70-6d2c7cbd3b1f", &longest] {
        volume.metadata_mut().rename(name).expect(name);
        assert_eq!(volume.metadata().name(), name);
        assert_eq!(volume.metadata().volumes(), ["root", "swap"]);
    }
    let too_long = "x".repeat(128);
    for name in ["", "-a", ".", "..", "a b", "a/b", "ä", "a\0", "a{", &too_long] {
        let error = volume.metadata_mut().rename(name).expect_err(name).to_string();
        assert!(error.starts_with(&format!("`{name}` is no name for a volume group: ")), "{error}");
        assert_eq!(volume.metadata().name(), longest);
    }
}

/// A ring that is just large enough, renamed often: texts go over its end, and each is found.
#[test]
fn texts_go_round() {
    let small = "a {\nseqno = 1\n}\ncomment = \"".to_owned() + &"x".repeat(700) + "\"\n";
    // Of three sectors, of a part of one more, and with a text that goes over the end from the beginning.
    for (size, offset) in
        [(512 * 5, 512), (512 * 5 + 100, 512), (512 * 5, 512 * 5 - 100), (512 * 7 + 8, 2048)]
    {
        let area = MetadataArea { size, offset, text: &small, ignored: false };
        let mut device = Cursor::new(disk(&[area, usual("")]));
        for round in 0..12 {
            let before = device.get_ref().clone();
            let mut volume = PhysicalVolume::read(&mut device).expect("a physical volume");
            let name = "y".repeat(round + 1);
            volume.metadata_mut().rename(&name).expect("a name");
            volume.write(&mut device).expect("written");
            let after = device.get_ref();
            assert_eq!(read(after).metadata().name(), name, "area of {size}, round {round}");
            // Interrupted before the header, the old text is still there, whole.
            let mut interrupted = after.clone();
            for header in [AREA, AREA + size] {
                interrupted[header..header + 512].copy_from_slice(&before[header..header + 512]);
            }
            let old = read(&before);
            assert_eq!(text(&read(&interrupted)), text(&old), "area of {size}, round {round}");
            assert_eq!(before[..AREA], after[..AREA]);
            let end = AREA + size + usual("").size;
            assert_eq!(before[end..], after[end..], "area of {size}, round {round}");
        }
    }
    let area = MetadataArea { size: 512 * 4, offset: 512, text: &small, ignored: false };
    let mut device = Cursor::new(disk(&[area]));
    let before = device.get_ref().clone();
    let mut volume = PhysicalVolume::read(&mut device).expect("a physical volume");
    volume.metadata_mut().rename("b").expect("a name");
    let error = volume.write(&mut device).expect_err("no room").to_string();
    let size = small.len() + 1;
    let expected = format!(
        "the new metadata has {size} bytes, but the area at offset 0x1000 has room for 512 beside the old"
    );
    assert_eq!(error, expected);
    assert_eq!(before, *device.get_ref());
}

#[test]
fn all_areas_are_written_and_the_newest_counts() {
    let older = TEXT.replace("seqno = 3", "seqno = 2").replace("group {", "old {");
    let ignored = MetadataArea { size: 8192, offset: 512, text: "ignored {\nseqno = 9\n}\n", ignored: true };
    let area = |text| MetadataArea { size: 16384, offset: 512, text, ignored: false };
    let mut device = Cursor::new(disk(&[area(older.as_str()), ignored, area(TEXT), area("")]));
    let before = device.get_ref().clone();
    let mut volume = PhysicalVolume::read(&mut device).expect("a physical volume");
    assert_eq!(volume.metadata().name(), "group");
    volume.metadata_mut().rename("new").expect("a name");
    volume.write(&mut device).expect("written");
    let after = device.into_inner();
    let (second, third, fourth) = (AREA + 16384, AREA + 16384 + 8192, AREA + 2 * 16384 + 8192);
    assert_eq!(before[second..third], after[second..third], "the ignored area");
    let count = |part: &[u8]| part.windows(5).filter(|bytes| bytes == b"new {").count();
    for start in [AREA, third, fourth] {
        assert_eq!(count(&after[start..start + 16384]), 1, "area at {start:#x}");
    }
}
