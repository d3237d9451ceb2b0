//! The example image, from real packages: it boots, and building it twice gives the same trees.
//!
//! These need package sources of the distribution and take minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_testkit::host;
use kiln_testkit::vm::{Expectation, Firmware, check_boot};

use crate::world::{World, finish, names};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/debian.toml")
}

/// Runs `kiln` with the caller's environment: the package manager may need its proxy.
#[track_caller]
fn kiln(world: &World, arguments: &[&str]) {
    let mut command = world.kiln(arguments);
    command.envs(std::env::vars_os());
    let run = finish(command.spawn().expect("started"));
    assert_eq!(
        run.code(),
        Some(0),
        "`kiln {}` failed; this test needs the distribution's package sources\n{}",
        arguments.join(" "),
        run.shown()
    );
}

#[test]
fn root_debian_image_boots() {
    if !host::provided("booting an image", &[host::QEMU, host::OVMF]) {
        return;
    }
    let world = World::new();
    let example = example().display().to_string();
    kiln(
        &world,
        &["build", &example, "--cache", "cache", "--output-directory", "output", "--progress", "plain"],
    );
    let images: Vec<PathBuf> = names(&world.path("output"))
        .iter()
        .flat_map(|export| {
            let directory = world.path("output").join(export);
            names(&directory).into_iter().map(move |name| directory.join(name))
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "qcow2"))
        .collect();
    let [image] = images.as_slice() else { panic!("one qcow2 image, not {images:?}") };
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        check_boot(image, &Expectation::new("kiln-debian", "admin").with(firmware))
            .unwrap_or_else(|error| panic!("the image does not boot with {firmware:?}: {error}"));
    }
    world.assert_nothing_left();
    world.assert_sound();
}

/// Everything is built anew, only the downloads are the same files.
#[test]
fn root_debian_image_two_cold_builds_are_equal() {
    let world = World::new();
    let example = example().display().to_string();
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
