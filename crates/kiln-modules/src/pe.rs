//! PE images: the format of EFI programs, and with it of boot loaders and unified kernel images.
//!
//! ```text
//! 0x00  DOS header: `MZ`; at 0x3c the offset of …
//!       signature `PE\0\0`, COFF header (20 bytes: machine, number of sections, size of …)
//!       optional header: PE32 or PE32+, with data directories (address, size)
//!       section table (40 bytes each: name, address, offset, sizes, flags)
//!       contents of sections, aligned; symbols and strings; certificates
//! ```
//!
//! All numbers are little-endian. An [`Image`] holds the headers only; contents are taken by their
//! [range](Section::content) from bytes or from a file, which may be larger than memory.
//!
//! Files may be hostile. What an image says of the file is held against the file's size before it is read, and the
//! numbers of sections, certificates and bytes of a name have limits: whatever a file says, its headers take some MiB
//! at most. A [`Section::content`] is always within the file that the image was read from. An error tells what is
//! wrong, and at which offset.
//!
//! Not read: imports, relocations, resources; certificates are found but not verified.

mod certificate;
mod header;
mod names;
mod reader;
mod section;

use std::io::{self, Cursor, Read, Seek};

pub use certificate::Certificate;
pub use header::{CoffHeader, Directory, Format, OptionalHeader};
pub use names::{UKI_SECTIONS, UkiSection};
use reader::{Fields, Reader};
pub use section::Section;

/// The size of the DOS header.
const DOS_SIZE: usize = 0x40;
/// Where the DOS header says where the signature is.
const SIGNATURE_POINTER: usize = 0x3c;
const SIGNATURE: &[u8; 4] = b"PE\0\0";
/// Images with more sections are refused; those with device trees for a lot of hardware have hundreds.
const MOST_SECTIONS: u16 = 4096;

/// Why a file is not an image.
#[derive(Debug, thiserror::Error)]
pub enum PeError {
    /// The file cannot be read.
    #[error("cannot read {what} at offset {offset:#x}")]
    Read {
        /// Which part.
        what: String,
        /// Where.
        offset: u64,
        /// What went wrong.
        source: io::Error,
    },
    /// A part lies outside the file.
    #[error("{what}: {size} bytes at offset {offset:#x} are not in the file, which ends at {end:#x}")]
    Ends {
        /// Which part.
        what: String,
        /// Where it begins.
        offset: u64,
        /// Its size.
        size: u64,
        /// The size of the file.
        end: u64,
    },
    /// A value is none that an image can have.
    #[error("{what} at offset {offset:#x}: {found}; expected {expected}")]
    Wrong {
        /// Which value.
        what: String,
        /// Where it is.
        offset: u64,
        /// What is there.
        found: String,
        /// What could be there.
        expected: String,
    },
}

/// The headers of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Image {
    /// The COFF header.
    pub coff: CoffHeader,
    /// The optional header.
    pub optional: OptionalHeader,
    /// All sections, in the order of the table.
    pub sections: Vec<Section>,
    /// The signatures for Secure Boot.
    pub certificates: Vec<Certificate>,
}

impl Image {
    /// Reads the headers of the image that the bytes of a file are.
    pub fn parse(file: &[u8]) -> Result<Self, PeError> {
        Self::read(&mut Cursor::new(file))
    }

    /// Reads the headers of an image, and nothing else of the file.
    pub fn read(file: &mut (impl Read + Seek)) -> Result<Self, PeError> {
        let mut reader = Reader::new(file)?;
        let dos = reader.part("the DOS header", 0, DOS_SIZE)?;
        expect("the magic of the DOS header", 0, &dos[..2], b"MZ")?;
        let start = u64::from(Fields(&dos[SIGNATURE_POINTER..]).u32());
        let bytes = reader.part("the COFF header", start, SIGNATURE.len() + header::COFF_SIZE)?;
        let (signature, bytes) = bytes.split_at(SIGNATURE.len());
        expect("the PE signature", start, signature, SIGNATURE)?;
        let coff = CoffHeader::new(bytes);
        if coff.number_of_sections > MOST_SECTIONS {
            return Err(PeError::Wrong {
                what: "the number of sections".to_owned(),
                // After signature and machine.
                offset: start + 6,
                found: coff.number_of_sections.to_string(),
                expected: format!("at most {MOST_SECTIONS}"),
            });
        }
        let start = start + (SIGNATURE.len() + header::COFF_SIZE) as u64;
        let optional = OptionalHeader::read(&mut reader, start, coff.size_of_optional_header)?;
        let start = start + u64::from(coff.size_of_optional_header);
        let size = usize::from(coff.number_of_sections) * section::SECTION_SIZE;
        let table = reader.part("the section table", start, size)?;
        let mut sections = Vec::with_capacity(coff.number_of_sections.into());
        for (index, entry) in table.chunks(section::SECTION_SIZE).enumerate() {
            let offset = start + (index * section::SECTION_SIZE) as u64;
            sections.push(Section::read(&mut reader, &coff, entry, (index + 1, offset))?);
        }
        let certificates = match optional.directories.get(names::CERTIFICATES) {
            Some(directory) => certificate::read(&mut reader, *directory)?,
            None => Vec::new(),
        };
        Ok(Self { coff, optional, sections, certificates })
    }

    /// The sections of a name. An image with several profiles has several of one name.
    pub fn sections_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Section> {
        self.sections.iter().filter(move |section| section.name == name)
    }

    /// Whether this is a unified kernel image: systemd's stub starts what its section `.linux` holds.
    pub fn is_uki(&self) -> bool {
        self.sections_named(".linux").next().is_some()
    }

    /// The first address after all sections where another one may be put, relative to the image base.
    pub fn next_address(&self) -> u64 {
        let end =
            self.sections.iter().map(Section::end).max().unwrap_or(self.optional.size_of_headers.into());
        // In images that were not aligned in memory, the file's alignment is the larger one.
        let alignment = self.optional.section_alignment.max(self.optional.file_alignment);
        end.next_multiple_of(alignment.into())
    }

    /// Sections that begin in memory before one at a lower address has ended, with that one: such an image does not
    /// load as it should.
    pub fn overlaps(&self) -> Vec<(&Section, &Section)> {
        let mut sorted: Vec<&Section> =
            self.sections.iter().filter(|section| section.memory_size() > 0).collect();
        sorted.sort_by_key(|section| section.virtual_address);
        let mut overlaps = Vec::new();
        let mut furthest: Option<&Section> = None;
        for section in sorted {
            match furthest {
                Some(before) if before.end() > section.virtual_address.into() => {
                    overlaps.push((before, section));
                    if section.end() > before.end() {
                        furthest = Some(section);
                    }
                }
                _ => furthest = Some(section),
            }
        }
        overlaps
    }
}

fn expect(what: &str, offset: u64, found: &[u8], expected: &[u8]) -> Result<(), PeError> {
    if found == expected {
        return Ok(());
    }
    let show = |bytes: &[u8]| format!("`{}`", bytes.escape_ascii());
    Err(PeError::Wrong { what: what.to_owned(), offset, found: show(found), expected: show(expected) })
}
