//! Images whose file systems are not on one partition.
//!
//! What is encrypted or on logical volumes is made in a virtual machine where this kernel has no device mapper.

use std::fs;
use std::process::Command;

use kiln_testkit::vm::{BootReport, Expectation, Firmware};
use kiln_testkit::{guest, host};

use super::{boots, build, can_boot, output, reporting_example};
use crate::world::World;

/// Builds an example, which needs the device mapper or not, and boots it.
fn booted(name: &str, hostname: &str, mapped: bool) -> Option<BootReport> {
    booted_as(name, hostname, mapped, |text| text)
}

/// The same with a change of the definition.
fn booted_as(
    name: &str,
    hostname: &str,
    mapped: bool,
    change: impl FnOnce(String) -> String,
) -> Option<BootReport> {
    if !can_boot() || !host::provided("looking at a partition table", &[host::SFDISK]) {
        return None;
    }
    let world = World::new();
    let definition = reporting_example(&world, name);
    let text = fs::read_to_string(&definition).expect("a definition");
    fs::write(&definition, change(text)).expect("written");
    if mapped && !has_device_mapper() {
        if !host::provided("the device mapper", &[host::VIRTIOFSD]) {
            return None;
        }
        let kernel = guest::provided("the device mapper")?.display().to_string();
        build(&world, &definition, &["--in-vm", "image", "--vm-kernel", &kernel]);
    } else {
        build(&world, &definition, &[]);
    }
    let disk = output(&world, "raw");
    let verified = Command::new("sfdisk").arg("--verify").arg(&disk).output().expect("sfdisk");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let report = boots(&disk, &Expectation::new(hostname, "admin").with(Firmware::Bios));
    world.assert_nothing_left();
    world.assert_sound();
    Some(report)
}

/// Whether the kernel has it, or loads it when it is asked for.
fn has_device_mapper() -> bool {
    let loaded = || {
        let list = fs::read_to_string("/proc/misc").unwrap_or_default();
        list.lines().any(|line| line.ends_with(" device-mapper"))
    };
    loaded() || (fs::File::open("/dev/mapper/control").is_ok() && loaded())
}

/// What is mounted at these places.
#[track_caller]
fn assert_mounted(report: &BootReport, expected: &[(&str, &str)]) {
    for (place, what) in expected {
        assert_eq!(report.get(&format!("mount:{place}")), Some(*what), "{place}: {:?}", report.values);
    }
}

fn command_line(report: &BootReport) -> &str {
    report.get("cmdline").expect("a command line")
}

#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn root_debian_xfs_boots() {
    let Some(report) = booted("debian-xfs.toml", "kiln-xfs", false) else { return };
    let mounts = [("/", "/dev/vda5 xfs"), ("/home", "/dev/vda2 ext4"), ("/var/log", "/dev/vda3 xfs")];
    assert_mounted(&report, &mounts);
    assert_eq!(report.get("swaps"), Some("/dev/vda4"));
}

/// GRUB is between the table and the first partition.
#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn root_debian_dos_table_boots() {
    let partitions = "[[customizations.disk.partitions]]";
    let table = format!("[customizations.disk]\ntype = \"dos\"\n\n{partitions}");
    let change = |text: String| text.replacen(partitions, &table, 1);
    let Some(report) = booted_as("debian-xfs.toml", "kiln-xfs", false, change) else { return };
    let mounts = [("/", "/dev/vda4 xfs"), ("/home", "/dev/vda1 ext4"), ("/var/log", "/dev/vda2 xfs")];
    assert_mounted(&report, &mounts);
    assert_eq!(report.get("swaps"), Some("/dev/vda3"));
}

#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn root_debian_btrfs_boots() {
    let Some(report) = booted("debian-btrfs.toml", "kiln-btrfs", false) else { return };
    assert_mounted(&report, &[("/", "/dev/vda2[/@] btrfs"), ("/home", "/dev/vda2[/@home] btrfs")]);
    assert!(command_line(&report).contains(" rootflags=subvol=@ "), "{}", command_line(&report));
}

#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn root_debian_lvm_boots() {
    let Some(report) = booted("debian-lvm.toml", "kiln-lvm", true) else { return };
    let mounts = [
        ("/", "/dev/mapper/kiln--vg-root ext4"),
        ("/home", "/dev/mapper/kiln--vg-home xfs"),
        ("/boot", "/dev/vda2 ext4"),
    ];
    assert_mounted(&report, &mounts);
    assert!(command_line(&report).contains("root=/dev/mapper/kiln--vg-root "), "{}", command_line(&report));
    assert!(report.get("swaps").is_some_and(|swap| swap.starts_with("/dev/dm-")), "{:?}", report.values);
}

/// Nobody types a passphrase here.
#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn root_debian_luks_boots() {
    let Some(report) = booted("debian-luks.toml", "kiln-luks", true) else { return };
    assert_mounted(&report, &[("/", "/dev/mapper/luks-root ext4"), ("/boot", "/dev/vda2 ext4")]);
}
