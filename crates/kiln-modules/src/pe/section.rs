//! Sections: names, places in memory and in the file, flags, content.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use super::reader::{Fields, Reader};
use super::{CoffHeader, PeError, names};

/// Size of an entry of the section table.
pub(super) const SECTION_SIZE: usize = 40;
/// Size of an entry of the symbol table, which the string table follows.
const SYMBOL_SIZE: u64 = 18;
/// Names in the string table are read up to here: linkers write far shorter ones.
const LONGEST_NAME: usize = 256;
/// The flag of sections that are zero.
const ZEROS: u32 = 0x80;

/// A section.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Section {
    /// The name, from the string table if it is longer than 8 bytes. What is not printable ASCII is escaped
    /// as in `\xff`, and so are quotes and backslashes.
    pub name: String,
    /// The size in memory.
    pub virtual_size: u32,
    /// The address, relative to the image base.
    pub virtual_address: u32,
    /// The size in the file, mostly rounded up to the file alignment.
    pub size_of_raw_data: u32,
    /// The offset in the file; 0 if there is nothing in the file.
    pub pointer_to_raw_data: u32,
    /// Flags; see [`flag_names`](Self::flag_names).
    pub characteristics: u32,
}

impl Section {
    /// Reads an entry of the section table; `number` counts from 1.
    pub(super) fn read<R: Read + Seek>(
        reader: &mut Reader<'_, R>,
        coff: &CoffHeader,
        entry: &[u8],
        (number, offset): (usize, u64),
    ) -> Result<Self, PeError> {
        let mut fields = Fields(entry);
        let name: [u8; 8] = fields.array();
        let section = Self {
            name: read_name(reader, coff, &name, (number, offset))?,
            virtual_size: fields.u32(),
            virtual_address: fields.u32(),
            size_of_raw_data: fields.u32(),
            pointer_to_raw_data: fields.u32(),
            characteristics: {
                // Relocations and line numbers, which images have not.
                fields.array::<12>();
                fields.u32()
            },
        };
        let raw = section.raw();
        let what = || {
            format!("the content of section {number} (`{}`, described at offset {offset:#x})", section.name)
        };
        reader.check(what, raw.start, raw.end - raw.start)?;
        Ok(section)
    }

    /// The names of the flags that are set.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        names::bits(self.characteristics, names::SECTION_FLAGS)
    }

    /// The size that the section takes in memory: of those that say 0, what the file has.
    pub fn memory_size(&self) -> u32 {
        if self.virtual_size == 0 { self.size_of_raw_data } else { self.virtual_size }
    }

    /// The first address after the section, relative to the image base.
    pub fn end(&self) -> u64 {
        u64::from(self.virtual_address) + u64::from(self.memory_size())
    }

    /// Where the section is in the file, with padding.
    fn raw(&self) -> Range<u64> {
        if self.pointer_to_raw_data == 0 {
            return 0..0;
        }
        let start = u64::from(self.pointer_to_raw_data);
        start..start + u64::from(self.size_of_raw_data)
    }

    /// Where the content is in the file, without the padding up to the file alignment. It lies in the file that was
    /// read. What the size in memory has beyond it is zero.
    pub fn content(&self) -> Range<u64> {
        let raw = self.raw();
        let size = (raw.end - raw.start).min(self.memory_size().into());
        raw.start..raw.start + size
    }

    /// The content in the bytes of the whole file; nothing if it is not in them.
    pub fn bytes<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        let Range { start, end } = self.content();
        file.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    /// Whether the section is zero in memory and has no content.
    pub fn is_zeros(&self) -> bool {
        self.characteristics & ZEROS != 0 && self.content().is_empty()
    }

    /// Copies the content; returns its size. Fails if the file has become shorter.
    pub fn copy(&self, file: &mut (impl Read + Seek), to: &mut impl Write) -> io::Result<u64> {
        let Range { start, end } = self.content();
        file.seek(SeekFrom::Start(start))?;
        let copied = io::copy(&mut file.take(end - start), to)?;
        if copied < end - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(copied)
    }

    /// The content if it is text of at most `limit` bytes: UTF-8, without what ends it.
    pub fn text(&self, file: &mut (impl Read + Seek), limit: u64) -> io::Result<Option<String>> {
        let Range { start, end } = self.content();
        if end - start > limit {
            return Ok(None);
        }
        let mut content = Vec::new();
        self.copy(file, &mut content)?;
        while content.pop_if(|byte| matches!(byte, b'\0' | b'\n')).is_some() {}
        Ok(String::from_utf8(content).ok())
    }
}

/// The name of a section: up to 8 bytes, or a slash and the decimal offset in the string table.
fn read_name<R: Read + Seek>(
    reader: &mut Reader<'_, R>,
    coff: &CoffHeader,
    name: &[u8; 8],
    (number, offset): (usize, u64),
) -> Result<String, PeError> {
    let short = until_zero(name);
    let place = short.strip_prefix(b"/").filter(|digits| !digits.is_empty());
    let place = place.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u32>().ok());
    // Without symbols, as after stripping, there is no string table: the name is all that is left of it.
    let (Some(place), true) = (place, coff.pointer_to_symbol_table != 0) else {
        return Ok(short.escape_ascii().to_string());
    };
    let symbols = SYMBOL_SIZE * u64::from(coff.number_of_symbols);
    let start = u64::from(coff.pointer_to_symbol_table) + symbols + u64::from(place);
    let what = format!("the name of section {number} (described at offset {offset:#x})");
    let left = reader.size.saturating_sub(start);
    let size = usize::try_from(left).unwrap_or(LONGEST_NAME).clamp(1, LONGEST_NAME);
    let bytes = reader.part(&what, start, size)?;
    let long = until_zero(&bytes);
    if long.len() == bytes.len() {
        let expected = format!("a name of less than {LONGEST_NAME} bytes that ends with a zero");
        return Err(PeError::Wrong { what, offset: start, found: "longer or cut off".to_owned(), expected });
    }
    Ok(long.escape_ascii().to_string())
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}
