//! Disks whose kernels are on the EFI system partition.

use std::fs;

use kiln_testkit::vm::{Expectation, Firmware};

use super::{boots, build, can_boot, output, reporting_example, two_builds_are_equal};
use crate::world::World;

const INSTALL_KERNELS: &str = include_str!("systemd_boot.toml");

fn expectation() -> Expectation {
    Expectation::new("kiln-uki", "admin").with(Firmware::Uefi)
}

/// It boots, and its own tools make of its kernel what is there already, and put the next one before it.
#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn root_debian_systemd_boot_boots() {
    if !can_boot() {
        return;
    }
    let world = World::new();
    let definition = reporting_example(&world, "debian-uki.toml");
    let text = fs::read_to_string(&definition).expect("a definition");
    let text = text.replace("bootloader = \"uki\"", "bootloader = \"systemd-boot\"");
    fs::write(&definition, text + INSTALL_KERNELS).expect("written");
    build(&world, &definition, &[]);
    let report = boots(&output(&world, "qcow2"), &expectation());
    assert_eq!(report.get("mount:/boot/efi"), Some("/dev/vda1 vfat"));
    let command_line = report.get("cmdline").expect("a command line");
    assert!(command_line.starts_with(r"initrd=\debian\"), "{command_line}");
    assert_eq!((report.get("bootctl"), report.get("again")), (Some("yes"), Some("same")));
    let entries = report.get("entries").expect("entries");
    assert!(entries.ends_with(" debian-99.1.conf") && entries.split(' ').count() == 2, "{entries}");
    let default = report.get("default").expect("a default entry");
    assert!(default.contains("id: debian-99.1.conf"), "{default}");
    world.assert_nothing_left();
}

#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn root_debian_uki_boots() {
    if !can_boot() {
        return;
    }
    let world = World::new();
    let definition = reporting_example(&world, "debian-uki.toml");
    build(&world, &definition, &["--export", "qcow2", "--export", "esp"]);
    let image = "output/esp/EFI/BOOT/BOOTX64.EFI";
    let shown = world.run(&["pe", image, "--json"]).succeeded().json();
    assert_eq!(shown[0]["uki"], true, "{shown}");
    let release = world.run(&["pe", image, "--section", ".osrel"]).succeeded().stdout;
    assert!(release.contains("VERSION_CODENAME=bookworm"), "{release}");
    let command_line = world.run(&["pe", image, "--section", ".cmdline"]).succeeded().stdout;
    let report = boots(&output(&world, "qcow2"), &expectation());
    assert_eq!(report.get("cmdline"), Some(command_line.trim_end_matches(['\0', '\n'])));
    world.assert_nothing_left();
}

#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn root_debian_uki_two_cold_builds_are_equal() {
    let world = World::new();
    let definition = reporting_example(&world, "debian-uki.toml");
    two_builds_are_equal(&world, &definition, &["tree", "esp"]);
}
