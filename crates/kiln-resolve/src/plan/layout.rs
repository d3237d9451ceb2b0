//! How the disk is divided, and what is mounted where: data that the other modules make stages and files of.
//!
//! ```text
//! sector 0       boot code, table or protective table
//!        1       GRUB's core                                (a `dos` table)
//!        2048    BIOS boot partition, 1 MiB: GRUB's core    (boot bios, hybrid)
//!                EFI system partition, 64 MiB, or 512 MiB   (boot uefi, hybrid; if it has the kernels)
//!                /boot, 512 MiB       (GRUB could not read that of `/`, and the definition has none)
//!                swap space                                 (swap-size)
//!                the definition's partitions, or one for `/`
//! ```
//!
//! All of them begin and end on a whole MiB; the last MiB is the backup table's. The partition that has `/` takes what is
//! left, wherever it stands. Its content may be encrypted.

use super::ids;
use crate::ResolveError;
use crate::apt::Record;
use crate::definition::{self, Content, Definition, Entry, FileSystem, PartitionTable, Space};
use crate::resolve::installed;

pub(super) const MIB: u64 = 1 << 20;
/// GRUB's core has some tens of kilobytes; a whole MiB keeps what follows aligned.
const BOOT_CODE: u64 = MIB;
/// Some kernels of distributions, with all their modules in their initial RAM disks.
const BOOT: u64 = 512 * MIB;
/// Where partitions begin, a multiple of every block size in use, and what the backup table has at the end.
const MARGIN: u64 = MIB;
/// A `dos` table has 32 bits for the number of a sector.
const DOS_SIZE: u64 = (1 << 32) * 512;
/// What a LUKS container has before its data, as `cryptsetup` makes it.
const LUKS_HEADER: u64 = 16 * MIB;
/// Where a physical volume's extents begin, and their size, both LVM's usual ones.
const EXTENTS_START: u64 = MIB;
const EXTENT: u64 = 4 * MIB;
/// The disk of an image that says nothing: enough for a minimal system with room to work in.
const LEAST: u64 = 2 << 30;
/// Less has no room for any system.
const SMALLEST_ROOT: u64 = 64 * MIB;
/// What is added to the packages' own size: initramfs, logs, caches, the file system's own structures.
const ROOM: u64 = 512 << 20;

/// The name of the encrypted device below `/dev/mapper`, and of its key.
pub(super) const LUKS: &str = "luks-root";

/// A partition.
pub(super) struct Part {
    pub(super) payload: Payload,
    /// Whether the payload is in a LUKS container.
    pub(super) encrypted: bool,
    /// The number in the order of the table, from one.
    pub(super) number: usize,
    /// What the definition has the table say.
    pub(super) entry: Entry,
    least: Option<u64>,
    root: bool,
}

/// What a partition has.
pub(super) enum Payload {
    BootCode,
    Esp,
    System(Content),
}

/// A file system, or a subvolume of one, and where it is mounted.
pub(super) struct Mount {
    pub(super) mountpoint: String,
    pub(super) kind: FileSystem,
    pub(super) uuid: String,
    pub(super) label: Option<String>,
    pub(super) subvolume: Option<String>,
    pub(super) home: Home,
}

/// Swap space.
pub(super) struct Swap {
    pub(super) uuid: String,
    pub(super) label: Option<String>,
    pub(super) home: Home,
}

/// Where a file system or swap space is: a partition by its number, or a logical volume on it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) part: usize,
    pub(super) volume: Option<String>,
}

/// Where GRUB finds its modules, its menu, and the kernels.
pub(super) struct Grub {
    /// The partition's number.
    pub(super) part: usize,
    pub(super) kind: FileSystem,
    pub(super) uuid: String,
    /// The directory of the file system that is `/`, or `/boot` if that has a file system of its own: empty, or a
    /// subvolume.
    pub(super) top: String,
    pub(super) own: bool,
}

impl Grub {
    /// The directory of its modules and its menu.
    pub(super) fn directory(&self) -> String {
        format!("{}{}", self.top, if self.own { "/grub" } else { "/boot/grub" })
    }
}

/// A partition with its place, in bytes.
pub(super) struct Placed {
    pub(super) part: Part,
    pub(super) start: u64,
    pub(super) size: u64,
}

pub(super) fn table(definition: &Definition) -> PartitionTable {
    definition.customizations.disk.kind()
}

/// The partitions, in their order.
pub(super) fn parts(definition: &Definition) -> Vec<Part> {
    let boot = definition.kiln.boot;
    let plain = |space, size| (Payload::System(Content::Plain(space)), size);
    let mut payloads = Vec::new();
    let boot_code = boot.has_bios() && table(definition) == PartitionTable::Gpt;
    payloads.extend(boot_code.then_some((Payload::BootCode, Some(BOOT_CODE))));
    payloads.extend(boot.has_uefi().then_some((Payload::Esp, Some(definition.kiln.esp_size()))));
    if definition::needs_boot(&definition.partitions, &definition.kiln) {
        let mountpoint = "/boot".to_owned();
        payloads
            .push(plain(Space::FileSystem { mountpoint, kind: FileSystem::Ext4, label: None }, Some(BOOT)));
    }
    payloads.extend(definition.kiln.swap_size.map(|size| plain(Space::Swap { label: None }, Some(size))));
    let payloads = payloads.into_iter().map(|(payload, least)| (payload, least, Entry::default()));
    let own = definition.partitions.iter();
    let own = own.map(|own| (Payload::System(own.content.clone()), own.least, own.entry.clone()));
    let parts = payloads.chain(own).enumerate().map(|(index, (payload, least, entry))| {
        let root = payload.has_root();
        let encrypted = root && definition.kiln.encryption.is_some();
        Part { payload, encrypted, number: index + 1, entry, least, root }
    });
    parts.collect()
}

impl Payload {
    fn has_root(&self) -> bool {
        match self {
            Self::System(content) => content.mountpoints().contains(&"/"),
            _ => false,
        }
    }
}

/// All file systems, each after the one that it is mounted in.
pub(super) fn mounts(definition: &Definition, parts: &[Part]) -> Vec<Mount> {
    let uuid = |mountpoint: &str| match mountpoint {
        "/" => ids::root(definition),
        other => ids::uuid(definition, &format!("file system of {other}")),
    };
    let mut mounts = Vec::new();
    for part in parts {
        let Payload::System(content) = &part.payload else { continue };
        let mut add = |space: &Space, volume: Option<&str>| {
            if let Space::FileSystem { mountpoint, kind, label } = space {
                mounts.push(Mount {
                    mountpoint: mountpoint.clone(),
                    kind: *kind,
                    uuid: uuid(mountpoint),
                    label: label.clone(),
                    subvolume: None,
                    home: Home { part: part.number, volume: volume.map(str::to_owned) },
                });
            }
        };
        match content {
            Content::Plain(space) => add(space, None),
            Content::Group { volumes, .. } => {
                volumes.iter().for_each(|volume| add(&volume.space, Some(&volume.name)));
            }
            Content::Btrfs(subvolumes) => {
                // The name of the whole is that of the first.
                let mut tops = subvolumes.iter().map(|subvolume| subvolume.mountpoint.as_str());
                let whole = if part.root { "/" } else { tops.next().unwrap_or_default() };
                mounts.extend(subvolumes.iter().map(|subvolume| Mount {
                    mountpoint: subvolume.mountpoint.clone(),
                    kind: FileSystem::Btrfs,
                    uuid: uuid(whole),
                    label: None,
                    subvolume: Some(subvolume.name.clone()),
                    home: Home { part: part.number, volume: None },
                }));
            }
        }
    }
    // A directory's name begins with that of the one that it is in.
    mounts.sort_by(|one, other| one.mountpoint.cmp(&other.mountpoint));
    mounts
}

/// All swap spaces.
pub(super) fn swaps(definition: &Definition, parts: &[Part]) -> Vec<Swap> {
    let mut found: Vec<(Home, Option<String>)> = Vec::new();
    for part in parts {
        let Payload::System(content) = &part.payload else { continue };
        let mut add = |space: &Space, volume: Option<&str>| {
            if let Space::Swap { label } = space {
                found.push((Home { part: part.number, volume: volume.map(str::to_owned) }, label.clone()));
            }
        };
        match content {
            Content::Plain(space) => add(space, None),
            Content::Group { volumes, .. } => {
                volumes.iter().for_each(|volume| add(&volume.space, Some(&volume.name)));
            }
            Content::Btrfs(_) => {}
        }
    }
    let swaps = found.into_iter().enumerate().map(|(index, (home, label))| {
        let name = if index == 0 { "swap space".to_owned() } else { format!("swap space {}", index + 1) };
        Swap { uuid: ids::uuid(definition, &name), label, home }
    });
    swaps.collect()
}

/// Where GRUB finds what it needs; `None` if there is no file system for `/`, which there always is.
pub(super) fn grub(definition: &Definition) -> Option<Grub> {
    let mounts = mounts(definition, &parts(definition));
    let at = |mountpoint: &str| mounts.iter().find(|mount| mount.mountpoint == mountpoint);
    let mount = at("/boot").or_else(|| at("/"))?;
    Some(Grub {
        part: mount.home.part,
        kind: mount.kind,
        uuid: mount.uuid.clone(),
        top: mount.subvolume.as_ref().map(|name| format!("/{name}")).unwrap_or_default(),
        own: mount.mountpoint == "/boot",
    })
}

/// The volume group and the logical volume that have `/`.
pub(super) fn root_volume(definition: &Definition) -> Option<(&str, &str)> {
    definition.partitions.iter().find_map(|partition| match &partition.content {
        Content::Group { name, volumes } => {
            let root =
                |space: &Space| matches!(space, Space::FileSystem { mountpoint, .. } if mountpoint == "/");
            let volume = volumes.iter().find(|volume| root(&volume.space))?;
            Some((name.as_str(), volume.name.as_str()))
        }
        _ => None,
    })
}

/// The subvolume that has `/`.
pub(super) fn root_subvolume(definition: &Definition) -> Option<&str> {
    definition.partitions.iter().find_map(|partition| match &partition.content {
        Content::Btrfs(subvolumes) => {
            let root = subvolumes.iter().find(|subvolume| subvolume.mountpoint == "/")?;
            Some(root.name.as_str())
        }
        _ => None,
    })
}

/// The UUID of the LUKS container.
pub(super) fn luks_uuid(definition: &Definition) -> String {
    ids::uuid(definition, "encrypted partition")
}

fn whole(size: u64) -> u64 {
    size.div_ceil(MIB).saturating_mul(MIB)
}

impl Part {
    /// What it needs beside the data: headers of containers.
    fn overhead(&self) -> u64 {
        let group = matches!(self.payload, Payload::System(Content::Group { .. }));
        u64::from(self.encrypted) * LUKS_HEADER + u64::from(group) * EXTENTS_START
    }

    /// What its volumes need together, and whether one of them takes what is left.
    fn volumes(&self) -> (u64, bool) {
        let Payload::System(Content::Group { volumes, .. }) = &self.payload else { return (0, false) };
        let sum = |sum: u64, least: Option<u64>| {
            sum.saturating_add(least.unwrap_or_default().div_ceil(EXTENT).saturating_mul(EXTENT))
        };
        let all = volumes.iter().fold(0, |all, volume| sum(all, volume.least));
        (all, volumes.iter().any(|volume| volume.least.is_none()))
    }

    /// The least size; `None` if that is what the packages need, beside what its other volumes do.
    fn least(&self) -> Option<u64> {
        let (volumes, rest) = self.volumes();
        if matches!(self.payload, Payload::System(Content::Group { .. })) {
            let volumes = volumes.saturating_add(self.overhead());
            return match self.least {
                Some(least) if !rest || least > volumes => Some(whole(least.max(volumes))),
                None if !rest => Some(whole(volumes)),
                _ => None,
            };
        }
        self.least.map(|least| whole(least.saturating_add(self.overhead())))
    }

    /// The room for `/`, if it has so many bytes.
    fn room(&self, size: u64) -> u64 {
        match &self.payload {
            Payload::System(Content::Group { volumes, .. }) => {
                let is_root = |space: &Space| matches!(space, Space::FileSystem { mountpoint, .. } if mountpoint == "/");
                let sizes = volumes.iter().zip(self.extents(size));
                sizes.filter(|(volume, _)| is_root(&volume.space)).map(|(_, extents)| extents * EXTENT).sum()
            }
            _ => size.saturating_sub(self.overhead()),
        }
    }

    /// How many extents each of its volumes has, if it has so many bytes.
    pub(super) fn extents(&self, size: u64) -> Vec<u64> {
        let Payload::System(Content::Group { volumes, .. }) = &self.payload else { return Vec::new() };
        let (sum, _) = self.volumes();
        let rest = (size.saturating_sub(self.overhead()) / EXTENT).saturating_sub(sum / EXTENT);
        volumes.iter().map(|volume| volume.least.map_or(rest, |least| least.div_ceil(EXTENT))).collect()
    }
}

/// Holds that the disk has room for `/`, which one whose size is given may not, and is not too large for its table.
pub(super) fn check(definition: &Definition, image: &[Record]) -> Result<(), ResolveError> {
    let (placed, size) = place(definition, image);
    check_table(definition, size)?;
    let Some(asked) = &definition.kiln.disk_size else { return Ok(()) };
    let root = placed.iter().find(|placed| placed.part.root);
    let room = root.map_or(0, |root| root.part.room(root.size));
    // One whose root says its size is made large enough.
    if room >= SMALLEST_ROOT || size > whole(asked.value) {
        return Ok(());
    }
    let message = format!("the disk has {} MiB, and no room for `/` beside the rest", size / MIB);
    let hint = "make it larger, or leave its size out".to_owned();
    Err(ResolveError::Definition(Box::new(definition.finding(&asked.span, message, Some(hint)))))
}

/// Holds that a `dos` table reaches the disk's end.
fn check_table(definition: &Definition, size: u64) -> Result<(), ResolveError> {
    let Some(table) = &definition.customizations.disk.table else { return Ok(()) };
    if table.value != PartitionTable::Dos || size <= DOS_SIZE {
        return Ok(());
    }
    let (message, hint) = ("a `dos` table ends at 2 TiB".to_owned(), Some("use `gpt`".to_owned()));
    Err(ResolveError::Definition(Box::new(definition.finding(&table.span, message, hint))))
}

/// Gives partitions their places on a disk as large as was asked for, or as the packages need, and returns its size.
pub(super) fn place(definition: &Definition, image: &[Record]) -> (Vec<Placed>, u64) {
    let parts = parts(definition);
    let sum = |parts: &mut dyn Iterator<Item = &Part>| -> u64 {
        parts.fold(0, |sum, part| sum.saturating_add(part.least().unwrap_or_default()))
    };
    let esp = definition.kiln.kernels_on_esp();
    let system = |part: &&Part| match part.payload {
        Payload::BootCode => false,
        Payload::Esp => esp,
        Payload::System(_) => !part.root,
    };
    let others = sum(&mut parts.iter().filter(|part| !part.root)).saturating_add(2 * MARGIN);
    let root = parts.iter().find(|part| part.root);
    let least = root.and_then(Part::least);
    let asked = definition.kiln.disk_size.as_ref().map(|size| size.value);
    let size = match (asked, least) {
        (asked, Some(least)) => asked.unwrap_or_default().max(others.saturating_add(least)),
        (Some(asked), None) => asked,
        (None, None) => {
            let needed = (installed(image) * 3 / 2 + ROOM).max(LEAST);
            let beside = root.map_or(0, |root| root.volumes().0.saturating_add(root.overhead()));
            let beside = beside.saturating_add(sum(&mut parts.iter().filter(system)));
            needed.saturating_add(beside)
        }
    };
    let size = whole(size);
    let mut start = MARGIN;
    let placed = parts.into_iter().map(|part| {
        let size = match part.least() {
            Some(least) if !part.root => least,
            _ => size.saturating_sub(others),
        };
        let placed = Placed { part, start, size };
        start += size;
        placed
    });
    (placed.collect(), size)
}
