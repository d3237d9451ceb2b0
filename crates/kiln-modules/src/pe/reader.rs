//! Reads parts of a file by offset. Nothing is allocated for a part before it is known to lie in the file.

use std::io::{Read, Seek, SeekFrom};

use super::PeError;

/// A file and its size.
pub(super) struct Reader<'a, R> {
    file: &'a mut R,
    pub(super) size: u64,
}

impl<'a, R: Read + Seek> Reader<'a, R> {
    pub(super) fn new(file: &'a mut R) -> Result<Self, PeError> {
        let failed = |source| PeError::Read { what: "the size of the file".to_owned(), offset: 0, source };
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { file, size })
    }

    /// Holds that a part lies in the file.
    pub(super) fn check(&self, what: impl FnOnce() -> String, offset: u64, size: u64) -> Result<(), PeError> {
        match offset.checked_add(size) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(PeError::Ends { what: what(), offset, size, end: self.size }),
        }
    }

    /// Reads a part whose size the caller has bounded.
    pub(super) fn part(&mut self, what: &str, offset: u64, size: usize) -> Result<Vec<u8>, PeError> {
        self.check(|| what.to_owned(), offset, size as u64)?;
        let failed = |source| PeError::Read { what: what.to_owned(), offset, source };
        self.file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let mut part = vec![0; size];
        self.file.read_exact(&mut part).map_err(failed)?;
        Ok(part)
    }
}

/// Takes numbers off the front of a part. Beyond its end everything is zero: parts are read in the size of what is
/// taken from them.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (bytes, rest) =
            self.0.split_first_chunk().map_or(([0; N], &[][..]), |(bytes, rest)| (*bytes, rest));
        self.0 = rest;
        bytes
    }

    pub(super) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number that is as wide as an address.
    pub(super) fn address(&mut self, wide: bool) -> u64 {
        if wide { self.u64() } else { self.u32().into() }
    }
}
