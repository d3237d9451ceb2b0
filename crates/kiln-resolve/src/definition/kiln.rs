//! The table `[kiln]`: what blueprints have no words for.

use std::fmt;

use super::blueprint::Customizations;
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
    /// An archive of the root tree.
    Tar,
}

impl Output {
    const ALL: [(&str, Self); 5] = [
        ("raw", Self::Raw),
        ("qcow2", Self::Qcow2),
        ("vmdk", Self::Vmdk),
        ("vhdx", Self::Vhdx),
        ("tar", Self::Tar),
    ];

    /// The word for it in `outputs`; also the ending of its file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Tar => "tar",
        }
    }

    /// Whether it is a disk image, which has a boot loader and a kernel.
    pub fn is_disk(self) -> bool {
        self != Self::Tar
    }
}

/// The firmware that a disk boots with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    /// That of a PC of old, with GRUB in a partition of its own.
    Bios,
    /// UEFI, with GRUB on an EFI system partition.
    Uefi,
    /// Either.
    Hybrid,
}

impl Boot {
    const ALL: &[(&str, Self)] = if cfg!(target_arch = "x86_64") {
        &[("bios", Self::Bios), ("uefi", Self::Uefi), ("hybrid", Self::Hybrid)]
    } else {
        &[("uefi", Self::Uefi)]
    };

    /// What a definition that says nothing gets.
    const DEFAULT: Self = if cfg!(target_arch = "x86_64") { Self::Bios } else { Self::Uefi };

    pub(crate) fn has_bios(self) -> bool {
        self != Self::Uefi
    }

    pub(crate) fn has_uefi(self) -> bool {
        self != Self::Bios
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
    pub(crate) swap_size: Option<u64>,
    pub(crate) recommends: bool,
    pub(crate) repositories: Vec<Placed<String>>,
}

/// Reads the table; the blueprint's own words for disk size and root file system count too.
pub(super) fn read(
    table: Option<Table<'_>>,
    customizations: &Customizations,
    report: &mut Report,
) -> Option<Settings> {
    let mut settings = Settings {
        outputs: vec![Output::Raw],
        source_epoch: None,
        disk_size: customizations.disk.size.clone(),
        root: FileSystem::Ext4,
        boot: Boot::DEFAULT,
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
        if let Some(name) = table.string("boot", report) {
            settings.boot = choice(&name, "firmware", Boot::ALL, report)?;
        }
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
    let mut outputs: Vec<Output> = table
        .strings("outputs", report)
        .iter()
        .filter_map(|name| choice(name, "output", &Output::ALL, report))
        .collect();
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
