//! Copying the content of a regular file: shared blocks where possible, holes kept, the kernel's own copy else.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{SeekFrom, Statx};
use rustix::io::Errno;

/// The unit of `stx_blocks`.
const SECTOR: u64 = 512;

/// Up to this size two plain system calls beat what `copy_file_range` sets up.
const SMALL: u64 = 128 * 1024;

/// The kernel copies this much before the interrupt flag is looked at again.
const PIECE: u64 = 16 * 1024 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why content was not copied.
pub(super) enum Failure {
    Io(Errno),
    Interrupted,
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Io(error)
    }
}

/// Copies contents and remembers what the file systems at hand refuse.
pub(super) struct Contents<'a> {
    interrupt: &'a AtomicBool,
    no_clone: AtomicBool,
    no_range: AtomicBool,
}

impl<'a> Contents<'a> {
    pub(super) fn new(interrupt: &'a AtomicBool) -> Self {
        Self { interrupt, no_clone: AtomicBool::new(false), no_range: AtomicBool::new(false) }
    }

    /// Copies everything from one file to another, which is empty.
    pub(super) fn copy(&self, from: &OwnedFd, to: &OwnedFd, stat: &Statx) -> Result<(), Failure> {
        let size = stat.stx_size;
        if size == 0 || self.clone(from, to)? {
            return Ok(());
        }
        if stat.stx_blocks * SECTOR >= size {
            return self.range(from, to, 0, size);
        }
        rustix::fs::ftruncate(to, size)?;
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Ok(start) => start,
                // Nothing but a hole is left.
                Err(Errno::NXIO) => break,
                // The file system does not tell: everything is data.
                Err(Errno::INVAL) => at,
                Err(error) => return Err(error.into()),
            };
            let end = match rustix::fs::seek(from, SeekFrom::Hole(start)) {
                Err(Errno::INVAL) => size,
                end => end?,
            };
            self.range(from, to, start, end)?;
            at = end;
        }
        Ok(())
    }

    fn clone(&self, from: &OwnedFd, to: &OwnedFd) -> Result<bool, Failure> {
        if self.no_clone.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(to, from) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY | Errno::NOSYS) => {
                self.no_clone.store(true, Ordering::Relaxed);
                Ok(false)
            }
            // This file only: checksums switched off, a swap file.
            Err(Errno::INVAL | Errno::PERM | Errno::TXTBSY) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn range(&self, from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Failure> {
        let mut at = start;
        while at < end && end - start > SMALL && !self.no_range.load(Ordering::Relaxed) {
            self.check()?;
            let (mut input, mut output) = (at, at);
            let length = usize::try_from((end - at).min(PIECE)).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(from, Some(&mut input), to, Some(&mut output), length) {
                Ok(0) => break,
                Ok(count) => at += count as u64,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    self.no_range.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Also after an unexpected end: some file systems answer 0 where a read has data.
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                buffer.resize(SMALL as usize, 0);
            }
            self.read_and_write(from, to, at, end, buffer)
        })
    }

    fn read_and_write(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        mut at: u64,
        end: u64,
        buffer: &mut [u8],
    ) -> Result<(), Failure> {
        while at < end {
            self.check()?;
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let Some(room) = buffer.get_mut(..length) else { break };
            let count = match rustix::io::pread(from, &mut *room, at) {
                // The file has become shorter.
                Ok(0) => break,
                Err(Errno::INTR) => continue,
                count => count?,
            };
            let mut rest = room.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                match rustix::io::pwrite(to, rest, at) {
                    Err(Errno::INTR) => {}
                    Ok(0) => return Err(Errno::IO.into()),
                    written => {
                        let written = written?;
                        rest = rest.get(written..).unwrap_or_default();
                        at += written as u64;
                    }
                }
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        if self.interrupt.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
    }
}
