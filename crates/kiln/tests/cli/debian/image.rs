//! The example image.

use std::fs;
use std::process::Command;

use kiln_testkit::vm::{Expectation, Firmware};

use super::{boots, build, can_boot, example, kiln, output, reporting_example};
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

/// Everything is built anew, only the downloads are the same files.
#[test]
fn root_debian_image_two_cold_builds_are_equal() {
    let world = World::new();
    let example = example("debian.toml").display().to_string();
    kiln(&world, &["resolve", &example, "--output", "debian.json", "--cache", "first"]);
    // The build root, and the image's tree, which is all that goes into the image.
    let pipelines = ["build", "tree"];
    let build = |cache: &str, output: &str| {
        let mut arguments = vec!["build", "debian.json", "--cache", cache, "--output-directory", output];
        arguments.extend(pipelines.iter().flat_map(|name| ["--export", name]));
        kiln(&world, &arguments);
    };
    build("first", "one");
    fs::create_dir(world.path("second")).expect("a directory");
    let copied = Command::new("cp")
        .args(["-al", "first/sources", "second/sources"])
        .current_dir(world.path(""))
        .status()
        .expect("cp");
    assert!(copied.success());
    fs::remove_dir_all(world.path("first/objects")).expect("removed");
    build("second", "two");
    for name in pipelines {
        let (one, two) = (format!("one/{name}"), format!("two/{name}"));
        let diff = world.run(&["tree", "diff", &one, &two]);
        assert_eq!(diff.stdout, "", "two builds of `{name}` differ");
        assert_eq!(diff.code(), Some(0), "{}", diff.shown());
    }
    world.assert_nothing_left();
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
