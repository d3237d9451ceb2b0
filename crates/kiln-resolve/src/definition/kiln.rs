//! The table `[kiln]`: what blueprints have no words for.

use std::fmt;

use super::blueprint::Customizations;
use super::boot::{self, Boot, Bootloader};
use super::node::Placed;
use super::report::Report;
use super::size;
use super::table::{Table, list};
use crate::near::near;

/// What is made of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Output {
    /// A disk image as it is on a disk.
    Raw,
    /// A compressed disk image for QEMU.
    Qcow2,
    /// A disk image for VMware, compressed and in one file (`streamOptimized`).
    Vmdk,
    /// A disk image for Hyper-V.
    Vhdx,
    /// The image of a disc, or a USB stick, that a live system starts from.
    Iso,
    /// An archive of the root tree.
    Tar,
}

impl Output {
    const ALL: [(&str, Self); 6] = [
        ("raw", Self::Raw),
        ("qcow2", Self::Qcow2),
        ("vmdk", Self::Vmdk),
        ("vhdx", Self::Vhdx),
        ("iso", Self::Iso),
        ("tar", Self::Tar),
    ];

    /// The word for it in `outputs`; also the ending of its file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Iso => "iso",
            Self::Tar => "tar",
        }
    }

    /// Whether it is a disk image, with partitions.
    pub fn is_disk(self) -> bool {
        matches!(self, Self::Raw | Self::Qcow2 | Self::Vmdk | Self::Vhdx)
    }

    /// Whether it is an image that a machine starts from, which has a boot loader and a kernel.
    pub fn starts(self) -> bool {
        self != Self::Tar
    }
}

/// The type of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4, the default.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

impl FileSystem {
    const ALL: [(&str, Self); 3] = [("ext4", Self::Ext4), ("xfs", Self::Xfs), ("btrfs", Self::Btrfs)];

    /// The name that the kernel and `mkfs` have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The least number of bytes that its `mkfs` takes.
    pub(crate) fn smallest(self) -> u64 {
        let mebibytes = match self {
            Self::Ext4 => 1,
            Self::Xfs => 300,
            Self::Btrfs => 114,
        };
        mebibytes << 20
    }

    /// How many bytes a label may have.
    pub(crate) fn longest_label(self) -> usize {
        match self {
            Self::Ext4 => 16,
            Self::Xfs => 12,
            Self::Btrfs => 255,
        }
    }
}

/// How the partition that has `/` is encrypted.
#[derive(Clone)]
pub(crate) struct Encryption {
    pub(crate) passphrase: String,
    /// Whether the image itself has the passphrase and so starts without being asked.
    pub(crate) key_file: bool,
}

// The passphrase is nobody's business.
impl fmt::Debug for Encryption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Encryption").field("key_file", &self.key_file).finish_non_exhaustive()
    }
}

/// Longest passphrase that `cryptsetup` reads from its standard input.
const LONGEST_PASSPHRASE: usize = 512;

impl Encryption {
    fn read(mut table: Table<'_>, report: &mut Report) -> Option<Self> {
        let passphrase = table.required("passphrase", report);
        let key_file = table.boolean("key-file", report).unwrap_or_default();
        table.finish(&[], report);
        let passphrase = passphrase?;
        if passphrase.value.contains(char::is_control) || passphrase.value.len() > LONGEST_PASSPHRASE {
            let hint = format!("write one line of at most {LONGEST_PASSPHRASE} bytes");
            report.add(passphrase.span, "the passphrase cannot be typed", Some(hint));
        }
        Some(Self { passphrase: passphrase.value, key_file })
    }
}

/// The settings of the table.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) outputs: Vec<Output>,
    pub(crate) source_epoch: Option<u64>,
    pub(crate) disk_size: Option<Placed<u64>>,
    pub(crate) root: FileSystem,
    pub(crate) boot: Boot,
    pub(crate) encryption: Option<Encryption>,
    pub(crate) bootloader: Bootloader,
    pub(crate) swap_size: Option<u64>,
    pub(crate) recommends: bool,
    pub(crate) repositories: Vec<Placed<String>>,
}

/// GRUB with its modules has 4 MiB; updates of firmware and other boot loaders find room, too.
const ESP: u64 = 64 << 20;
/// A kernel and its first file system have up to 100 MiB, and before the oldest goes there is one more.
const ESP_WITH_KERNELS: u64 = 512 << 20;

impl Settings {
    /// Whether the firmware or the boot loader finds the kernels of a disk on its EFI system partition.
    pub(crate) fn kernels_on_esp(&self) -> bool {
        self.bootloader != Bootloader::Grub
    }

    /// The size of the EFI system partition.
    pub(crate) fn esp_size(&self) -> u64 {
        if self.kernels_on_esp() { ESP_WITH_KERNELS } else { ESP }
    }
}

/// Reads the table; the blueprint's own words for disk size and root file system count too.
pub(super) fn read(
    table: Option<Table<'_>>,
    customizations: &Customizations,
    report: &mut Report,
) -> Option<Settings> {
    let (usual_boot, usual_bootloader) = boot::USUAL;
    let mut settings = Settings {
        outputs: vec![Output::Raw],
        source_epoch: None,
        disk_size: customizations.disk.size.clone(),
        root: FileSystem::Ext4,
        boot: usual_boot,
        bootloader: usual_bootloader,
        encryption: None,
        swap_size: None,
        recommends: false,
        repositories: Vec::new(),
    };
    let mut root = customizations.disk.root.clone();
    if let Some(mut table) = table {
        if let Some(outputs) = outputs(&mut table, report) {
            settings.outputs = outputs;
        }
        settings.source_epoch = table.number("source-epoch", report).map(|epoch| epoch.value);
        let size = size::size(&mut table, "disk-size", report);
        settings.disk_size = once("disk-size", "disk.minsize", settings.disk_size, size, report);
        let here = table.string("root-filesystem", report).and_then(|name| {
            let value = choice(&name, "file system", &FileSystem::ALL, report)?;
            Some(Placed { value, span: name.span })
        });
        root = once("root-filesystem", "disk.partitions.fs_type", root, here, report);
        (settings.boot, settings.bootloader) = boot::read(&mut table, &settings.outputs, report)?;
        if let Some(swap) = size::size(&mut table, "swap-size", report) {
            if settings.disk_size.as_ref().is_some_and(|disk| disk.value <= swap.value) {
                let hint = "make `disk-size` larger, or leave it out".to_owned();
                report.add(swap.span.clone(), "the swap space leaves no room on the disk", Some(hint));
            }
            settings.swap_size = Some(swap.value);
            if table.has("encryption") {
                let hint = "make it a logical volume beside `/`, in a partition of type `lvm`".to_owned();
                report.add(
                    swap.span,
                    "swap space beside an encrypted partition is not encrypted",
                    Some(hint),
                );
            }
        }
        if let Some(encryption) = table.table("encryption", report) {
            if settings.outputs.contains(&Output::Iso) {
                let hint = "leave `encryption` out of the definition of an `iso`".to_owned();
                report.add(encryption.span(), "what is on a disc is not encrypted", Some(hint));
            }
            settings.encryption = Encryption::read(encryption, report);
        }
        settings.recommends = table.boolean("recommends", report).unwrap_or_default();
        settings.repositories = table.strings("repositories", report);
        for repository in &settings.repositories {
            super::rules::repository(repository, report);
        }
        table.finish(&[], report);
    }
    if let Some(root) = root {
        settings.root = root.value;
    }
    Some(settings)
}

fn outputs(table: &mut Table<'_>, report: &mut Report) -> Option<Vec<Output>> {
    let there = table.any("outputs")?;
    let names = table.strings("outputs", report);
    let mut outputs: Vec<Output> =
        names.iter().filter_map(|name| choice(name, "output", &Output::ALL, report)).collect();
    let disc = names.iter().find(|name| name.value == Output::Iso.name());
    if let Some(name) = disc
        && outputs.iter().any(|output| output.is_disk())
    {
        let message = "the system of a disc is not that of a disk";
        let hint = "make `iso` of a definition of its own: a live system has no file system that it could keep things in";
        report.add(name.span.clone(), message, Some(hint.to_owned()));
    }
    if matches!(&there.value, super::node::Data::Array(items) if items.is_empty()) {
        let hint = format!("name some of {}", list(&Output::ALL.map(|(name, _)| name)));
        report.add(there.span.clone(), "`kiln.outputs` is empty", Some(hint));
    }
    outputs.sort_unstable();
    outputs.dedup();
    Some(outputs)
}

pub(super) fn choice<T: Copy>(
    name: &Placed<String>,
    what: &str,
    all: &[(&str, T)],
    report: &mut Report,
) -> Option<T> {
    let found = all.iter().find(|(known, _)| *known == name.value);
    if found.is_none() {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        let hint = match near(&name.value, names.iter().copied()).first() {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", list(&names)),
        };
        report.add(name.span.clone(), format!("unknown {what} `{}`", name.value), Some(hint));
    }
    found.map(|(_, value)| *value)
}

/// One of two places that say the same; both is a contradiction waiting to happen.
fn once<T>(
    here: &str,
    there: &str,
    blueprint: Option<Placed<T>>,
    own: Option<Placed<T>>,
    report: &mut Report,
) -> Option<Placed<T>> {
    if let (Some(_), Some(own)) = (&blueprint, &own) {
        let message = format!("`kiln.{here}` repeats `customizations.{there}`");
        report.add(own.span.clone(), message, Some("keep one of the two".to_owned()));
    }
    own.or(blueprint)
}
