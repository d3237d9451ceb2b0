//! Reading what a definition says of its disk: `customizations.disk`, and `customizations.filesystem`, which is the
//! older way to ask for file systems.
//!
//! After [`complete`] there is always a file system for `/`: it is added where the definition names none, to the
//! volume group or the btrfs if there is one.

use std::collections::BTreeSet;

use super::kiln::{FileSystem, Settings, choice};
use super::node::{Placed, Span};
use super::partition_table::{Entry, PartitionTable};
use super::report::Report;
use super::size;
use super::table::Table;

/// A partition that a definition asks for.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    pub(crate) content: Content,
    /// The least size in bytes.
    pub(crate) least: Option<u64>,
    pub(crate) entry: Entry,
}

/// What a partition has.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A file system or swap space.
    Plain(Space),
    /// A btrfs whose subvolumes are mounted.
    Btrfs(Vec<Subvolume>),
    /// A volume group of LVM.
    Group { name: String, volumes: Vec<Volume> },
}

/// A file system or swap space.
#[derive(Clone, Debug)]
pub(crate) enum Space {
    FileSystem { mountpoint: String, kind: FileSystem, label: Option<String> },
    Swap { label: Option<String> },
}

/// A subvolume and where it is mounted.
#[derive(Clone, Debug)]
pub(crate) struct Subvolume {
    pub(crate) name: String,
    pub(crate) mountpoint: String,
}

/// A logical volume.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) name: String,
    /// The least size in bytes; the root's may take what is left.
    pub(crate) least: Option<u64>,
    pub(crate) space: Space,
}

impl Space {
    fn mountpoint(&self) -> Option<&str> {
        match self {
            Self::FileSystem { mountpoint, .. } => Some(mountpoint),
            Self::Swap { .. } => None,
        }
    }
}

impl Content {
    /// Where its file systems are mounted.
    pub(crate) fn mountpoints(&self) -> Vec<&str> {
        match self {
            Self::Plain(space) => space.mountpoint().into_iter().collect(),
            Self::Btrfs(subvolumes) => {
                subvolumes.iter().map(|subvolume| subvolume.mountpoint.as_str()).collect()
            }
            Self::Group { volumes, .. } => {
                volumes.iter().filter_map(|volume| volume.space.mountpoint()).collect()
            }
        }
    }
}

impl Partition {
    fn has_root(&self) -> bool {
        self.content.mountpoints().contains(&"/")
    }
}

/// The disk as it is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) table: Option<Placed<PartitionTable>>,
    /// The least size of the disk.
    pub(crate) size: Option<Placed<u64>>,
    /// The type of the root file system.
    pub(crate) root: Option<Placed<FileSystem>>,
    partitions: Vec<Placed<Written>>,
    mountpoints: Vec<Placed<String>>,
}

/// A partition whose file systems may not have said their type.
#[derive(Clone, Debug)]
struct Written {
    content: WrittenContent,
    least: Option<u64>,
    entry: Entry,
}

#[derive(Clone, Debug)]
enum WrittenContent {
    Plain(WrittenSpace),
    Btrfs(Vec<Subvolume>),
    Group { name: String, volumes: Vec<Placed<WrittenVolume>> },
}

#[derive(Clone, Debug)]
struct WrittenVolume {
    name: String,
    least: Option<u64>,
    space: WrittenSpace,
}

#[derive(Clone, Debug)]
enum WrittenSpace {
    FileSystem { mountpoint: Placed<String>, kind: Option<FileSystem>, label: Option<Placed<String>> },
    Swap { label: Option<String> },
}

/// What `fs_type` may be.
const TYPES: [(&str, Option<FileSystem>); 4] = [
    ("ext4", Some(FileSystem::Ext4)),
    ("xfs", Some(FileSystem::Xfs)),
    ("btrfs", Some(FileSystem::Btrfs)),
    ("swap", None),
];

/// What is needed before other file systems are mounted, or is mounted by the system itself; also all below it.
const ON_ROOT: [&str; 12] = [
    "/bin",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/lost+found",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
];

/// Links of `/var` to `/run`.
const LINKS: [&str; 2] = ["/var/lock", "/var/run"];

const GROUP: &str = "rootvg";
/// What a `dos` table has room for; there are no extended partitions here.
const DOS_PARTITIONS: usize = 4;

impl Disk {
    /// Reads `customizations.disk`.
    pub(super) fn read(&mut self, mut table: Table<'_>, report: &mut Report) {
        if let Some(kind) = table.string("type", report).filter(|kind| !kind.value.is_empty()) {
            let value = choice(&kind, "partition table", &PartitionTable::ALL, report);
            self.table = value.map(|value| Placed { value, span: kind.span });
        }
        self.size = size::size(&mut table, "minsize", report);
        let mut uuids = Vec::new();
        for partition in table.tables("partitions", report) {
            self.partition(partition, &mut uuids, report);
        }
        table.finish(
            &[("start_offset", "remove it"), ("sector_size", "remove it: sectors have 512 bytes")],
            report,
        );
        self.count(report);
    }

    /// Reads a table of `customizations.filesystem`: each is a partition.
    pub(super) fn read_filesystem(&mut self, mut table: Table<'_>, report: &mut Report) {
        let span = table.span();
        let mountpoint = table.required("mountpoint", report);
        let least = size::size(&mut table, "minsize", report);
        let old = size::size(&mut table, "size", report);
        table.finish(&[], report);
        let Some(mountpoint) = mountpoint else { return };
        let space = WrittenSpace::FileSystem { mountpoint: mountpoint.clone(), kind: None, label: None };
        let least = least.or(old).map(|size| size.value);
        self.mountpoint(&mountpoint, report);
        sized("customizations.filesystem", &span, &space, least, report);
        let written = Written { content: WrittenContent::Plain(space), least, entry: Entry::default() };
        self.partitions.push(Placed { value: written, span });
    }

    /// The kind of its partition table.
    pub(crate) fn kind(&self) -> PartitionTable {
        self.table.as_ref().map_or(PartitionTable::Gpt, |table| table.value)
    }

    fn partition(&mut self, mut table: Table<'_>, uuids: &mut Vec<String>, report: &mut Report) {
        let span = table.span();
        let kind = table.string("type", report);
        let least = size::size(&mut table, "minsize", report).map(|size| size.value);
        let entry = Entry::read(self.kind(), &mut table, uuids, report);
        let content = match kind.as_ref().map_or("plain", |kind| kind.value.as_str()) {
            "plain" => {
                let space = self.space(&mut table, report);
                if let Some(space) = &space {
                    sized("customizations.disk.partitions", &span, space, least, report);
                }
                space.map(WrittenContent::Plain)
            }
            "btrfs" => Some(WrittenContent::Btrfs(self.subvolumes(&mut table, kind.as_ref(), report))),
            "lvm" => Some(self.group(&mut table, report)),
            other => {
                let message = format!("unknown partition type `{other}`");
                let span = kind.as_ref().map_or(span.clone(), |kind| kind.span.clone());
                report.add(span, message, Some("there are `plain`, `lvm`, `btrfs`".to_owned()));
                // What else it says cannot be judged.
                return;
            }
        };
        table.finish(&[], report);
        if let Some(content) = content {
            self.partitions.push(Placed { value: Written { content, least, entry }, span });
        }
    }

    /// The file system or swap space of a plain partition or a logical volume.
    fn space(&mut self, table: &mut Table<'_>, report: &mut Report) -> Option<WrittenSpace> {
        let kind = table.string("fs_type", report);
        let label = table.string("label", report).filter(|label| !label.value.is_empty());
        let found = match &kind {
            Some(kind) if kind.value == "vfat" => {
                let hint =
                    "leave the partition out: `boot` of the table `[kiln]` has the EFI system partition";
                report.add(kind.span.clone(), "`vfat` is not supported here", Some(hint.to_owned()));
                table.string("mountpoint", report);
                return None;
            }
            Some(kind) => Some(choice(kind, "file system", &TYPES, report)),
            None => None,
        };
        if let Some(Some(None)) = found {
            if let Some(mountpoint) = table.string("mountpoint", report)
                && !mountpoint.value.is_empty()
            {
                report.add(mountpoint.span, "swap space is not mounted", Some("remove it".to_owned()));
            }
            fits(label.as_ref(), "swap space", 15, report);
            return Some(WrittenSpace::Swap { label: label.map(|label| label.value) });
        }
        let mountpoint = table.required("mountpoint", report)?;
        self.mountpoint(&mountpoint, report);
        let kind_of = found.flatten().flatten();
        if mountpoint.value == "/"
            && let (Some(value), Some(kind)) = (kind_of, kind)
        {
            self.root = Some(Placed { value, span: kind.span });
        }
        Some(WrittenSpace::FileSystem { mountpoint, kind: kind_of, label })
    }

    fn subvolumes(
        &mut self,
        table: &mut Table<'_>,
        kind: Option<&Placed<String>>,
        report: &mut Report,
    ) -> Vec<Subvolume> {
        let tables = table.tables("subvolumes", report);
        if tables.is_empty() {
            let hint =
                "add `[[customizations.disk.partitions.subvolumes]]`, or use the type `plain`".to_owned();
            report.add(table.span(), "a partition of type `btrfs` needs subvolumes", Some(hint));
        }
        let mut subvolumes = Vec::new();
        let mut names = BTreeSet::new();
        for mut table in tables {
            let name = table.required("name", report);
            let mountpoint = table.required("mountpoint", report);
            table.finish(&[], report);
            if let Some(mountpoint) = &mountpoint {
                self.mountpoint(mountpoint, report);
            }
            let (Some(name), Some(mountpoint)) = (name, mountpoint) else { continue };
            let bare = name.value.trim_start_matches('/').to_owned();
            let bad = |part: &str| matches!(part, "" | "." | "..");
            if bare.split('/').any(bad) || bare.contains(|c: char| c == ',' || c.is_whitespace()) {
                let message = format!("`{}` is not a name of a subvolume", name.value);
                let hint = "write a path without `.`, `..`, commas and blanks".to_owned();
                report.add(name.span.clone(), message, Some(hint));
            } else if !names.insert(bare.clone()) {
                report.add(name.span.clone(), format!("the subvolume `{bare}` is given twice"), None);
            }
            if mountpoint.value == "/" {
                let span = kind.map_or(name.span, |kind| kind.span.clone());
                self.root = Some(Placed { value: FileSystem::Btrfs, span });
            }
            subvolumes.push(Subvolume { name: bare, mountpoint: mountpoint.value });
        }
        subvolumes
    }

    fn group(&mut self, table: &mut Table<'_>, report: &mut Report) -> WrittenContent {
        let name = table.string("name", report).filter(|name| !name.value.is_empty());
        if let Some(name) = &name {
            volume_name(name, "volume group", report);
        }
        let tables = table.tables("logical_volumes", report);
        if tables.is_empty() {
            let hint = "add `[[customizations.disk.partitions.logical_volumes]]`".to_owned();
            report.add(table.span(), "a partition of type `lvm` needs logical volumes", Some(hint));
        }
        let mut names = BTreeSet::new();
        let mut volumes = Vec::new();
        for mut table in tables {
            let span = table.span();
            let name = table.string("name", report).filter(|name| !name.value.is_empty());
            let least = size::size(&mut table, "minsize", report).map(|size| size.value);
            let space = self.space(&mut table, report);
            table.finish(&[], report);
            if let Some(name) = &name {
                volume_name(name, "logical volume", report);
            }
            let Some(space) = space else { continue };
            sized("customizations.disk.partitions.logical_volumes", &span, &space, least, report);
            if let WrittenSpace::FileSystem { mountpoint, .. } = &space
                && mountpoint.value == "/boot"
            {
                let hint = "give it a partition of type `plain`, or leave it out: Kiln makes one".to_owned();
                report.add(
                    mountpoint.span.clone(),
                    "the boot loader does not find `/boot` in a volume group",
                    Some(hint),
                );
            }
            let place = name.as_ref().map_or(span.clone(), |name| name.span.clone());
            let name = name.map_or_else(|| default_name(&space), |name| name.value);
            if !names.insert(name.clone()) {
                report.add(place, format!("the logical volume `{name}` is given twice"), None);
            }
            volumes.push(Placed { value: WrittenVolume { name, least, space }, span });
        }
        WrittenContent::Group { name: name.map_or_else(|| GROUP.to_owned(), |name| name.value), volumes }
    }

    /// Checks where a file system is mounted.
    fn mountpoint(&mut self, mountpoint: &Placed<String>, report: &mut Report) {
        let path = mountpoint.value.as_str();
        let span = || mountpoint.span.clone();
        let below =
            |top: &str| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if path != "/" {
            let before = report.len();
            super::rules::path(mountpoint, report);
            if report.len() > before {
                return;
            }
            if path.contains(char::is_whitespace) {
                let message = format!("`{path}` cannot be mounted on: it has blanks");
                report.add(span(), message, None);
            }
        }
        if below("/boot/efi") {
            let hint = "leave it out: `boot` of the table `[kiln]` has the EFI system partition".to_owned();
            report.add(span(), "`/boot/efi` is Kiln's own", Some(hint));
        } else if ON_ROOT.iter().any(|top| below(top))
            || (below("/usr") && !["/usr", "/usr/local"].contains(&path))
        {
            let message = format!("`{path}` must be on the root file system");
            report.add(span(), message, Some("leave it out".to_owned()));
        } else if LINKS.iter().any(|top| below(top)) || below("/boot/grub") {
            report.add(
                span(),
                format!("`{path}` cannot be a file system of its own"),
                Some("leave it out".to_owned()),
            );
        }
        if self.mountpoints.iter().any(|other| other.value == path) {
            let message = format!("`{path}` is given twice");
            report.add(span(), message, Some("one file system is mounted at a place".to_owned()));
        }
        self.mountpoints.push(mountpoint.clone());
    }

    /// Refuses what cannot be told apart, as the blueprint format does.
    fn count(&self, report: &mut Report) {
        let mut first: Option<&str> = None;
        for partition in &self.partitions {
            let kind = match partition.value.content {
                WrittenContent::Plain(_) => continue,
                WrittenContent::Btrfs(_) => "btrfs",
                WrittenContent::Group { .. } => "lvm",
            };
            let message = match first {
                None => {
                    first = Some(kind);
                    continue;
                }
                Some(other) if other == kind => {
                    format!("a second partition of type `{kind}` is not supported")
                }
                Some(other) => format!("partitions of type `{kind}` and `{other}` cannot be combined"),
            };
            report.add(partition.span.clone(), message, Some("use `plain` partitions beside it".to_owned()));
        }
    }
}

/// The partitions of a definition whose settings are known, `/` among them.
pub(super) fn complete(disk: &Disk, settings: &Settings, report: &mut Report) -> Vec<Partition> {
    let kind = settings.root;
    let encrypted = settings.encryption.is_some();
    let mut partitions: Vec<Partition> = Vec::new();
    for Placed { value: written, span } in &disk.partitions {
        let content = match &written.content {
            WrittenContent::Plain(space) => Content::Plain(space.complete(kind, written.least, span, report)),
            WrittenContent::Btrfs(subvolumes) => Content::Btrfs(subvolumes.clone()),
            WrittenContent::Group { name, volumes } => {
                let volumes = volumes.iter().map(|volume| Volume {
                    name: volume.value.name.clone(),
                    least: volume.value.least,
                    space: volume.value.space.complete(kind, volume.value.least, &volume.span, report),
                });
                Content::Group { name: name.clone(), volumes: volumes.collect() }
            }
        };
        if encrypted && matches!(content, Content::Plain(Space::Swap { .. })) {
            let hint = "make it a logical volume beside `/`, in a partition of type `lvm`".to_owned();
            report.add(span.clone(), "swap space beside an encrypted partition is not encrypted", Some(hint));
        }
        partitions.push(Partition { content, least: written.least, entry: written.entry.clone() });
    }
    if !partitions.iter().any(Partition::has_root) {
        add_root(&mut partitions, kind);
    }
    if encrypted
        && !settings.kernels_on_esp()
        && let Some(boot) = disk.mountpoints.iter().find(|mountpoint| mountpoint.value == "/boot")
        && partitions
            .iter()
            .any(|partition| partition.has_root() && partition.content.mountpoints().contains(&"/boot"))
    {
        let hint = "give it a partition of type `plain`, or leave it out: Kiln makes one".to_owned();
        report.add(
            boot.span.clone(),
            "the boot loader does not find `/boot` in an encrypted partition",
            Some(hint),
        );
    }
    check_table(disk, settings, &partitions, report);
    partitions
}

/// Whether GRUB could not read the partition of `/`, and nothing else has the kernels: there is one more for `/boot`.
pub(crate) fn needs_boot(partitions: &[Partition], settings: &Settings) -> bool {
    let has = |partition: &Partition, place| partition.content.mountpoints().contains(&place);
    let group = |partition: &Partition| matches!(partition.content, Content::Group { .. });
    let hidden = settings.encryption.is_some()
        || partitions.iter().any(|partition| group(partition) && partition.has_root());
    !settings.kernels_on_esp() && hidden && !partitions.iter().any(|partition| has(partition, "/boot"))
}

/// Holds that the disk can have a `dos` table.
fn check_table(disk: &Disk, settings: &Settings, partitions: &[Partition], report: &mut Report) {
    let Some(table) = disk.table.as_ref().filter(|table| table.value == PartitionTable::Dos) else { return };
    if settings.boot.has_uefi() {
        let hint = "use `gpt`, or `boot = \"bios\"` of the table `[kiln]`".to_owned();
        report.add(table.span.clone(), "only BIOS starts a disk with a `dos` table", Some(hint));
    }
    let boot = usize::from(needs_boot(partitions, settings));
    let count = partitions.len() + boot + usize::from(settings.swap_size.is_some());
    if count > DOS_PARTITIONS {
        let message =
            format!("a `dos` table has room for {DOS_PARTITIONS} partitions, and this disk has {count}");
        report.add(table.span.clone(), message, Some("use `gpt`".to_owned()));
    }
}

/// Adds `/` as the format does: to the volume group or the btrfs, or as a partition.
fn add_root(partitions: &mut Vec<Partition>, kind: FileSystem) {
    let mountpoint = "/".to_owned();
    for partition in partitions.iter_mut() {
        match &mut partition.content {
            Content::Plain(_) => {}
            Content::Btrfs(subvolumes) => {
                let taken = |name: &str| subvolumes.iter().any(|subvolume| subvolume.name == name);
                let name = if taken("root") { "rootfs" } else { "root" };
                subvolumes.insert(0, Subvolume { name: name.to_owned(), mountpoint });
                return;
            }
            Content::Group { volumes, .. } => {
                let taken = |name: &str| volumes.iter().any(|volume| volume.name == name);
                let name = if taken("rootlv") { "rootfs" } else { "rootlv" };
                let space = Space::FileSystem { mountpoint, kind, label: None };
                volumes.push(Volume { name: name.to_owned(), least: None, space });
                return;
            }
        }
    }
    let space = Space::FileSystem { mountpoint, kind, label: None };
    partitions.push(Partition { content: Content::Plain(space), least: None, entry: Entry::default() });
}

impl WrittenSpace {
    fn complete(&self, usual: FileSystem, least: Option<u64>, span: &Span, report: &mut Report) -> Space {
        match self {
            Self::FileSystem { mountpoint, kind, label } => {
                let kind = if mountpoint.value == "/" { usual } else { kind.unwrap_or(usual) };
                fits(label.as_ref(), kind.name(), kind.longest_label(), report);
                if least.is_some_and(|least| least < kind.smallest()) {
                    let mebibytes = kind.smallest() >> 20;
                    let message =
                        format!("a file system of type {} needs at least {mebibytes} MiB", kind.name());
                    let hint = "make it larger, or use another `fs_type`".to_owned();
                    report.add(span.clone(), message, Some(hint));
                }
                Space::FileSystem {
                    mountpoint: mountpoint.value.clone(),
                    kind,
                    label: label.as_ref().map(|label| label.value.clone()),
                }
            }
            Self::Swap { label } => Space::Swap { label: label.clone() },
        }
    }
}

/// What is not the root's must say its size: nothing else does.
fn sized(path: &str, span: &Span, space: &WrittenSpace, least: Option<u64>, report: &mut Report) {
    let root = matches!(space, WrittenSpace::FileSystem { mountpoint, .. } if mountpoint.value == "/");
    if least.is_none() && !root {
        let hint = "say how large it is; only the file system for `/` takes what is left".to_owned();
        report.add(span.clone(), format!("`{path}` has no `minsize`"), Some(hint));
    }
}

fn fits(label: Option<&Placed<String>>, what: &str, longest: usize, report: &mut Report) {
    if let Some(label) = label
        && label.value.len() > longest
    {
        let message = format!("the label `{}` is too long for {what}", label.value);
        report.add(label.span.clone(), message, Some(format!("use at most {longest} bytes")));
    }
}

/// What LVM takes for a name (`lvm(8)`), words that it keeps for itself excepted.
fn volume_name(name: &Placed<String>, what: &str, report: &mut Report) {
    let text = name.value.as_str();
    let good = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    let bad = text.starts_with('-') || matches!(text, "." | "..") || !text.chars().all(good);
    let kept = ["snapshot", "pvmove"].iter().any(|word| text.starts_with(word));
    if bad || kept || text.len() > 50 {
        let hint = "a name has letters, digits, `+`, `_`, `.` and `-`, and at most 50 characters".to_owned();
        report.add(name.span.clone(), format!("`{text}` is not a name of a {what}"), Some(hint));
    }
}

/// The name of a volume that has none: by where it is mounted.
fn default_name(space: &WrittenSpace) -> String {
    match space {
        WrittenSpace::Swap { .. } => "swaplv".to_owned(),
        WrittenSpace::FileSystem { mountpoint, .. } if mountpoint.value == "/" => "rootlv".to_owned(),
        WrittenSpace::FileSystem { mountpoint, .. } => {
            let name: String = mountpoint
                .value
                .trim_start_matches('/')
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '_' })
                .collect();
            format!("{name}lv")
        }
    }
}
