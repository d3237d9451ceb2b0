//! A file that is as large as it says, and counts.

use std::io::{self, Read, Seek, SeekFrom};

/// A file that is as large as it says, zero beyond its bytes, and knows how much was read of it.
pub(super) struct Counted<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) size: u64,
    pub(super) place: u64,
    pub(super) read: u64,
    pub(super) largest: usize,
}

impl<'a> Counted<'a> {
    pub(super) fn new(bytes: &'a [u8], size: u64) -> Self {
        Self { bytes, size, place: 0, read: 0, largest: 0 }
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.largest = self.largest.max(buffer.len());
        let left = usize::try_from(self.size.saturating_sub(self.place)).unwrap_or(usize::MAX);
        let size = buffer.len().min(left);
        for (index, byte) in buffer[..size].iter_mut().enumerate() {
            let place = usize::try_from(self.place).ok().and_then(|place| place.checked_add(index));
            *byte = place.and_then(|place| self.bytes.get(place)).copied().unwrap_or(0);
        }
        self.place += size as u64;
        self.read += size as u64;
        Ok(size)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.place = match to {
            SeekFrom::Start(place) => place,
            SeekFrom::End(0) => self.size,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(self.place)
    }
}
