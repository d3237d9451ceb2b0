//! Unpacking a package's content into a directory of its own, where it disturbs nobody.
//!
//! Regular files become numbered files with their final owner, mode, time and extended attributes; everything
//! else is only noted. That makes unpacking independent of all other packages: it runs in parallel, and goes on
//! while the first packages are being configured. [`commit`](super::commit) then moves the files to their places
//! one package after the other, in an order that does not depend on who was finished first.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use kiln_api::ModuleError;
use md5::{Digest, Md5};
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, XattrFlags};
use tar::EntryType;

use super::archive::Deb;
use super::tree::member_path;

/// Size of one read: large enough that system calls do not count, small enough to stay in the cache.
const BUFFER: usize = 1 << 16;

/// The prefix of extended attributes in pax headers.
const XATTR_PREFIX: &str = "SCHILY.xattr.";

/// What a package contains.
pub(super) struct Staged {
    /// All members in the archive's order.
    pub(super) entries: Vec<Entry>,
    /// The directory of numbered files.
    pub(super) directory: OwnedFd,
}

/// One member.
pub(super) struct Entry {
    /// Path below the tree.
    pub(super) path: PathBuf,
    /// What it is.
    pub(super) kind: Kind,
    /// Permission bits.
    pub(super) mode: u32,
    /// Owner by number.
    pub(super) uid: u32,
    /// Group by number.
    pub(super) gid: u32,
    /// Owner by name, where it says more than the number.
    pub(super) user: Option<Box<str>>,
    /// Group by name, where it says more than the number.
    pub(super) group: Option<Box<str>>,
    /// Modification time in seconds since 1970.
    pub(super) mtime: i64,
}

/// The kinds of member.
pub(super) enum Kind {
    /// A directory.
    Directory,
    /// A regular file: its number in the staging directory, and its MD5 sum if that was asked for.
    File { number: usize, md5: Option<String> },
    /// Another name of an earlier member.
    HardLink(PathBuf),
    /// A symbolic link and its text.
    Symlink(PathBuf),
    /// A character device.
    CharacterDevice(u64),
    /// A block device.
    BlockDevice(u64),
    /// A named pipe.
    Fifo,
}

impl Entry {
    /// The times to be set.
    pub(super) fn times(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.mtime, tv_nsec: 0 };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// Unpacks one package; `needs_sum` says which files' MD5 sums are wanted.
fn stage(deb: &Deb, directory: &Path, needs_sum: impl Fn(&Path) -> bool) -> Result<Staged, ModuleError> {
    std::fs::create_dir(directory).map_err(ModuleError::io("create directory", directory))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptor = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| ModuleError::io("open directory", directory)(error.into()))?;
    let mut entries: Vec<Entry> = Vec::new();
    deb.with_content(|reader| {
        let damaged = |error: io::Error| {
            ModuleError::invalid(format!(
                "package `{}`: cannot unpack its content: {error}",
                deb.package.name
            ))
        };
        let mut archive = tar::Archive::new(reader);
        let mut buffer = vec![0; BUFFER];
        for member in archive.entries().map_err(damaged)? {
            let mut member = member.map_err(damaged)?;
            if let Some(mut entry) = describe(&mut member).map_err(damaged)? {
                if let Kind::File { number, md5 } = &mut entry.kind {
                    *number = entries.len();
                    let wanted = needs_sum(&entry.path);
                    let xattrs = xattrs(&mut member).map_err(damaged)?;
                    let file = rustix::fs::openat(
                        &descriptor,
                        number.to_string(),
                        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
                        Mode::from_raw_mode(0o600),
                    )
                    .map_err(|error| damaged(error.into()))?;
                    let mut file = File::from(file);
                    let sum = copy(&mut member, &mut file, wanted, &mut buffer).map_err(damaged)?;
                    *md5 = sum;
                    finish(&file, &entry, &xattrs).map_err(damaged)?;
                }
                entries.push(entry);
            }
        }
        Ok(())
    })?;
    Ok(Staged { entries, directory: descriptor })
}

/// Reads a member's header; `None` for what is no file of the package.
fn describe(member: &mut tar::Entry<'_, impl Read>) -> io::Result<Option<Entry>> {
    let name = member.path_bytes().into_owned();
    let hostile = || io::Error::other(format!("member with the name `{}`", String::from_utf8_lossy(&name)));
    let path = member_path(&name).ok_or_else(hostile)?;
    let header = member.header();
    let device = || -> io::Result<u64> {
        let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
        Ok(rustix::fs::makedev(major, minor))
    };
    let kind = match header.entry_type() {
        EntryType::Directory => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            Kind::File { number: 0, md5: None }
        }
        EntryType::Char => Kind::CharacterDevice(device()?),
        EntryType::Block => Kind::BlockDevice(device()?),
        EntryType::Fifo => Kind::Fifo,
        EntryType::Symlink => {
            let text = member.link_name_bytes().ok_or_else(hostile)?;
            Kind::Symlink(PathBuf::from(std::ffi::OsString::from_encoded(text.into_owned())))
        }
        EntryType::Link => {
            let text = member.link_name_bytes().ok_or_else(hostile)?;
            Kind::HardLink(member_path(&text).ok_or_else(hostile)?)
        }
        EntryType::XGlobalHeader => return Ok(None),
        other => return Err(io::Error::other(format!("member `{}` of type {other:?}", path.display()))),
    };
    if path.as_os_str().is_empty() && !matches!(kind, Kind::Directory) {
        return Err(hostile());
    }
    let number = |value: u64| u32::try_from(value).map_err(|_| io::Error::other("owner number too large"));
    let named = |name: Option<&[u8]>| {
        let name = std::str::from_utf8(name?).ok()?.trim_end_matches('\0');
        (!name.is_empty() && name != "root").then(|| Box::from(name))
    };
    Ok(Some(Entry {
        path,
        kind,
        mode: header.mode()? & 0o7777,
        uid: number(header.uid()?)?,
        gid: number(header.gid()?)?,
        user: named(header.username_bytes()),
        group: named(header.groupname_bytes()),
        mtime: i64::try_from(header.mtime()?).map_err(io::Error::other)?,
    }))
}

/// Makes an OS string of the bytes of an archive.
trait FromEncoded {
    fn from_encoded(bytes: Vec<u8>) -> Self;
}

impl FromEncoded for std::ffi::OsString {
    fn from_encoded(bytes: Vec<u8>) -> Self {
        std::os::unix::ffi::OsStringExt::from_vec(bytes)
    }
}

fn xattrs(member: &mut tar::Entry<'_, impl Read>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for extension in member.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(XATTR_PREFIX)) {
            found.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
}

fn copy(reader: &mut impl Read, file: &mut File, sum: bool, buffer: &mut [u8]) -> io::Result<Option<String>> {
    let mut hash = sum.then(Md5::new);
    loop {
        let count = match reader.read(buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let chunk = buffer.get(..count).unwrap_or_default();
        if let Some(hash) = &mut hash {
            hash.update(chunk);
        }
        file.write_all(chunk)?;
    }
    Ok(hash.map(|hash| hex(&hash.finalize())))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn finish(file: &File, entry: &Entry, xattrs: &[(String, Vec<u8>)]) -> io::Result<()> {
    use std::os::unix::fs::fchown;
    if (entry.uid, entry.gid) != (0, 0) {
        fchown(file, Some(entry.uid), Some(entry.gid))?;
    }
    for (name, value) in xattrs {
        rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty())?;
    }
    // After the owner, whose change clears the set-user-id bit.
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    rustix::fs::futimens(file, &entry.times())?;
    Ok(())
}

/// The packages that are being unpacked, by their index.
pub(super) struct Queue<'a> {
    debs: &'a [Deb],
    order: Vec<usize>,
    directory: PathBuf,
    next: AtomicUsize,
    stopped: AtomicBool,
    results: Mutex<Vec<Option<Result<Staged, ModuleError>>>>,
    finished: Condvar,
}

impl<'a> Queue<'a> {
    /// Prepares to unpack packages in the order given, below a directory.
    pub(super) fn new(debs: &'a [Deb], order: Vec<usize>, directory: &Path) -> Self {
        Self {
            debs,
            order,
            directory: directory.to_owned(),
            next: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            results: Mutex::new(debs.iter().map(|_| None).collect()),
            finished: Condvar::new(),
        }
    }

    /// Unpacks packages until there are none left; run by each worker.
    pub(super) fn work(&self) {
        let _bell = Bell(self);
        while !self.stopped.load(Ordering::Relaxed) {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((index, deb)) =
                self.order.get(next).and_then(|index| Some((*index, self.debs.get(*index)?)))
            else {
                return;
            };
            let conffiles = super::database::conffiles(deb);
            let no_sums = !deb.members.contains_key("md5sums");
            let result = stage(deb, &self.directory.join(index.to_string()), |path| {
                no_sums || conffiles.iter().any(|conffile| conffile.path == path)
            });
            if let Some(slot) = self.results.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
                *slot = Some(result);
            }
            self.finished.notify_all();
        }
    }

    /// Lets the workers end after the package they are at.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Waits until a package is unpacked and takes it.
    pub(super) fn take(&self, index: usize) -> Result<Staged, ModuleError> {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = results.get_mut(index).and_then(Option::take) {
                return result;
            }
            if self.stopped.load(Ordering::Relaxed) {
                return Err(ModuleError::Interrupted);
            }
            results = self.finished.wait(results).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Wakes whoever waits for a worker that panics.
struct Bell<'a>(&'a Queue<'a>);

impl Drop for Bell<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
            drop(self.0.results.lock());
            self.0.finished.notify_all();
        }
    }
}
