//! The example image.

use kiln_testkit::vm::{Expectation, Firmware};

use super::{boots, build, can_boot, example, output, reporting_example, two_builds_are_equal};
use crate::world::World;

#[test]
fn root_debian_image_boots() {
    if !can_boot() {
        return;
    }
    let world = World::new();
    build(&world, &example("debian.toml"), &[]);
    let image = output(&world, "qcow2");
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        boots(&image, &Expectation::new("kiln-debian", "admin").with(firmware));
    }
    world.assert_nothing_left();
    world.assert_sound();
}

#[test]
fn root_debian_image_two_cold_builds_are_equal() {
    let world = World::new();
    // The build root, and the image's tree, which is all that goes into the image.
    two_builds_are_equal(&world, &example("debian.toml"), &["build", "tree"]);
}

#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn root_debian_server_boots() {
    if !can_boot() {
        return;
    }
    let world = World::new();
    build(&world, &reporting_example(&world, "server-ssh.toml"), &[]);
    let report = boots(&output(&world, "qcow2"), &Expectation::new("server.example.invalid", "ops"));
    assert_eq!(report.get("mount:/"), Some("/dev/vda2 ext4"));
    world.assert_nothing_left();
}
