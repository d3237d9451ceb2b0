//! Metadata areas: a header and a ring for texts.

use std::io::{Read, Seek, SeekFrom, Write};

use super::checksum::checksum;
use super::label::SECTOR;
use super::reader::{Reader, u32_at, u64_at};
use super::{Area, Lvm2Error};

/// The ring begins after the header, which takes one sector.
const HEADER_SIZE: u64 = SECTOR as u64;
const MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
const VERSION: u32 = 1;
/// Where the header says where the text is: offset, size, checksum, flags. A second such place is for a text that
/// is being written.
const LOCATION: usize = 40;
const LOCATION_SIZE: usize = 24;
/// The flag of areas that LVM was told to leave alone.
const IGNORED: u32 = 1;
/// The longest text that is read. LVM's own areas have 1 MiB unless more is asked for.
const LONGEST_TEXT: u64 = 16 << 20;

/// A metadata area.
#[derive(Clone, Debug)]
pub(super) struct MetadataArea {
    /// Where it is, and its size with the header.
    place: Area,
    header: [u8; SECTOR],
}

/// Where a text is in the area.
#[derive(Clone, Copy)]
struct Location {
    /// From the start of the area.
    offset: u64,
    size: u64,
    checksum: u32,
}

impl MetadataArea {
    pub(super) fn read<R: Read + Seek>(reader: &mut Reader<'_, R>, place: Area) -> Result<Self, Lvm2Error> {
        let start = place.offset;
        let bytes = reader.part("the header of the metadata area", start, SECTOR)?;
        let mut header = [0; SECTOR];
        header.copy_from_slice(&bytes);
        let (found, expected) = (checksum(&header[4..]), u32_at(&header, 0));
        if found != expected {
            let what = "the header of the metadata area".to_owned();
            return Err(Lvm2Error::Checksum { what, offset: start, found, expected });
        }
        let wrong = |what: &str, offset: u64, found: String, expected: String| {
            Err(Lvm2Error::Wrong { what: what.to_owned(), offset: start + offset, found, expected })
        };
        if header[4..20] != *MAGIC {
            let shown = |bytes: &[u8]| format!("`{}`", bytes.escape_ascii());
            return wrong("the magic of the metadata area", 4, shown(&header[4..20]), shown(MAGIC));
        }
        let version = u32_at(&header, 20);
        if version != VERSION {
            return wrong("the version of the metadata area", 20, version.to_string(), VERSION.to_string());
        }
        let own = u64_at(&header, 24);
        if own != start {
            let expected = format!("{start:#x}, where it is");
            return wrong("the place of the metadata area", 24, format!("{own:#x}"), expected);
        }
        let size = u64_at(&header, 32);
        if size <= HEADER_SIZE || size > place.size {
            let expected = format!("more than {HEADER_SIZE}, at most {} as in the label", place.size);
            return wrong("the size of the metadata area", 32, size.to_string(), expected);
        }
        reader.check("the metadata area", start, size)?;
        Ok(Self { place: Area { offset: start, size }, header })
    }

    /// Whether LVM was told to leave the area alone.
    pub(super) fn ignored(&self) -> bool {
        u32_at(&self.header, LOCATION + 20) & IGNORED != 0
    }

    fn location(&self) -> Result<Option<Location>, Lvm2Error> {
        let location = Location {
            offset: u64_at(&self.header, LOCATION),
            size: u64_at(&self.header, LOCATION + 8),
            checksum: u32_at(&self.header, LOCATION + 16),
        };
        if location.offset == 0 {
            return Ok(None);
        }
        let wrong = |what: &str, place: u64, found: u64, expected: String| {
            let offset = self.place.offset + LOCATION as u64 + place;
            Err(Lvm2Error::Wrong { what: what.to_owned(), offset, found: found.to_string(), expected })
        };
        if !(HEADER_SIZE..self.place.size).contains(&location.offset) {
            let expected = format!("{HEADER_SIZE} to {}", self.place.size - 1);
            return wrong("the place of the metadata's text", 0, location.offset, expected);
        }
        let largest = self.ring().min(LONGEST_TEXT);
        if location.size == 0 || location.size > largest {
            return wrong("the size of the metadata's text", 8, location.size, format!("1 to {largest}"));
        }
        Ok(Some(location))
    }

    /// How many bytes of text the area can hold.
    fn ring(&self) -> u64 {
        self.place.size - HEADER_SIZE
    }

    /// The one or two parts of the device that a text takes: offset and size.
    fn parts(&self, offset: u64, size: u64) -> [(u64, u64); 2] {
        let first = size.min(self.place.size - offset);
        [(self.place.offset + offset, first), (self.place.offset + HEADER_SIZE, size - first)]
    }

    /// The text; `None` if there is none.
    pub(super) fn read_text<R: Read + Seek>(
        &self,
        reader: &mut Reader<'_, R>,
    ) -> Result<Option<Vec<u8>>, Lvm2Error> {
        let Some(location) = self.location()? else { return Ok(None) };
        let mut text = Vec::new();
        for (offset, size) in self.parts(location.offset, location.size) {
            // Bounded by `LONGEST_TEXT`.
            text.append(&mut reader.part("the metadata's text", offset, size as usize)?);
        }
        let (found, expected) = (checksum(&text), location.checksum);
        if found != expected {
            let offset = self.place.offset + location.offset;
            let what = "the metadata's text".to_owned();
            return Err(Lvm2Error::Checksum { what, offset, found, expected });
        }
        Ok(Some(text))
    }

    /// Where a text of this size can be put without touching the one that counts, in the ring as it was read.
    fn room(&self, size: u64) -> Result<u64, Lvm2Error> {
        let (used, next) = match self.location()? {
            // LVM begins texts at whole sectors.
            Some(old) => (old.size, (old.offset + old.size).next_multiple_of(HEADER_SIZE)),
            None => (0, HEADER_SIZE),
        };
        let end = self.place.size;
        let padding = (next - self.location()?.map_or(HEADER_SIZE, |old| old.offset)) - used;
        let room = self.ring().saturating_sub(used + padding);
        if size > room {
            return Err(Lvm2Error::TooLarge { size, offset: self.place.offset, room });
        }
        // Past the end, the ring begins anew.
        Ok(if next < end { next } else { HEADER_SIZE + (next - end) })
    }

    /// Writes a text beside the one that counts; what is returned has the header for it.
    pub(super) fn write_text(
        &self,
        device: &mut (impl Write + Seek),
        text: &[u8],
    ) -> Result<Self, Lvm2Error> {
        let size = text.len() as u64;
        let offset = self.room(size)?;
        let mut left = text;
        for (place, size) in self.parts(offset, size) {
            let (part, rest) = left.split_at(size as usize);
            write(device, "the metadata's text", place, part)?;
            left = rest;
        }
        let mut header = self.header;
        // Flags stay. The second place is that of a text that somebody once began to write: it counts no more.
        header[LOCATION..LOCATION + 8].copy_from_slice(&offset.to_le_bytes());
        header[LOCATION + 8..LOCATION + 16].copy_from_slice(&size.to_le_bytes());
        header[LOCATION + 16..LOCATION + 20].copy_from_slice(&checksum(text).to_le_bytes());
        header[LOCATION + LOCATION_SIZE..LOCATION + 2 * LOCATION_SIZE].fill(0);
        let sum = checksum(&header[4..]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
        Ok(Self { place: self.place, header })
    }

    pub(super) fn write_header(&self, device: &mut (impl Write + Seek)) -> Result<(), Lvm2Error> {
        write(device, "the header of the metadata area", self.place.offset, &self.header)
    }
}

fn write(device: &mut (impl Write + Seek), what: &str, offset: u64, bytes: &[u8]) -> Result<(), Lvm2Error> {
    let failed = |source| Lvm2Error::Write { what: what.to_owned(), offset, source };
    device.seek(SeekFrom::Start(offset)).map_err(failed)?;
    device.write_all(bytes).map_err(failed)
}
