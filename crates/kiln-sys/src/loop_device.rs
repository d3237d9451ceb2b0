//! Loop devices: regular files as block devices.
//!
//! A device is attached with `LOOP_CONFIGURE` (Linux 5.8), which sets the backing file and all properties at once.
//! `LO_FLAGS_AUTOCLEAR` is among them from the first moment: when the last descriptor of the device is closed, the kernel
//! detaches it. A Kiln that is killed at any point therefore leaves no loop device behind.
//!
//! Numbers are handed out by the kernel without a reservation (`LOOP_CTL_GET_FREE`), so another program may be faster:
//! then the next number is asked for. Detaching is complete only when the last user of the device has closed
//! it; the kernel then closes the backing file, which [`LoopDevice::close`] learns from inotify.
//!
//! Device nodes are taken from the host's `/dev` if they are there. In a container whose `/dev` has no node for a fresh
//! number, the node is made in a directory that the caller names and that must allow device nodes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, FlockOperation, flock};
use rustix::io::Errno;

use node::{MadeNode, Node, open_device, open_node};
use watch::Watch;

mod ioctl;
mod node;
mod watch;

/// The major number of loop devices.
pub const LOOP_MAJOR: u32 = 7;

/// The misc device that hands out loop devices: major and minor number.
const LOOP_CONTROL: (u32, u32) = (10, 237);

/// How long others may keep taking the devices that the kernel offers, or keep the device locked.
const ATTACH_LIMIT: Duration = Duration::from_secs(30);

/// How long others may keep a device open that is to be detached: udev needs a moment to look at it.
const DETACH_LIMIT: Duration = Duration::from_secs(30);

/// How often a lost race is tried again at once; only then is there a pause.
const EAGER_ATTEMPTS: u32 = 16;

/// The pause between two attempts when somebody holds on to the device that the kernel offers.
const ATTACH_PAUSE: Duration = Duration::from_millis(5);

/// Why a loop device could not be attached or detached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoopError {
    /// A system call on a path failed.
    #[error("cannot {action} `{path}`", path = .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The device or file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The kernel has no loop devices.
    #[error("the kernel offers no loop devices (`{path}`): load its module `loop`, or give the container access to it", path = .path.display())]
    Unavailable {
        /// The control device.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The kernel refused the properties.
    #[error(
        "the kernel refused the loop device's properties (block size {block_size}, offset {offset}, size limit {size_limit}): \
         the block size must be a power of two from 512 to the page size, and Linux must be 5.8 or newer"
    )]
    Refused {
        /// The block size in bytes.
        block_size: u32,
        /// The offset in bytes.
        offset: u64,
        /// The size limit in bytes.
        size_limit: u64,
        /// The reason.
        source: io::Error,
    },
    /// A node has the name of a loop device but is something else.
    #[error("`{path}` is not the loop device of that number", path = .path.display())]
    Unexpected {
        /// The node.
        path: PathBuf,
    },
    /// Other programs were faster all the time.
    #[error("no loop device could be attached within {} s: other programs keep taking or locking `{path}`", .limit.as_secs(), path = .path.display())]
    Contended {
        /// The last device that was tried.
        path: PathBuf,
        /// How long it was tried.
        limit: Duration,
    },
    /// Somebody still has the device open.
    #[error("`{path}` is still in use after {} s{}", .limit.as_secs(), holders_text(.holders), path = .path.display())]
    Busy {
        /// The device.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
        /// Who has it open, as `name (pid)`, as far as that can be seen.
        holders: Vec<String>,
    },
}

/// The properties of a loop device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopOptions {
    /// Where in the file the device starts, in bytes.
    pub offset: u64,
    /// How long the device is at most, in bytes; 0 for up to the end of the file.
    pub size_limit: u64,
    /// The logical block size in bytes; 0 for the kernel's default.
    pub block_size: u32,
    /// Whether the device refuses writes.
    pub read_only: bool,
    /// Whether the kernel looks for partitions and makes devices of them.
    pub partition_scan: bool,
    /// Whether the device is locked, so that udev does not look at it (<https://systemd.io/BLOCK_DEVICE_LOCKING>).
    pub lock: bool,
}

/// What the kernel says of an attached loop device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopStatus {
    /// The device and inode of the backing file.
    pub backing: (u64, u64),
    /// See [`LoopOptions::offset`].
    pub offset: u64,
    /// See [`LoopOptions::size_limit`].
    pub size_limit: u64,
    /// Whether the device goes away with its last user.
    pub autoclear: bool,
    /// Whether the device refuses writes.
    pub read_only: bool,
    /// Whether the kernel looks for partitions.
    pub partition_scan: bool,
}

/// An attached loop device. Dropping it leaves detaching to the kernel; [`close`](Self::close) waits for it.
#[derive(Debug)]
pub struct LoopDevice {
    number: u32,
    node: File,
    path: PathBuf,
    backing: File,
    backing_path: PathBuf,
}

impl LoopDevice {
    /// Attaches a file (or a block device) to a free loop device.
    ///
    /// `open` opens the file named `backing`, for reading only if the device is read-only. It is called twice: the kernel's
    /// description of the file must be the last of its kind, so that its end is an event.
    /// `prepare` is told each number before anything is done with that device; what it returns for the number that is
    /// used in the end is returned beside the device, the rest is dropped. Nodes that the host's `/dev` lacks are
    /// made in `nodes`.
    pub fn attach<Guard, E: From<LoopError>>(
        backing: &Path,
        open: impl Fn() -> io::Result<File>,
        options: &LoopOptions,
        nodes: &Path,
        mut prepare: impl FnMut(u32) -> Result<Guard, E>,
    ) -> Result<(Self, Guard), E> {
        let opened = || open().map_err(|source| io_error("open", backing, source));
        let (kept, given) = (opened()?, opened()?);
        let control = Control::open(nodes)?;
        let limit = Instant::now() + ATTACH_LIMIT;
        for attempt in 0_u32.. {
            let number = control.free_number()?;
            let guard = prepare(number)?;
            if let Some(Node { file, path, made }) = open_node(number, nodes)?
                && configure(&file, &given, options, &path)? == Outcome::Attached
            {
                if let Some(made) = made {
                    made.keep();
                }
                let device =
                    Self { number, node: file, path, backing: kept, backing_path: backing.to_owned() };
                return Ok((device, guard));
            }
            if Instant::now() > limit {
                let path = Path::new("/dev").join(name(number));
                return Err(LoopError::Contended { path, limit: ATTACH_LIMIT }.into());
            }
            if attempt >= EAGER_ATTEMPTS {
                std::thread::sleep(ATTACH_PAUSE);
            }
        }
        unreachable!("attempts are bounded by time");
    }

    /// The device's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The device's name, as `loop0`.
    pub fn name(&self) -> String {
        name(self.number)
    }

    /// The node it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the kernel says of it; `None` if it is no longer attached.
    pub fn status(&self) -> Result<Option<LoopStatus>, LoopError> {
        status(&self.node).map_err(|source| io_error("read the status of", &self.path, source))
    }

    /// The names and device numbers of its partitions, as far as the kernel has found any.
    pub fn partitions(&self) -> Vec<(String, u32, u32)> {
        partitions(Path::new("/sys/block"), &self.name())
    }

    /// Writes what the device has cached to the backing file, and forgets it.
    pub fn flush(&self) -> Result<(), LoopError> {
        ioctl::flush(&self.node).map_err(|source| io_error("flush", &self.path, source))
    }

    /// Flushes and detaches the device, waits until nobody uses it any more, and syncs the backing file.
    pub fn close(self) -> Result<(), LoopError> {
        // A detached device's cache is not written back: what has been written must be in the file before.
        self.flush()?;
        let Self { node, path, backing, backing_path, .. } = self;
        let ours = status(&node).map_err(|source| io_error("read the status of", &path, source))?;
        if let Some(ours) = ours {
            let watch = Watch::new(&backing);
            match ioctl::clear(&node) {
                // Somebody else detached it.
                Ok(()) | Err(Errno::NXIO) => {}
                Err(error) => return Err(io_error("detach", &path, error.into())),
            }
            drop(node);
            wait_until_detached(&path, &ours, &watch)?;
        }
        backing.sync_all().map_err(|source| io_error("sync", &backing_path, source))
    }
}

/// The name of a loop device.
fn name(number: u32) -> String {
    format!("loop{number}")
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> LoopError {
    LoopError::Io { action, path: path.to_owned(), source }
}

/// The device that hands out loop devices.
struct Control {
    file: File,
    path: PathBuf,
}

impl Control {
    fn open(nodes: &Path) -> Result<Self, LoopError> {
        let path = Path::new("/dev/loop-control").to_owned();
        let unavailable = |source: io::Error| LoopError::Unavailable { path: path.clone(), source };
        let file = match open_device(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Others may be doing the same in the same directory.
                let own = nodes.join(format!(".loop-control-{}", rustix::thread::gettid().as_raw_nonzero()));
                let made =
                    MadeNode::new(own, FileType::CharacterDevice, LOOP_CONTROL).map_err(unavailable)?;
                open_device(&made.path)
            }
            result => result,
        };
        Ok(Self { file: file.map_err(unavailable)?, path })
    }

    fn free_number(&self) -> Result<u32, LoopError> {
        ioctl::free_number(&self.file)
            .map_err(|source| io_error("get a loop device from", &self.path, source))
    }
}

#[derive(PartialEq, Eq)]
enum Outcome {
    Attached,
    Taken,
}

fn configure(node: &File, backing: &File, options: &LoopOptions, path: &Path) -> Result<Outcome, LoopError> {
    if options.lock {
        match flock(node, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Outcome::Taken),
            Err(error) => return Err(io_error("lock", path, error.into())),
        }
    }
    match ioctl::configure(node, backing, options) {
        Ok(()) => Ok(Outcome::Attached),
        // Attached or claimed by another program, or still full of its previous user's pages.
        Err(Errno::BUSY | Errno::AGAIN) => Ok(Outcome::Taken),
        Err(error @ (Errno::INVAL | Errno::NOTTY)) => Err(LoopError::Refused {
            block_size: options.block_size,
            offset: options.offset,
            size_limit: options.size_limit,
            source: error.into(),
        }),
        Err(error) => Err(io_error("attach a file to", path, error.into())),
    }
}

fn status(node: &File) -> io::Result<Option<LoopStatus>> {
    match ioctl::status(node) {
        Ok(status) => Ok(Some(status)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn wait_until_detached(path: &Path, ours: &LoopStatus, watch: &Watch) -> Result<(), LoopError> {
    let limit = Instant::now() + DETACH_LIMIT;
    loop {
        // Opening and closing it again also makes the kernel detach it, should it have missed the last close.
        let attached = match open_device(path) {
            Ok(node) => status(&node).map_err(|source| io_error("read the status of", path, source))?,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV | libc::ENOENT)) => {
                None
            }
            Err(source) => return Err(io_error("open", path, source)),
        };
        match attached {
            Some(now)
                if now.backing == ours.backing
                    && now.offset == ours.offset
                    && now.size_limit == ours.size_limit => {}
            _ => return Ok(()),
        }
        if Instant::now() > limit {
            return Err(LoopError::Busy {
                path: path.to_owned(),
                limit: DETACH_LIMIT,
                holders: crate::holders::of_device_node(path),
            });
        }
        watch.wait();
    }
}

fn holders_text(holders: &[String]) -> String {
    match holders {
        [] => String::new(),
        holders => format!(" by {}", holders.join(", ")),
    }
}

fn partitions(sys_block: &Path, device: &str) -> Vec<(String, u32, u32)> {
    let Ok(entries) = fs::read_dir(sys_block.join(device)) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let number: u32 = name.strip_prefix(device)?.strip_prefix('p')?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("dev")).ok()?;
            let (major, minor) = text.trim().split_once(':')?;
            Some((number, (name, major.parse().ok()?, minor.parse().ok()?)))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, partition)| partition).collect()
}
