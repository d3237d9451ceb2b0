//! LVM2 physical volumes: what is on the disk, read and written without LVM's tools and without the kernel.
//!
//! ```text
//! one of the first four sectors of 512 bytes: the label
//!   0x00  `LABELONE`, number of the sector, checksum of what follows, offset of …, `LVM2 001`
//!         PV header: id (32 bytes), size; areas for data, areas for metadata: offset and size each, ended by zeros
//! a metadata area
//!   0x000 checksum of the sector, magic, version, its own place and size; where the text is: offset, size, checksum
//!   0x200 a ring for texts: a new text is written after the old one, and then the header is
//! ```
//!
//! All numbers are little-endian. The text describes the volume group that the physical volume belongs to; its form is
//! that of LVM's configuration (see [`Metadata`]). What is changed in it is changed where it stands: everything else,
//! comments included, stays byte for byte.
//!
//! Files may be hostile. What they say of themselves is held against their size and their checksums, and a text has at most
//! 16 MiB; nothing is allocated before it is known to be in the file. An error tells what is wrong, and at which
//! offset. Writing puts the new text where the old one is not and the header last: whenever a write ends, the
//! disk has the one or the other.
//!
//! Limitations: other physical volumes of a group are not looked for. Each has a copy of the text, so a group that
//! spreads over several must be changed on each of them. The sequence number of the text is left alone, so that all
//! copies remain equal.

mod area;
mod checksum;
mod label;
mod metadata;
mod reader;
mod text;
mod volume;

use std::io::{self, Read, Seek, Write};

use area::MetadataArea;
use label::Label;
pub use metadata::{Metadata, is_name};
use reader::Reader;
pub use volume::{Extent, Volume};

/// Why a physical volume cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Lvm2Error {
    /// The device or file cannot be read.
    #[error("cannot read {what} at offset {offset:#x}")]
    Read {
        /// Which part.
        what: String,
        /// Where.
        offset: u64,
        /// What went wrong.
        source: io::Error,
    },
    /// The device or file cannot be written.
    #[error("cannot write {what} at offset {offset:#x}")]
    Write {
        /// Which part.
        what: String,
        /// Where.
        offset: u64,
        /// What went wrong.
        source: io::Error,
    },
    /// A part lies outside the device.
    #[error("{what}: {size} bytes at offset {offset:#x} are not on the device, which ends at {end:#x}")]
    Ends {
        /// Which part.
        what: String,
        /// Where it begins.
        offset: u64,
        /// Its size.
        size: u64,
        /// The size of the device.
        end: u64,
    },
    /// There is no label: the device is no physical volume.
    #[error("the device is no physical volume: its first four sectors hold no label of LVM2")]
    NoLabel,
    /// The physical volume belongs to no volume group.
    #[error("the physical volume belongs to no volume group")]
    NoVolumeGroup,
    /// The physical volume has no metadata: it is on others of the group.
    #[error("the physical volume holds no metadata: it is on another one of the volume group")]
    NoMetadata,
    /// A value is none that a physical volume can have.
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
    /// A checksum is not that of what it is for.
    #[error("{what} at offset {offset:#x} is damaged: its checksum is {found:#010x}, not {expected:#010x}")]
    Checksum {
        /// Which part.
        what: String,
        /// Where it is.
        offset: u64,
        /// The checksum of what is there.
        found: u32,
        /// The checksum that is written there.
        expected: u32,
    },
    /// The text is not in LVM's form.
    #[error("the metadata's text, byte {offset}: {found}; expected {expected}")]
    Text {
        /// Which byte of the text.
        offset: usize,
        /// What is there.
        found: String,
        /// What could be there.
        expected: &'static str,
    },
    /// The new text does not fit beside the old one.
    #[error(
        "the new metadata has {size} bytes, but the area at offset {offset:#x} has room for {room} beside the old"
    )]
    TooLarge {
        /// The size of the new text.
        size: u64,
        /// Where the area begins.
        offset: u64,
        /// How much room there is.
        room: u64,
    },
    /// A volume group cannot have this name.
    #[error(
        "`{name}` is no name for a volume group: letters, digits and `+_.-` are allowed, at most 127 of them, no `-` at the \
         start, and not `.` or `..` alone"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The group has no such volume.
    #[error("the volume group `{group}` has no volume `{name}`, only {}", names(.known))]
    NoVolume {
        /// The name of the group.
        group: String,
        /// The name that was looked for.
        name: String,
        /// The volumes that there are.
        known: Vec<String>,
    },
    /// A volume is not described as it must be, or in a way that is not understood here.
    #[error("the volume `{name}`: {reason}")]
    Volume {
        /// The name of the volume.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn names(known: &[String]) -> String {
    match known {
        [] => "none at all".to_owned(),
        known => known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}

/// A part of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Where it begins.
    pub offset: u64,
    /// Its size; 0 for one that reaches up to the end of the device.
    pub size: u64,
}

/// A physical volume and its copy of the metadata.
#[derive(Clone, Debug)]
pub struct PhysicalVolume {
    label: Label,
    areas: Vec<MetadataArea>,
    metadata: Metadata,
}

impl PhysicalVolume {
    /// Reads a device that is a physical volume of a volume group.
    ///
    /// Of several metadata areas, the text with the highest sequence number counts, as it does for LVM. Areas that LVM
    /// was told to ignore are ignored.
    pub fn read(device: &mut (impl Read + Seek)) -> Result<Self, Lvm2Error> {
        let mut reader = Reader::new(device)?;
        let label = Label::read(&mut reader)?;
        if label.metadata_areas.is_empty() {
            return Err(Lvm2Error::NoMetadata);
        }
        let mut areas = Vec::new();
        let mut newest: Option<(u64, Metadata)> = None;
        for place in &label.metadata_areas {
            let area = MetadataArea::read(&mut reader, *place)?;
            if area.ignored() {
                continue;
            }
            if let Some(text) = area.read_text(&mut reader)? {
                let metadata = Metadata::parse(&text)?;
                let number = metadata.sequence_number();
                if newest.as_ref().is_none_or(|(newest, _)| number > *newest) {
                    newest = Some((number, metadata));
                }
            }
            areas.push(area);
        }
        match newest {
            Some((_, metadata)) => Ok(Self { label, areas, metadata }),
            None if areas.is_empty() => Err(Lvm2Error::NoMetadata),
            None => Err(Lvm2Error::NoVolumeGroup),
        }
    }

    /// The id, as LVM shows it: groups of letters and digits.
    pub fn id(&self) -> String {
        label::shown(&self.label.id)
    }

    /// The size in bytes that the device had when it was made a physical volume.
    pub fn size(&self) -> u64 {
        self.label.size
    }

    /// Where the extents of volumes are.
    pub fn data_areas(&self) -> &[Area] {
        &self.label.data_areas
    }

    /// Where texts are.
    pub fn metadata_areas(&self) -> &[Area] {
        &self.label.metadata_areas
    }

    /// What is said of the volume group.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The same, to be changed and [written](Self::write).
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// A volume of the group, as far as it is on this physical volume: all of it must be.
    pub fn volume(&self, name: &str) -> Result<Volume, Lvm2Error> {
        volume::find(&self.metadata, &self.id(), name)
    }

    /// Writes the metadata to all areas of the device that this was read from.
    ///
    /// The texts are written first and the headers, which say where the text is, after them.
    pub fn write(&mut self, device: &mut (impl Write + Seek)) -> Result<(), Lvm2Error> {
        let text = self.metadata.bytes();
        let mut written = Vec::with_capacity(self.areas.len());
        for area in &self.areas {
            written.push(area.write_text(device, text)?);
        }
        for area in &written {
            area.write_header(device)?;
        }
        self.areas = written;
        Ok(())
    }
}
