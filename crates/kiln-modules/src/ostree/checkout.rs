//! Checking out: the files of a commit, as they were.
//!
//! ```text
//! dirmeta    (uuua(ayay))                          owner, group, mode, attributes
//! filez      u32 of the header's size, 4 bytes, header, raw deflate stream
//! header     (tuuuusa(ayay))                       size, owner, group, mode, device, target of a link, attributes
//! ```
//!
//! Numbers in objects are big-endian, whatever the machine. Files are written on all processors: inflating them is most of the work.
//! Directories get their owner and mode when all is in them, the deepest first, so that none is read-only too early.
//!
//! `ostree` gives files the time of the checkout, which says nothing about them; here it is that of all content of
//! sources, so that two builds of one manifest do not differ. Directories have none, as there.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use flate2::read::DeflateDecoder;
use kiln_api::ModuleError;
use rustix::fs::{XattrFlags, lsetxattr};

use super::variant::{Directory, elements, members, root_of};
use super::{Digest, Name, Repository, name};

/// The time of files: see `sources/content.rs`.
const MODIFIED: Duration = Duration::from_secs(1);

/// The largest header of a file: attributes may have 64 KiB each.
const HEADER: u32 = 16 << 20;

const FORMAT: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Whom a file or a directory belongs to, and what else is known about it.
#[derive(Debug, PartialEq, Eq)]
struct Metadata {
    owner: u32,
    group: u32,
    mode: u32,
    attributes: Vec<(CString, Vec<u8>)>,
}

impl Repository {
    /// Makes a directory with the files of a commit.
    pub(crate) fn check_out(&self, commit: &Digest, target: &Path) -> Result<(), ModuleError> {
        let own = name(commit, "commit");
        let (tree, metadata) = root_of(&self.read(&own)?).ok_or_else(|| self.damaged(&own))?;
        let mut files = Vec::new();
        let mut directories = Vec::new();
        let mut waiting = vec![(target.to_owned(), tree, metadata)];
        while let Some((path, tree, metadata)) = waiting.pop() {
            fs::create_dir(&path).map_err(ModuleError::io("create directory", &path))?;
            let object = name(&tree, "dirtree");
            let directory = Directory::parse(&self.read(&object)?).ok_or_else(|| self.damaged(&object))?;
            let below = |entry: &str| match entry {
                "" | "." | ".." => Err(self.damaged(&object)),
                entry if entry.contains('/') => Err(self.damaged(&object)),
                entry => Ok(path.join(entry)),
            };
            for (entry, digest) in directory.files {
                files.push((below(&entry)?, name(&digest, "filez")));
            }
            for (entry, tree, metadata) in directory.directories {
                waiting.push((below(&entry)?, tree, metadata));
            }
            directories.push((path, name(&metadata, "dirmeta")));
        }
        self.write_files(&files)?;
        for (path, object) in directories.iter().rev() {
            let metadata = directory_metadata(&self.read(object)?).ok_or_else(|| self.damaged(object))?;
            metadata.apply(path)?;
            let times =
                FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH).set_modified(SystemTime::UNIX_EPOCH);
            File::open(path)
                .and_then(|file| file.set_times(times))
                .map_err(ModuleError::io("set the times of", path))?;
        }
        Ok(())
    }

    fn write_files(&self, files: &[(PathBuf, Name)]) -> Result<(), ModuleError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len());
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((path, object)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.write_file(path, object)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            // The scope waits for those that are not asked any more.
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    fn write_file(&self, path: &Path, object: &str) -> Result<(), ModuleError> {
        let source = self.object(object);
        let mut stream = BufReader::new(File::open(&source).map_err(ModuleError::io("open", &source))?);
        let header = read_header(&mut stream).map_err(ModuleError::io("read", &source))?;
        let (metadata, link) = file_metadata(&header).ok_or_else(|| self.damaged(object))?;
        match metadata.mode & FORMAT {
            REGULAR => {
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(ModuleError::io("create", path))?;
                io::copy(&mut DeflateDecoder::new(stream), &mut file)
                    .map_err(ModuleError::io("write", path))?;
                metadata.apply(path)?;
                file.set_modified(SystemTime::UNIX_EPOCH + MODIFIED)
                    .map_err(ModuleError::io("set the time of", path))
            }
            LINK => {
                symlink(OsStr::from_bytes(link), path).map_err(ModuleError::io("create", path))?;
                metadata.apply(path)
            }
            _ => Err(self.damaged(object)),
        }
    }

    pub(super) fn damaged(&self, name: &str) -> ModuleError {
        let path = self.object(name);
        ModuleError::invalid(format!("`{}` is no object of its kind", path.display()))
    }
}

impl Metadata {
    /// Gives a file, directory or link what it had. Changing owners takes bits of the mode and attributes away: it comes first.
    fn apply(&self, path: &Path) -> Result<(), ModuleError> {
        std::os::unix::fs::lchown(path, Some(self.owner), Some(self.group))
            .map_err(ModuleError::io("set the owner of", path))?;
        for (name, value) in &self.attributes {
            lsetxattr(path, name.as_c_str(), value, XattrFlags::empty())
                .map_err(|errno| ModuleError::io("set an attribute of", path)(errno.into()))?;
        }
        if self.mode & FORMAT != LINK {
            fs::set_permissions(path, fs::Permissions::from_mode(self.mode & !FORMAT))
                .map_err(ModuleError::io("set the mode of", path))?;
        }
        Ok(())
    }
}

fn read_header(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut size = [0; 8];
    stream.read_exact(&mut size)?;
    let [a, b, c, d, ..] = size;
    let size = u32::from_be_bytes([a, b, c, d]);
    if size > HEADER {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its header is too large"));
    }
    let mut header = Vec::new();
    stream.take(u64::from(size)).read_to_end(&mut header)?;
    Ok(header)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn directory_metadata(bytes: &[u8]) -> Option<Metadata> {
    metadata(bytes, 0, bytes.get(12..)?)
}

/// What a file's header says, and where it leads to if it is a link.
fn file_metadata(header: &[u8]) -> Option<(Metadata, &[u8])> {
    // Size, owner, group, mode and device are fixed, and so only the text has an end in the table.
    const FIXED: usize = 8 + 4 * 4;
    // The size of an offset depends on the whole.
    let (fixed, _) = header.split_at_checked(FIXED)?;
    let [before, attributes] = members(header)?;
    let link = before.get(FIXED..)?.strip_suffix(b"\0")?;
    Some((metadata(fixed, 8, attributes)?, link))
}

fn metadata(bytes: &[u8], at: usize, attributes: &[u8]) -> Option<Metadata> {
    let attribute = |bytes| {
        let [name, value] = members(bytes)?;
        Some((CString::from_vec_with_nul(name.to_owned()).ok()?, value.to_owned()))
    };
    Some(Metadata {
        owner: number(bytes, at)?,
        group: number(bytes, at + 4)?,
        mode: number(bytes, at + 8)?,
        attributes: elements(attributes)?.into_iter().map(attribute).collect::<Option<_>>()?,
    })
}
