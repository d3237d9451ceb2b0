//! Mappings: block devices of the kernel's device mapper.
//!
//! A mapping is made by a request to the kernel, or by a tool of the host (`cryptsetup`), which sees the build root's `/dev`
//! as its own: the nodes that it makes are there and nowhere else, and it finds the devices of this stage only. The tool is
//! told not to wait for udev (`DM_DISABLE_UDEV`), which in a container it would do for ever.
//!
//! As soon as a mapping is there, it is opened and marked to be removed: the kernel removes it when the last descriptor is
//! closed, as it detaches a loop device with `LO_FLAGS_AUTOCLEAR`. A Kiln that is killed leaves no mapping behind, and
//! closing one is closing its descriptor and waiting for the kernel. Until a mapping has that mark, another process guards
//! it (`kiln_sys::device_mapper`), which gives it to all that stands on the device below if Kiln is killed. Only where that process is
//! killed as well (with a whole control group) something stays. It is found by the file that keeps udev away from the
//! mapping, and removed when the next one is made: if it still stands on loop devices that go away by themselves, and so is
//! nobody else's.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_api::ModuleError;
use kiln_sys::command::{CommandError, Run};
use kiln_sys::device_mapper::{Control, Guard, LONGEST_NAME, Target};
use kiln_sys::holders;
use kiln_sys::udev_inhibitor::{self, UdevInhibitor};
use rustix::fs::{major, minor};

use super::nodes::Nodes;
use crate::host;

/// How long others may keep a mapping open that is to be removed: udev needs a moment to look at it.
const REMOVE_LIMIT: Duration = Duration::from_secs(30);
/// The pauses between two looks at a mapping that is being removed: the kernel does it in a moment, and has no event for
/// it that a program without udev could wait for.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

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
    pub(super) mapper: Box<dyn Mapper>,
    /// Lists block devices: `/sys/block`.
    pub(super) block: PathBuf,
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
            mapper: Box::new(DeviceMapper),
            block: "/sys/block".into(),
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
        self.mapper.remove(dev, &names)
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

/// The kernel's device mapper, or what stands in for it in tests.
pub(super) trait Mapper: Send {
    /// Holds that there is one, and starts a process that removes what is mapped on a device, by this name and any
    /// others, if Kiln is killed.
    fn guard(&self, dev: &Path, below: &Path, name: &str) -> Result<Option<Guard>, ModuleError>;

    /// Makes a mapping.
    fn make(&self, dev: &Path, name: &str, table: &Table<'_>) -> Result<(), ModuleError>;

    /// Has the kernel remove mappings when nobody has them open any more.
    fn remove(&self, dev: &Path, names: &[&str]) -> Result<(), ModuleError>;
}

/// The real one.
struct DeviceMapper;

impl DeviceMapper {
    fn control(&self, dev: &Path) -> Result<Control, ModuleError> {
        Control::open(dev).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                ModuleError::io("open", Path::new("/dev/mapper/control"))(error)
            }
            _ => no_device_mapper(),
        })
    }
}

pub(super) fn no_device_mapper() -> ModuleError {
    ModuleError::invalid(NO_DEVICE_MAPPER)
}

impl Mapper for DeviceMapper {
    fn guard(&self, dev: &Path, below: &Path, name: &str) -> Result<Option<Guard>, ModuleError> {
        let control = self.control(dev)?;
        let device = File::open(below).map_err(ModuleError::io("open", below))?;
        Guard::new(&control, &device, name)
            .map(Some)
            .map_err(ModuleError::io("guard what is mapped on", below))
    }

    fn make(&self, dev: &Path, name: &str, table: &Table<'_>) -> Result<(), ModuleError> {
        let control = self.control(dev)?;
        let failed = |source| ModuleError::Io { action: "make the mapping", path: name.into(), source };
        control.create(name, table.id).map_err(failed)?;
        control.load(name, &table.targets, table.read_only).map_err(|error| {
            // Best effort: the error is the one to be told.
            let _ = control.remove(name);
            failed(error)
        })
    }

    fn remove(&self, dev: &Path, names: &[&str]) -> Result<(), ModuleError> {
        let control = self.control(dev)?;
        names.iter().try_for_each(|name| {
            control.remove(name).map_err(ModuleError::io("remove the mapping", Path::new(name)))
        })
    }
}

/// Removes what tools have left on a loop device when they were killed: `cryptsetup` maps things for a moment.
pub(super) fn remove_all_on(dev: &Path, (major, minor): (u32, u32)) {
    let left = fs::read_dir(format!("/sys/dev/block/{major}:{minor}/holders"));
    if left.is_ok_and(|mut left| left.next().is_some())
        && let Ok(control) = Control::open(dev)
    {
        control.remove_all_on(rustix::fs::makedev(major, minor));
    }
}

/// What a mapping is.
pub(super) struct Table<'a> {
    /// What tools know it by, beside its name.
    pub(super) id: Option<&'a str>,
    /// Its parts.
    pub(super) targets: Vec<Target>,
    /// Whether it refuses writes.
    pub(super) read_only: bool,
}

/// A mapping to be made.
pub(super) struct Plan<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// The build root's `/dev`.
    pub(super) dev: &'a Path,
    /// The node of the device that it is to stand on.
    pub(super) below: &'a Path,
    /// Makes it.
    pub(super) make: Make<'a>,
}

/// What makes a mapping.
pub(super) enum Make<'a> {
    /// A tool.
    Tool(Box<Run>),
    /// The kernel.
    Table(&'a Table<'a>),
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
        let Plan { name, dev, below, make } = plan;
        if name.len() > LONGEST_NAME {
            return Err(ModuleError::invalid(format!("`{name}` is too long to be a mapping's name")));
        }
        // Until the kernel knows that the mapping is to go.
        let guard = host.mapper.guard(dev, below, name)?;
        host.remove_stale(dev);
        let inhibitor =
            UdevInhibitor::for_mapping(&host.locks, name).map_err(|error| host::invalid(&error))?;
        match make {
            Make::Table(table) => host.mapper.make(dev, name, table)?,
            Make::Tool(run) => {
                let run = *run;
                let run = match &guard {
                    Some(guard) => run.holding(guard.lifeline()).map_err(ModuleError::io("open", below))?,
                    None => run,
                };
                let made = run.output().map_err(tool_error);
                // The build root's programs make their own, if they may. Best effort: it is in nobody's way.
                let _ = fs::remove_file(dev.join("mapper/control"));
                made?;
            }
        }
        let mut nodes = Nodes::new();
        match hold(&host, name, dev, &mut nodes) {
            Ok((number, held)) => Ok(Self { nodes, held, inhibitor, name: name.to_owned(), number, host }),
            Err(error) => {
                // Best effort: the error is the one to be told. Nobody else can have a mapping of this name.
                let _ = host.defer(name, dev);
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
    Ok(((major, minor), held))
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
    ModuleError::invalid(format!(
        "this machine has no `{}`, which the device needs: install Debian's `cryptsetup-bin` or Fedora's `cryptsetup`",
        error.program
    ))
}
