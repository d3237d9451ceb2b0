//! Discs with a live system.

use kiln_sys::command::Run;
use kiln_testkit::host;
use kiln_testkit::vm::{Expectation, Firmware, Medium};

use super::{boots, build, can_boot, output, reporting_example, two_builds_are_equal};
use crate::world::World;

/// From a drive and from a stick, with BIOS and with UEFI.
#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn root_debian_iso_boots() {
    if !can_boot() || !host::provided("a disc", &[host::XORRISO]) {
        return;
    }
    let world = World::new();
    build(&world, &reporting_example(&world, "debian-live.toml"), &[]);
    let disc = output(&world, "iso");
    // What xorriso has to say comes on standard error, and what it was asked for on standard output.
    let arguments = ["-abort_on", "WARNING", "-report_el_torito", "plain", "-report_system_area", "plain"];
    let run = Run::new("xorriso").arg("-indev").arg(&disc).args(arguments).arg("-check_media");
    let found = String::from_utf8(run.output().expect("a sound disc")).expect("text");
    for line in
        ["BIOS  y   none", "UEFI  y   none", "/isolinux/isolinux.bin", "/boot/grub/efi.img", "MBR isohybrid"]
    {
        assert!(found.contains(line), "no `{line}` in\n{found}");
    }
    let cases = [
        (Medium::Disc, Firmware::Bios, "/dev/sr0 iso9660"),
        (Medium::Disc, Firmware::Uefi, "/dev/sr0 iso9660"),
        (Medium::Stick, Firmware::Bios, "/dev/sda1 iso9660"),
        (Medium::Stick, Firmware::Uefi, "/dev/sda1 iso9660"),
    ];
    for (medium, firmware, device) in cases {
        let expectation = Expectation::new("kiln-live", "live").with(firmware).on(medium);
        let report = boots(&disc, &expectation);
        assert_eq!(report.get("mount:/run/live/medium"), Some(device));
        let squashfs = report.get("mount:/run/live/rootfs/filesystem.squashfs");
        assert_eq!(squashfs, Some("/dev/loop0 squashfs"));
    }
    world.assert_nothing_left();
}

#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn root_debian_iso_two_cold_builds_are_equal() {
    let world = World::new();
    let definition = reporting_example(&world, "debian-live.toml");
    two_builds_are_equal(&world, &definition, &["disc", "iso"]);
}
