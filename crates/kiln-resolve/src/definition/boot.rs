//! How images start: the firmware, and what it hands over to.

use super::kiln::{Output, choice};
use super::report::Report;
use super::table::Table;

/// The firmware that an image starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    /// That of a PC of old.
    Bios,
    /// UEFI.
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

    /// What a disk has if the definition says nothing.
    const OF_DISKS: Self = if cfg!(target_arch = "x86_64") { Self::Bios } else { Self::Uefi };

    /// What a disc has if the definition says nothing: it goes from machine to machine.
    const OF_DISCS: Self = if cfg!(target_arch = "x86_64") { Self::Hybrid } else { Self::Uefi };

    pub(crate) fn has_bios(self) -> bool {
        self != Self::Uefi
    }

    pub(crate) fn has_uefi(self) -> bool {
        self != Self::Bios
    }
}

/// What the firmware starts on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bootloader {
    /// GRUB, which finds the kernel in the root file system.
    Grub,
    /// systemd-boot, with the kernels on the EFI system partition.
    SystemdBoot,
    /// The kernel itself: a unified kernel image.
    Uki,
}

impl Bootloader {
    const ALL: [(&str, Self); 3] =
        [("grub", Self::Grub), ("systemd-boot", Self::SystemdBoot), ("uki", Self::Uki)];
}

/// Reads the keys that say how the outputs start.
pub(super) fn read(
    table: &mut Table<'_>,
    outputs: &[Output],
    report: &mut Report,
) -> Option<(Boot, Bootloader)> {
    let disc = outputs.contains(&Output::Iso);
    let (firmware, name) = (table.string("boot", report), table.string("bootloader", report));
    let boot = match &firmware {
        Some(name) => Some(choice(name, "firmware", Boot::ALL, report)?),
        None => None,
    };
    let mut bootloader = Bootloader::Grub;
    if let Some(name) = &name {
        bootloader = choice(name, "boot loader", &Bootloader::ALL, report)?;
    }
    if let (Some(name), true) = (&name, bootloader != Bootloader::Grub) {
        let refusal = if disc {
            let message = "a disc has boot loaders of its own".to_owned();
            Some((message, "leave `bootloader` out of the definition of an `iso`"))
        } else if boot.is_some_and(Boot::has_bios) {
            let message = format!("only UEFI starts `{}`", name.value);
            Some((message, "use `boot = \"uefi\"`, or `bootloader = \"grub\"`"))
        } else {
            None
        };
        if let Some((message, hint)) = refusal {
            report.add(name.span.clone(), message, Some(hint.to_owned()));
        }
    }
    let usual = match bootloader {
        Bootloader::Grub if disc => Boot::OF_DISCS,
        Bootloader::Grub => Boot::OF_DISKS,
        Bootloader::SystemdBoot | Bootloader::Uki => Boot::Uefi,
    };
    Some((boot.unwrap_or(usual), bootloader))
}

/// What a definition without the table has.
pub(super) const USUAL: (Boot, Bootloader) = (Boot::OF_DISKS, Bootloader::Grub);
