//! The COFF header and the optional header, which is not optional in images.

use std::io::{Read, Seek};

use super::reader::{Fields, Reader};
use super::{PeError, names};

/// Size of the COFF header, without the signature before it.
pub(super) const COFF_SIZE: usize = 20;
/// Size of an entry of the data directories.
const DIRECTORY_SIZE: usize = 8;

/// The COFF header: what the file is for, and how large the tables after it are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoffHeader {
    /// The machine that the code is for; see [`machine_name`](Self::machine_name).
    pub machine: u16,
    /// The number of sections.
    pub number_of_sections: u16,
    /// When the file was made, in seconds since 1970; reproducible builds put a digest or zero here.
    pub time_date_stamp: u32,
    /// Offset of the symbol table in the file; 0 if there is none.
    pub pointer_to_symbol_table: u32,
    /// The number of entries of the symbol table. The string table follows it.
    pub number_of_symbols: u32,
    /// The size of the optional header.
    pub size_of_optional_header: u16,
    /// Flags; see [`characteristic_names`](Self::characteristic_names).
    pub characteristics: u16,
}

impl CoffHeader {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            machine: fields.u16(),
            number_of_sections: fields.u16(),
            time_date_stamp: fields.u32(),
            pointer_to_symbol_table: fields.u32(),
            number_of_symbols: fields.u32(),
            size_of_optional_header: fields.u16(),
            characteristics: fields.u16(),
        }
    }

    /// The name of the machine, if it has one: `x86-64`, `aarch64`.
    pub fn machine_name(&self) -> Option<&'static str> {
        names::machine(self.machine)
    }

    /// The names of the flags that are set.
    pub fn characteristic_names(&self) -> impl Iterator<Item = &'static str> {
        names::bits(self.characteristics.into(), names::CHARACTERISTICS)
    }
}

/// The two forms of the optional header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Addresses of 32 bits.
    Pe32,
    /// Addresses of 64 bits.
    Pe32Plus,
}

impl Format {
    fn of_magic(magic: u16) -> Option<Self> {
        match magic {
            0x10b => Some(Self::Pe32),
            0x20b => Some(Self::Pe32Plus),
            _ => None,
        }
    }

    /// The name of the format: `PE32` or `PE32+`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pe32 => "PE32",
            Self::Pe32Plus => "PE32+",
        }
    }

    /// The size of the optional header up to the data directories.
    const fn size(self) -> usize {
        match self {
            Self::Pe32 => 96,
            Self::Pe32Plus => 112,
        }
    }
}

/// The optional header: how the image is loaded and started.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OptionalHeader {
    /// Which form it has.
    pub format: Format,
    /// Version of the linker, major and minor.
    pub linker_version: (u8, u8),
    /// Sum of the sizes of all code.
    pub size_of_code: u32,
    /// Sum of the sizes of all initialised data.
    pub size_of_initialized_data: u32,
    /// Sum of the sizes of all data that is zero.
    pub size_of_uninitialized_data: u32,
    /// Where the image is entered, relative to the image base.
    pub address_of_entry_point: u32,
    /// Where code begins, relative to the image base.
    pub base_of_code: u32,
    /// Where data begins, relative to the image base; PE32+ does not say.
    pub base_of_data: Option<u32>,
    /// The address that the image prefers to be loaded to.
    pub image_base: u64,
    /// Alignment of sections in memory: a power of two.
    pub section_alignment: u32,
    /// Alignment of sections in the file: a power of two.
    pub file_alignment: u32,
    /// Version of the operating system that is needed, major and minor.
    pub operating_system_version: (u16, u16),
    /// Version of the image, major and minor.
    pub image_version: (u16, u16),
    /// Version of the subsystem, major and minor.
    pub subsystem_version: (u16, u16),
    /// Size of the image in memory, headers included.
    pub size_of_image: u32,
    /// Size of all headers with the section table, up to the file alignment.
    pub size_of_headers: u32,
    /// The checksum as it stands in the file.
    pub checksum: u32,
    /// What runs the image; see [`subsystem_name`](Self::subsystem_name).
    pub subsystem: u16,
    /// Flags; see [`dll_characteristic_names`](Self::dll_characteristic_names).
    pub dll_characteristics: u16,
    /// Size of the stack, reserved and committed.
    pub stack: (u64, u64),
    /// Size of the heap, reserved and committed.
    pub heap: (u64, u64),
    /// Where the tables are that loaders look for, by number.
    pub directories: Vec<Directory>,
}

impl OptionalHeader {
    /// Reads the header that begins at an offset and is as large as the COFF header says.
    pub(super) fn read<R: Read + Seek>(
        reader: &mut Reader<'_, R>,
        offset: u64,
        size: u16,
    ) -> Result<Self, PeError> {
        let bytes = reader.part("the optional header", offset, size.into())?;
        let mut fields = Fields(&bytes);
        let too_short = |format: Format| PeError::Wrong {
            what: "the size of the optional header".to_owned(),
            // In the COFF header, which ends with it and the flags.
            offset: offset - 4,
            found: size.to_string(),
            expected: format!("at least {} bytes as in {}", format.size(), format.name()),
        };
        if bytes.len() < size_of::<u16>() {
            return Err(too_short(Format::Pe32));
        }
        let magic = fields.u16();
        let wrong = |what: &str, at: u64, found: String, expected: &str| PeError::Wrong {
            what: what.to_owned(),
            offset: offset + at,
            found,
            expected: expected.to_owned(),
        };
        let Some(format) = Format::of_magic(magic) else {
            let expected = "0x10b (PE32) or 0x20b (PE32+)";
            return Err(wrong("the magic of the optional header", 0, format!("{magic:#x}"), expected));
        };
        let wide = format == Format::Pe32Plus;
        if bytes.len() < format.size() {
            return Err(too_short(format));
        }
        let mut header = Self {
            format,
            linker_version: (fields.u8(), fields.u8()),
            size_of_code: fields.u32(),
            size_of_initialized_data: fields.u32(),
            size_of_uninitialized_data: fields.u32(),
            address_of_entry_point: fields.u32(),
            base_of_code: fields.u32(),
            base_of_data: (!wide).then(|| fields.u32()),
            image_base: fields.address(wide),
            section_alignment: fields.u32(),
            file_alignment: fields.u32(),
            operating_system_version: (fields.u16(), fields.u16()),
            image_version: (fields.u16(), fields.u16()),
            subsystem_version: (fields.u16(), fields.u16()),
            size_of_image: {
                // A version that is not used.
                fields.u32();
                fields.u32()
            },
            size_of_headers: fields.u32(),
            checksum: fields.u32(),
            subsystem: fields.u16(),
            dll_characteristics: fields.u16(),
            stack: (fields.address(wide), fields.address(wide)),
            heap: (fields.address(wide), fields.address(wide)),
            directories: Vec::new(),
        };
        for (what, at, alignment) in [
            ("the alignment of sections in memory", 32, header.section_alignment),
            ("the alignment of sections in the file", 36, header.file_alignment),
        ] {
            if !alignment.is_power_of_two() {
                return Err(wrong(what, at, alignment.to_string(), "a power of two"));
            }
        }
        // Flags for loaders that are not used.
        fields.u32();
        let declared = fields.u32();
        let room = fields.0.len() / DIRECTORY_SIZE;
        if u64::from(declared) > room as u64 {
            let at = format.size() as u64 - 4;
            let expected = format!("at most {room}, for which the optional header has room");
            return Err(wrong("the number of data directories", at, declared.to_string(), &expected));
        }
        header.directories =
            (0..declared).map(|_| Directory { virtual_address: fields.u32(), size: fields.u32() }).collect();
        Ok(header)
    }

    /// The name of the subsystem, if it has one: `EFI application`.
    pub fn subsystem_name(&self) -> Option<&'static str> {
        names::subsystem(self.subsystem)
    }

    /// The names of the flags that are set.
    pub fn dll_characteristic_names(&self) -> impl Iterator<Item = &'static str> {
        names::bits(self.dll_characteristics.into(), names::DLL_CHARACTERISTICS)
    }

    /// The data directories that hold something, with what that is.
    pub fn named_directories(&self) -> impl Iterator<Item = (&'static str, Directory)> {
        let named = |(index, directory): (usize, &Directory)| {
            (names::directory(index).unwrap_or("reserved"), *directory)
        };
        self.directories.iter().enumerate().map(named).filter(|(_, directory)| directory.size > 0)
    }
}

/// Where a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Relative to the image base; for certificates, the offset in the file.
    pub virtual_address: u32,
    /// The size of the table; 0 if there is none.
    pub size: u32,
}
