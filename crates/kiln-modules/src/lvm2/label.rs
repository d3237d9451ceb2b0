//! The label, which says that a device is a physical volume, and where its areas are.

use std::io::{Read, Seek};

use super::checksum::checksum;
use super::reader::{Reader, u32_at, u64_at};
use super::{Area, Lvm2Error};

/// LVM counts in sectors of this size, whatever the device's are.
pub(super) const SECTOR: usize = 512;
/// The label is in one of the first sectors.
const SECTORS: usize = 4;
const MAGIC: &[u8] = b"LABELONE";
const KIND: &[u8] = b"LVM2 001";
const KIND_PLACE: usize = 24;
/// What the label's checksum is of begins after the checksum.
const SUMMED: usize = 20;
const LABEL_SIZE: usize = 32;
const ID_SIZE: usize = 32;
const AREA_SIZE: usize = 16;

/// What the label and the PV header say.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) id: [u8; ID_SIZE],
    pub(super) size: u64,
    pub(super) data_areas: Vec<Area>,
    pub(super) metadata_areas: Vec<Area>,
}

impl Label {
    pub(super) fn read<R: Read + Seek>(reader: &mut Reader<'_, R>) -> Result<Self, Lvm2Error> {
        let mut number = 0;
        let sector = loop {
            if number == SECTORS {
                return Err(Lvm2Error::NoLabel);
            }
            let found = match reader.part("the label", (number * SECTOR) as u64, SECTOR) {
                // A device that is so small has none.
                Err(Lvm2Error::Ends { .. }) => return Err(Lvm2Error::NoLabel),
                found => found?,
            };
            // The number says that this is a label, and not a copy of one at another place, as in a disk image
            // whose first partition is a physical volume and begins early.
            if found.starts_with(MAGIC) && u64_at(&found, MAGIC.len()) == number as u64 {
                break found;
            }
            number += 1;
        };
        let start = (number * SECTOR) as u64;
        let (found, expected) = (checksum(&sector[SUMMED..]), u32_at(&sector, 16));
        if found != expected {
            let what = "the label".to_owned();
            return Err(Lvm2Error::Checksum { what, offset: start, found, expected });
        }
        let kind = &sector[KIND_PLACE..LABEL_SIZE];
        if kind != KIND {
            return Err(Lvm2Error::Wrong {
                what: "the kind of the label".to_owned(),
                offset: start + KIND_PLACE as u64,
                found: format!("`{}`", kind.escape_ascii()),
                expected: format!("`{}`", KIND.escape_ascii()),
            });
        }
        let header = u32_at(&sector, SUMMED) as usize;
        let wrong = |what: &str, offset: u64, found: String, expected: &str| Lvm2Error::Wrong {
            what: what.to_owned(),
            offset,
            found,
            expected: expected.to_owned(),
        };
        let rest = sector.get(header..).filter(|_| header >= LABEL_SIZE).unwrap_or_default();
        let Some((id, rest)) = rest.split_first_chunk::<ID_SIZE>() else {
            let place = start + SUMMED as u64;
            return Err(wrong("the offset of the PV header", place, header.to_string(), "32 to 464"));
        };
        let mut place = 8;
        let mut areas = || {
            let mut areas = Vec::new();
            while place + AREA_SIZE <= rest.len() {
                let area = Area { offset: u64_at(rest, place), size: u64_at(rest, place + 8) };
                place += AREA_SIZE;
                if area.offset == 0 {
                    return Some(areas);
                }
                areas.push(area);
            }
            None
        };
        let (Some(data_areas), Some(metadata_areas)) = (areas(), areas()) else {
            let place = start + header as u64;
            return Err(wrong(
                "the PV header",
                place,
                "a list of areas without an end".to_owned(),
                "one of zeros",
            ));
        };
        Ok(Self { id: *id, size: u64_at(rest, 0), data_areas, metadata_areas })
    }
}

/// An id as LVM shows it.
pub(super) fn shown(id: &[u8; ID_SIZE]) -> String {
    let mut shown = String::new();
    // Six characters, five times four, six.
    for (index, byte) in id.iter().enumerate() {
        if (6..=26).contains(&index) && (index - 6) % 4 == 0 {
            shown.push('-');
        }
        shown.extend(byte.escape_ascii().map(char::from));
    }
    shown
}
