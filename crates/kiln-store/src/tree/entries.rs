//! The names in a directory, read in large pieces and kept without an allocation for each.

use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, RawDir};
use rustix::io::Errno;

/// Directories are read in pieces of this many bytes: some 700 names for each system call.
const READ_SIZE: usize = 32 * 1024;

/// A directory is read up to about this many names at a time, and what was read is dealt with before the
/// rest is read: so the largest directory takes a few megabytes.
const AT_ONCE: usize = 32 * 1024;

/// One name in a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a CStr,
    pub(super) kind: FileType,
    pub(super) inode: u64,
}

impl Entry<'_> {
    pub(super) fn file_name(&self) -> &OsStr {
        OsStr::from_bytes(self.name.to_bytes())
    }
}

/// A part of the names of a directory: directories first, each kind in the order of inode numbers, which is
/// about the order on disk.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// All names, each with its final NUL.
    names: Vec<u8>,
    items: Vec<Item>,
    directories: usize,
}

#[derive(Debug)]
struct Item {
    inode: u64,
    start: u32,
    length: u16,
    kind: FileType,
}

impl Entries {
    /// Reads on in a directory, and says whether that was the rest of it.
    pub(super) fn read(directory: &OwnedFd) -> Result<(Self, bool), Errno> {
        let mut entries = Self::default();
        let mut buffer = vec![MaybeUninit::uninit(); READ_SIZE];
        let mut reader = RawDir::new(directory, &mut buffer);
        let all = loop {
            // What the kernel has put into the buffer it will not give again.
            if entries.items.len() >= AT_ONCE && reader.is_buffer_empty() {
                break false;
            }
            let Some(entry) = reader.next() else { break true };
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            let start = u32::try_from(entries.names.len()).map_err(|_| Errno::OVERFLOW)?;
            let bytes = name.to_bytes_with_nul();
            let length = u16::try_from(bytes.len()).map_err(|_| Errno::NAMETOOLONG)?;
            entries.names.extend_from_slice(bytes);
            entries.items.push(Item { inode: entry.ino(), start, length, kind });
        };
        let group = |item: &Item| item.kind != FileType::Directory;
        entries.items.sort_unstable_by_key(|item| (group(item), item.inode));
        entries.directories = entries.items.partition_point(|item| !group(item));
        Ok((entries, all))
    }

    /// Where the directories stand.
    pub(super) fn directories(&self) -> Range<usize> {
        0..self.directories
    }

    /// Where everything else stands.
    pub(super) fn others(&self) -> Range<usize> {
        self.directories..self.items.len()
    }

    /// The entries of a range.
    pub(super) fn iter(&self, range: Range<usize>) -> impl Iterator<Item = Entry<'_>> {
        let items = self.items.get(range).unwrap_or_default();
        items.iter().filter_map(|item| {
            let start = item.start as usize;
            let bytes = self.names.get(start..start + usize::from(item.length))?;
            let name = CStr::from_bytes_with_nul(bytes).ok()?;
            Some(Entry { name, kind: item.kind, inode: item.inode })
        })
    }
}
