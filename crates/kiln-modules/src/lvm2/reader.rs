//! Reads parts of a device by offset. Nothing is allocated for a part before it is known to lie on the device.

use std::io::{Read, Seek, SeekFrom};

use super::Lvm2Error;

/// A device and its size.
pub(super) struct Reader<'a, R> {
    device: &'a mut R,
    size: u64,
}

impl<'a, R: Read + Seek> Reader<'a, R> {
    pub(super) fn new(device: &'a mut R) -> Result<Self, Lvm2Error> {
        let failed =
            |source| Lvm2Error::Read { what: "the size of the device".to_owned(), offset: 0, source };
        let size = device.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { device, size })
    }

    /// Holds that a part lies on the device.
    pub(super) fn check(&self, what: &str, offset: u64, size: u64) -> Result<(), Lvm2Error> {
        match offset.checked_add(size) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Lvm2Error::Ends { what: what.to_owned(), offset, size, end: self.size }),
        }
    }

    /// Reads a part whose size the caller has bounded.
    pub(super) fn part(&mut self, what: &str, offset: u64, size: usize) -> Result<Vec<u8>, Lvm2Error> {
        self.check(what, offset, size as u64)?;
        let failed = |source| Lvm2Error::Read { what: what.to_owned(), offset, source };
        self.device.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let mut part = vec![0; size];
        self.device.read_exact(&mut part).map_err(failed)?;
        Ok(part)
    }
}

/// A number of 32 bits; beyond the end of the bytes everything is zero.
pub(super) fn u32_at(bytes: &[u8], place: usize) -> u32 {
    bytes.get(place..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// A number of 64 bits; beyond the end of the bytes everything is zero.
pub(super) fn u64_at(bytes: &[u8], place: usize) -> u64 {
    bytes.get(place..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
