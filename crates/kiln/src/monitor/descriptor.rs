//! Where a monitor writes: a descriptor that the caller names by its number.
//!
//! Nobody builds images to fill pipes. A reader that has gone, a disk that is full, a reader that stops reading while
//! the build is interrupted: each ends what is written there and nothing else. A reader that is merely slow is waited
//! for, as it may be in need of every record.

use std::io::IsTerminal as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{CliError, CliResult, Kind};
use crate::present::say;

/// So many bytes are written to a pipe without blocking once it can be written to (`PIPE_BUF`).
const PIECE: usize = 4096;

/// How often it is looked whether the build was interrupted while a full pipe is waited for.
const INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How often a full pipe is waited for after an interruption.
const LAST_TRIES: u32 = 10;

/// Something that text can be written to.
#[derive(Debug)]
pub(crate) struct Descriptor {
    fd: OwnedFd,
    number: i32,
    /// Whether escape codes are understood.
    pub(crate) terminal: bool,
    lost: bool,
    interrupted: Arc<AtomicBool>,
}

impl Descriptor {
    /// Takes the descriptor with that number. To be called before anything is opened: the number may otherwise be
    /// that of something else.
    pub(crate) fn open(number: i32) -> CliResult<Self> {
        let fd = kiln_sys::inherited::writable(number).map_err(|error| {
            let what = format!("cannot write to the descriptor {number} of `--monitor-fd`: {error}");
            CliError::new(Kind::Usage, what)
                .hint(format!("the caller has to open it, as in a shell with `{number}>FILE`"))
        })?;
        // As in the reference, escape codes need a terminal on standard output too.
        let terminal = fd.is_terminal() && std::io::stdout().is_terminal();
        Ok(Self { fd, number, terminal, lost: false, interrupted: Arc::default() })
    }

    /// A full pipe is not waited for for long once the flag is set.
    #[must_use]
    pub(crate) fn until(mut self, interrupted: &Arc<AtomicBool>) -> Self {
        self.interrupted = Arc::clone(interrupted);
        self
    }

    /// Writes all of a text, or nothing ever again.
    pub(crate) fn write(&mut self, text: &str) {
        for piece in text.as_bytes().chunks(PIECE) {
            let mut rest = piece;
            while !rest.is_empty() {
                if self.lost || !self.wait() {
                    self.lost = true;
                    return;
                }
                match rustix::io::write(&self.fd, rest) {
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(error) => {
                        self.lost = true;
                        // Who closes a pipe knows that nothing more comes.
                        if error != Errno::PIPE {
                            say(format_args!(
                                "warning: the monitor ends, for the descriptor {} cannot be written to: {error}",
                                self.number
                            ));
                        }
                    }
                }
            }
        }
    }

    /// Waits until something can be written, or it turns out that it cannot; `false` if that takes too long.
    fn wait(&self) -> bool {
        let mut tries = 0;
        loop {
            let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
            match poll(&mut fds, Some(&INTERVAL)) {
                Ok(0) | Err(Errno::INTR) => {}
                // What is wrong is found out by writing.
                Ok(_) | Err(_) => return true,
            }
            if self.interrupted.load(Ordering::Relaxed) {
                tries += 1;
                if tries > LAST_TRIES {
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn more_than_fits_a_pipe_is_written_to_a_slow_reader() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&writer, true).expect("not blocking");
        let mut descriptor = Descriptor::open(writer.as_raw_fd()).expect("open");
        drop(writer);
        let text = "0123456789".repeat(30_000);
        let read = std::thread::scope(|scope| {
            scope.spawn(|| {
                descriptor.write(&text);
                drop(descriptor);
            });
            let mut read = String::new();
            reader.read_to_string(&mut read).expect("read");
            read
        });
        assert!(read == text, "{} bytes of {}", read.len(), text.len());
    }

    #[test]
    fn a_reader_that_has_gone_is_forgotten() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut descriptor = Descriptor::open(writer.as_raw_fd()).expect("open");
        drop(reader);
        descriptor.write("text");
        assert!(descriptor.lost);
        descriptor.write("text");
    }

    #[test]
    fn nobody_is_waited_for_after_an_interruption() {
        let (_reader, writer) = std::io::pipe().expect("a pipe");
        let interrupted = Arc::new(AtomicBool::new(true));
        let mut descriptor = Descriptor::open(writer.as_raw_fd()).expect("open").until(&interrupted);
        descriptor.write(&"0123456789".repeat(30_000));
        assert!(descriptor.lost);
    }

    #[test]
    fn a_number_without_a_descriptor_is_a_mistake() {
        let error = Descriptor::open(1_000_000).expect_err("refused");
        assert_eq!(error.kind, Kind::Usage);
    }
}
