//! Mappings: block devices of the kernel's device mapper.
//!
//! A mapping is made by a tool of the host (`cryptsetup`, `dmsetup`), which sees the build root's `/dev` as its own: the
//! nodes that it makes are there and nowhere else, and it finds the devices of this stage only. The tools are told not
//! to wait for udev (`DM_DISABLE_UDEV`), which in a container they would do for ever.
//!
//! As soon as a mapping is there, it is opened and marked to be removed: the kernel removes it when the last descriptor is
//! closed, as it detaches a loop device with `LO_FLAGS_AUTOCLEAR`. A Kiln that is killed leaves no mapping behind, and
//! closing one is closing its descriptor and waiting for the kernel. What a Kiln leaves that is killed between
//! making a mapping and marking it is found by the file that keeps udev away from it, and removed when the next mapping is
//! made: if it still stands on loop devices that go away by themselves, and so is nobody else's.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_api::ModuleError;
use kiln_sys::command::{CommandError, Run};
use kiln_sys::holders;
use kiln_sys::udev_inhibitor::{self, UdevInhibitor};
use rustix::fs::{FileType, Mode, major, makedev, minor, mknodat};

use super::nodes::Nodes;
use crate::host;

/// The longest name of a mapping.
const LONGEST_NAME: usize = 127;
/// How long others may keep a mapping open that is to be removed: udev needs a moment to look at it.
const REMOVE_LIMIT: Duration = Duration::from_secs(30);
/// The pauses between two looks at a mapping that is being removed: the kernel does it in a moment, and has no event for
/// it that a program without udev could wait for.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// The device that programs make mappings by: major and minor number. Opening it loads the kernel's module.
const CONTROL: (u32, u32) = (10, 236);

/// What is said where there is none.
pub(crate) const NO_DEVICE_MAPPER: &str = "the kernel has no device mapper: load its module (`modprobe dm_mod`), or run \
     the pipeline in a guest, whose kernel has one (`--in-vm PIPELINE`)";

/// Whether the list of what the kernel has loaded, `/proc/misc`, has the device mapper.
pub(crate) fn has_device_mapper(misc: &Path) -> bool {
    let text = fs::read_to_string(misc).unwrap_or_default();
    text.lines().any(|line| line.split_whitespace().nth(1) == Some("device-mapper"))
}

/// Where things are on the host.
pub(super) struct Host {
    pub(super) cryptsetup: PathBuf,
    pub(super) dmsetup: PathBuf,
    /// Lists block devices: `/sys/block`.
    pub(super) block: PathBuf,
    /// Lists what the kernel has loaded: `/proc/misc`.
    pub(super) misc: PathBuf,
    /// Where udev looks for what it must not look at.
    pub(super) locks: PathBuf,
    /// How long others may keep a mapping open.
    pub(super) limit: Duration,
}

impl Host {
    /// The real one.
    pub(super) fn new() -> Self {
        Self {
            cryptsetup: "cryptsetup".into(),
            dmsetup: "dmsetup".into(),
            block: "/sys/block".into(),
            misc: "/proc/misc".into(),
            locks: udev_inhibitor::LOCK_DIRECTORY.into(),
            limit: REMOVE_LIMIT,
        }
    }

    /// Whether a mapping of this name, or of this id unless it is empty, is there.
    pub(super) fn is_taken(&self, name: &str, id: &str) -> bool {
        self.mappings().iter().any(|mapping| mapping.name == name || (!id.is_empty() && mapping.id == id))
    }

    fn mappings(&self) -> Vec<Seen> {
        let Ok(entries) = fs::read_dir(&self.block) else { return Vec::new() };
        entries.flatten().filter_map(|entry| Seen::new(&entry.path())).collect()
    }

    /// Holds that the kernel has a device mapper, and loads it if it can be loaded.
    fn check_kernel(&self, dev: &Path) -> Result<(), ModuleError> {
        let loaded = || has_device_mapper(&self.misc);
        if loaded() {
            return Ok(());
        }
        let node = dev.join(format!(".mapper-control-{}", rustix::thread::gettid().as_raw_nonzero()));
        let number = makedev(CONTROL.0, CONTROL.1);
        let mode = Mode::RUSR | Mode::WUSR;
        if mknodat(rustix::fs::CWD, &node, FileType::CharacterDevice, mode, number).is_ok() {
            // That there is none is found out below.
            drop(File::open(&node));
            let _ = fs::remove_file(&node);
        }
        if loaded() {
            return Ok(());
        }
        Err(ModuleError::invalid(NO_DEVICE_MAPPER))
    }

    /// A tool that sees this directory as `/dev`.
    pub(super) fn tool(&self, program: &Path, dev: &Path) -> Result<Run, ModuleError> {
        let run = Run::new(program).env("DM_DISABLE_UDEV", "1").env("LC_ALL", "C.UTF-8");
        run.dev(dev).map_err(ModuleError::io("use as `/dev`", dev))
    }

    /// Removes what killed Kilns have left.
    fn remove_stale(&self, dev: &Path) {
        for inhibitor in udev_inhibitor::stale_mappings(&self.locks) {
            let Some(name) = inhibitor.mapping() else { continue };
            let mut left = self.mappings().into_iter().filter(|mapping| mapping.belongs_to(name));
            if left.any(|mapping| self.goes_away_by_itself(&mapping.path)) {
                // Best effort: what cannot be removed is in nobody's way, for names are random where they can be.
                let _ = self.defer(name, dev);
            }
        }
    }

    /// Has the kernel remove a mapping, and what `cryptsetup` has put under it, when nobody has it open any more.
    ///
    /// Not `cryptsetup close --deferred`: it waits for the lower one of two mappings, for which it has no such mark.
    fn defer(&self, name: &str, dev: &Path) -> Result<(), ModuleError> {
        let found = self.mappings();
        let mut names: Vec<_> = found
            .iter()
            .filter(|mapping| mapping.belongs_to(name))
            .map(|mapping| mapping.name.as_str())
            .collect();
        // The upper one first.
        names.sort_unstable();
        let run = self.tool(&self.dmsetup, dev)?.args(["remove", "--deferred"]).args(names);
        run.output().map(drop).map_err(tool_error)
    }

    /// Whether what a mapping stands on is loop devices that last as long as somebody has them open.
    fn goes_away_by_itself(&self, device: &Path) -> bool {
        let Ok(entries) = fs::read_dir(device.join("slaves")) else { return false };
        let mut slaves = entries.flatten().peekable();
        slaves.peek().is_some()
            && slaves.all(|slave| {
                let slave = self.block.join(slave.file_name());
                match fs::read_to_string(slave.join("loop/autoclear")) {
                    Ok(flag) => flag.trim() == "1",
                    Err(_) => slave.join("dm").exists() && self.goes_away_by_itself(&slave),
                }
            })
    }
}

/// A mapping that the kernel has.
struct Seen {
    path: PathBuf,
    name: String,
    id: String,
}

impl Seen {
    fn new(path: &Path) -> Option<Self> {
        let read = |name: &str| {
            fs::read_to_string(path.join("dm").join(name)).map(|text| text.trim_end().to_owned())
        };
        Some(Self { path: path.to_owned(), name: read("name").ok()?, id: read("uuid").unwrap_or_default() })
    }

    /// Whether this is the mapping of this name, or what `cryptsetup` puts under it to protect data from being changed.
    fn belongs_to(&self, name: &str) -> bool {
        self.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest == "_dif")
    }

    fn number(&self) -> Option<(u32, u32)> {
        let text = fs::read_to_string(self.path.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

/// A mapping to be made.
pub(super) struct Plan<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// The build root's `/dev`.
    pub(super) dev: &'a Path,
    /// Makes it.
    pub(super) make: Run,
}

/// An open mapping. Dropping it leaves its removal to the kernel; [`close`](Self::close) waits for it.
// Fields are dropped in this order: udev may look at it when the kernel has been told to remove it.
pub(super) struct Mapping {
    nodes: Nodes,
    held: File,
    inhibitor: UdevInhibitor,
    name: String,
    number: (u32, u32),
    host: Host,
}

impl Mapping {
    /// Makes a mapping and its node `mapper/NAME`.
    pub(super) fn make(host: Host, plan: Plan<'_>) -> Result<Self, ModuleError> {
        let Plan { name, dev, make } = plan;
        if name.len() > LONGEST_NAME {
            return Err(ModuleError::invalid(format!("`{name}` is too long to be a mapping's name")));
        }
        host.check_kernel(dev)?;
        host.remove_stale(dev);
        let inhibitor =
            UdevInhibitor::for_mapping(&host.locks, name).map_err(|error| host::invalid(&error))?;
        let made = make.output().map_err(tool_error);
        remove_control(dev);
        made?;
        let mut nodes = Nodes::new();
        match hold(&host, name, dev, &mut nodes) {
            Ok((number, held)) => Ok(Self { nodes, held, inhibitor, name: name.to_owned(), number, host }),
            Err(error) => {
                // Best effort: the error is the one to be told. Nobody else can have a mapping of this name.
                let _ = host.defer(name, dev);
                remove_control(dev);
                Err(error)
            }
        }
    }

    pub(super) fn number(&self) -> (u32, u32) {
        self.number
    }

    /// Makes another node of it.
    pub(super) fn add_node(&mut self, dev: &Path, name: &str) -> Result<(), ModuleError> {
        self.nodes.make(dev, name, self.number.0, self.number.1)
    }

    /// Writes what is cached, and waits until the kernel has removed the mapping.
    pub(super) fn close(self) -> Result<(), ModuleError> {
        let Self { nodes, held, inhibitor, name, host, .. } = self;
        let path = nodes.paths.first().cloned().unwrap_or_default();
        let synced = held.sync_all().map_err(ModuleError::io("sync", &path));
        drop(held);
        let begin = Instant::now();
        let mut pause = PAUSES.0;
        while host.mappings().iter().any(|mapping| mapping.belongs_to(&name)) {
            if begin.elapsed() > host.limit {
                let holders = match holders::of_device_node(&path) {
                    holders if holders.is_empty() => String::new(),
                    holders => format!(" by {}", holders.join(", ")),
                };
                let limit = host.limit.as_secs();
                return Err(ModuleError::invalid(format!(
                    "the mapping `{name}` is still in use after {limit} s{holders}"
                )));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
        drop(nodes);
        drop(inhibitor);
        synced
    }
}

/// Opens a mapping that has just been made, and has the kernel remove it when it is closed.
fn hold(host: &Host, name: &str, dev: &Path, nodes: &mut Nodes) -> Result<((u32, u32), File), ModuleError> {
    let found = host.mappings().into_iter().find(|mapping| mapping.name == name);
    let number = found.as_ref().and_then(Seen::number);
    let unknown = || ModuleError::invalid(format!("the kernel does not know the mapping `{name}`"));
    let (major, minor) = number.ok_or_else(unknown)?;
    let node = format!("mapper/{name}");
    nodes.make(dev, &node, major, minor)?;
    let path = dev.join(&node);
    let held = File::open(&path).map_err(ModuleError::io("open", &path))?;
    host.defer(name, dev)?;
    remove_control(dev);
    // A tool that removes a mapping removes its node at once, even if the mapping stays for a while.
    nodes.make(dev, &node, major, minor)?;
    Ok(((major, minor), held))
}

/// The tools make the node that they need to make mappings. The build root's programs make their own, if they may.
fn remove_control(dev: &Path) {
    // Best effort: it is in nobody's way.
    let _ = fs::remove_file(dev.join("mapper/control"));
}

/// The number of the block device that a node is, and whether it refuses writes.
pub(super) fn device(path: &Path) -> Result<((u32, u32), bool), ModuleError> {
    let info = fs::metadata(path).map_err(ModuleError::io("look at", path))?;
    if !info.file_type().is_block_device() {
        return Err(ModuleError::invalid(format!("`{}` is not a block device", path.display())));
    }
    let number = (major(info.rdev()), minor(info.rdev()));
    let flag = format!("/sys/dev/block/{}:{}", number.0, number.1);
    // A partition has the flag of its own; without sysfs, the tools find out.
    let read_only = fs::read_to_string(Path::new(&flag).join("ro")).is_ok_and(|flag| flag.trim() == "1");
    Ok((number, read_only))
}

/// The node of the device's parent.
pub(super) fn parent(dev: &Path, parent: Option<&str>, module: &str) -> Result<PathBuf, ModuleError> {
    let parent = parent.ok_or_else(|| {
        ModuleError::invalid(format!(
            "`{module}` needs a `parent`: the device that it stands on, as a loop device"
        ))
    })?;
    Ok(dev.join(parent))
}

fn tool_error(error: CommandError) -> ModuleError {
    if !error.is_not_found() {
        return error.into();
    }
    let packages = match error.program.rsplit('/').next() {
        Some("cryptsetup") => "Debian's `cryptsetup-bin` or Fedora's `cryptsetup`",
        _ => "Debian's `dmsetup` or Fedora's `device-mapper`",
    };
    ModuleError::invalid(format!(
        "this machine has no `{}`, which the device needs: install {packages}",
        error.program
    ))
}
