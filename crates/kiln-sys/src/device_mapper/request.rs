//! Requests to the device mapper, with the kernel's layouts (`linux/dm-ioctl.h`).
//!
//! A request is a header and what belongs to it, in one piece of memory, which the kernel overwrites with its answer.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::{Name, Target};

/// The size of the header.
const HEADER: usize = 312;
/// The size of what goes before the parameters of a target.
const TARGET: usize = 40;
/// The room for requests and answers that is there without allocating any.
const ROOM: usize = 16 << 10;

// Where members of the header are.
const VERSION: usize = 0;
const SIZE: usize = 12;
const START: usize = 16;
const TARGETS: usize = 20;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const NAME: usize = 48;
const ID: usize = 176;

const READ_ONLY: u32 = 1 << 0;
const ACTIVE_TABLE: u32 = 1 << 5;
const INACTIVE_TABLE: u32 = 1 << 6;
const QUERY_INACTIVE: u32 = 1 << 12;
const DEFERRED: u32 = 1 << 17;

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) enum Request {
    List = 2,
    Create = 3,
    Remove = 4,
    Suspend = 6,
    Status = 7,
    Load = 9,
    Dependencies = 11,
}

/// The memory of a request.
pub(super) struct Buffer {
    small: [u64; ROOM / 8],
    /// In its place, for what is larger.
    large: Vec<u64>,
    used: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self::with_room(0)
    }
}

impl Buffer {
    /// With room for so many bytes behind the header. Allocates only if they are many.
    pub(super) fn with_room(more: usize) -> Self {
        let large = if HEADER + more > ROOM { vec![0; (HEADER + more).div_ceil(8)] } else { Vec::new() };
        let mut buffer = Self { small: [0; ROOM / 8], large, used: HEADER };
        // The oldest version with these requests: the kernel takes what is not newer than itself.
        buffer.put_u32(VERSION, 4);
        let size = buffer.bytes().len();
        buffer.put_u32(SIZE, u32::try_from(size).unwrap_or(u32::MAX));
        buffer.put_u32(START, HEADER as u32);
        buffer
    }

    fn words(&mut self) -> &mut [u64] {
        if self.large.is_empty() { &mut self.small } else { &mut self.large }
    }

    fn bytes(&self) -> &[u8] {
        let words: &[u64] = if self.large.is_empty() { &self.small } else { &self.large };
        // SAFETY: words have no padding, and any bytes are valid.
        #[expect(unsafe_code, reason = "the memory is aligned for the kernel and written as bytes")]
        unsafe {
            std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 8)
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let words = self.words();
        // SAFETY: as above; any bytes make valid words, too.
        #[expect(unsafe_code, reason = "the memory is aligned for the kernel and written as bytes")]
        unsafe {
            std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() * 8)
        }
    }

    fn put(&mut self, place: usize, bytes: &[u8]) {
        let rest = self.bytes_mut().get_mut(place..).unwrap_or_default();
        rest.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn put_u32(&mut self, place: usize, number: u32) {
        self.put(place, &number.to_ne_bytes());
    }

    fn u32(&self, place: usize) -> u32 {
        let bytes = self.bytes().get(place..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    fn u64(&self, place: usize) -> u64 {
        let bytes = self.bytes().get(place..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }

    pub(super) fn name(&mut self, name: &Name) {
        self.put(NAME, &name[..128]);
    }

    pub(super) fn id(&mut self, id: &Name) {
        self.put(ID, id);
    }

    fn set(&mut self, flag: u32) {
        let flags = self.u32(FLAGS);
        self.put_u32(FLAGS, flags | flag);
    }

    pub(super) fn set_read_only(&mut self) {
        self.set(READ_ONLY);
    }

    pub(super) fn set_deferred(&mut self) {
        self.set(DEFERRED);
    }

    pub(super) fn set_inactive(&mut self) {
        self.set(QUERY_INACTIVE);
    }

    /// Adds a part of a table.
    pub(super) fn add_target(&mut self, target: &Target) -> io::Result<()> {
        let (place, parameters) = (self.used, target.parameters.as_bytes());
        let next = (TARGET + parameters.len() + 1).next_multiple_of(8);
        if place + next > self.bytes().len() || target.kind.len() >= 16 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.put(place, &target.start.to_ne_bytes());
        self.put(place + 8, &target.length.to_ne_bytes());
        self.put_u32(place + 20, u32::try_from(next).map_err(io::Error::other)?);
        self.put(place + 24, target.kind.as_bytes());
        self.put(place + TARGET, parameters);
        self.used += next;
        let count = self.u32(TARGETS);
        self.put_u32(TARGETS, count + 1);
        Ok(())
    }

    /// Sends the request; the memory then holds the answer.
    pub(super) fn send(&mut self, control: &File, request: Request) -> Result<(), Errno> {
        // `_IOWR(0xfd, request, struct dm_ioctl)`
        let number = (3_u32 << 30) | ((HEADER as u32) << 16) | (0xfd << 8) | request as u32;
        let memory = self.words().as_mut_ptr();
        // SAFETY: the memory begins with a header that says how large it is, and lives through the call.
        #[expect(unsafe_code, reason = "no crate offers these requests")]
        let result = unsafe { libc::ioctl(control.as_raw_fd(), number as libc::Ioctl, memory) };
        if result < 0 {
            return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
        }
        Ok(())
    }

    /// The number of the mapping's device.
    pub(super) fn device(&self) -> u64 {
        self.u64(DEVICE)
    }

    /// Whether the mapping has nothing in it, nor anything to come.
    pub(super) fn has_no_table(&self) -> bool {
        self.u32(FLAGS) & (ACTIVE_TABLE | INACTIVE_TABLE) == 0
    }

    fn answer(&self) -> usize {
        usize::try_from(self.u32(START)).unwrap_or(HEADER)
    }

    /// Whether something holds for any of the devices that a mapping stands on.
    pub(super) fn any_dependency(&self, holds: impl Fn(u64) -> bool) -> bool {
        let start = self.answer();
        let count = usize::try_from(self.u32(start)).unwrap_or(0).min(ROOM / 8);
        (0..count).any(|index| holds(self.u64(start + 8 + 8 * index)))
    }

    /// Calls for each mapping of a list: its number and its name.
    pub(super) fn each_listed(&self, mut found: impl FnMut(u64, &Name)) {
        let mut place = self.answer();
        // Where there is none at all, the first one has no number.
        while self.u64(place) != 0 {
            let mut name = [0; 129];
            let bytes = super::text(self.bytes().get(place + 12..).unwrap_or_default());
            name.iter_mut().zip(bytes.iter().take(super::LONGEST_NAME)).for_each(|(to, from)| *to = *from);
            found(self.u64(place), &name);
            match usize::try_from(self.u32(place + 8)) {
                Ok(next) if next > 0 => place += next,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_laid_out_as_the_kernel_reads_it() {
        let mut buffer = Buffer::with_room(200);
        for (start, parameters) in [(0, "7:1 2048"), (8, "7:1 0")] {
            let target = Target { start, length: 8, kind: "linear", parameters: parameters.to_owned() };
            buffer.add_target(&target).expect("room");
        }
        assert_eq!((buffer.u32(TARGETS), buffer.u32(START), buffer.u32(VERSION)), (2, 312, 4));
        let second = HEADER + usize::try_from(buffer.u32(HEADER + 20)).expect("small");
        assert_eq!(second % 8, 0);
        assert_eq!((buffer.u64(second), buffer.u64(second + 8)), (8, 8));
        assert_eq!(super::super::text(&buffer.bytes()[second + 24..]), b"linear");
        assert_eq!(super::super::text(&buffer.bytes()[HEADER + TARGET..]), b"7:1 2048");
        let large = Buffer::with_room(ROOM);
        assert!(large.bytes().len() >= HEADER + ROOM && large.u32(SIZE) as usize == large.bytes().len());
    }

    #[test]
    fn answers_are_read_no_further_than_they_go() {
        let mut buffer = Buffer::default();
        buffer.put_u32(HEADER, u32::MAX);
        buffer.put(HEADER + 8, &5_u64.to_ne_bytes());
        assert!(buffer.any_dependency(|device| device == 5) && !buffer.any_dependency(|device| device == 6));
        buffer.put_u32(START, u32::MAX);
        assert!(!buffer.any_dependency(|device| device == 5));
        buffer.each_listed(|_, _| panic!("there is none"));
        buffer.put_u32(START, HEADER as u32);
        buffer.put(HEADER, &0xfd00_u64.to_ne_bytes());
        buffer.put_u32(HEADER + 8, 32);
        buffer.put(HEADER + 12, b"one\0");
        buffer.put(HEADER + 32, &0xfd01_u64.to_ne_bytes());
        buffer.put_u32(HEADER + 40, 0);
        buffer.put(HEADER + 44, b"two\0");
        let mut found = Vec::new();
        buffer.each_listed(|number, name| found.push((number, super::super::text(name).to_vec())));
        assert_eq!(found, [(0xfd00, b"one".to_vec()), (0xfd01, b"two".to_vec())]);
    }
}
