//! Images of Debian from real packages: they boot, and building them twice gives the same.
//!
//! These need package sources of the distribution and take minutes: only the images of one example are made by
//! `cargo xtask test`, the others, which are ignored for that reason, by `cargo xtask test --all`.

mod boot;
mod image;
mod iso;
mod layouts;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_testkit::host;
use kiln_testkit::vm::{BootReport, Expectation, check_boot};

use crate::world::{World, finish, names};

/// Lets the system of a definition report how its boot went, as `kiln_testkit::vm` expects it, and what is mounted.
pub(crate) const REPORT: &str = include_str!("debian/report.toml");

/// The path of an example.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

/// An example that reports its boot, in a world's directory.
pub(crate) fn reporting_example(world: &World, name: &str) -> PathBuf {
    let text = fs::read_to_string(example(name)).expect("an example");
    world.write(name, format!("{text}\n{REPORT}"))
}

/// Runs `kiln` with the caller's environment: the package manager may need its proxy.
#[track_caller]
pub(crate) fn kiln(world: &World, arguments: &[&str]) {
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

/// Builds a definition with more arguments into the directory `output` of a world.
#[track_caller]
pub(crate) fn build(world: &World, definition: &Path, arguments: &[&str]) {
    let definition = definition.display().to_string();
    let usual =
        ["build", &definition, "--cache", "cache", "--output-directory", "output", "--progress", "plain"];
    kiln(world, &[&usual[..], arguments].concat());
}

/// The only output with this ending.
#[track_caller]
pub(crate) fn output(world: &World, ending: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = names(&world.path("output"))
        .iter()
        .flat_map(|export| {
            let directory = world.path("output").join(export);
            names(&directory).into_iter().map(move |name| directory.join(name))
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == ending))
        .collect();
    match (found.pop(), found.as_slice()) {
        (Some(path), []) => path,
        (path, rest) => panic!("one `{ending}`, not {path:?} and {rest:?}"),
    }
}

/// Boots an image, which must be as expected.
#[track_caller]
pub(crate) fn boots(image: &Path, expectation: &Expectation) -> BootReport {
    match check_boot(image, expectation) {
        Ok(report) => report,
        Err(error) => panic!("`{}` does not boot: {expectation:?}: {error}", image.display()),
    }
}

/// Whether there is what boots images with either firmware.
pub(crate) fn can_boot() -> bool {
    host::provided("booting an image", &[host::QEMU, host::OVMF])
}

/// Builds pipelines of a definition twice, which must give the same trees: everything is built anew, only the downloads
/// are the same files.
#[track_caller]
pub(crate) fn two_builds_are_equal(world: &World, definition: &Path, pipelines: &[&str]) {
    let definition = definition.display().to_string();
    kiln(world, &["resolve", &definition, "--output", "manifest.json", "--cache", "first"]);
    let build = |cache: &str, output: &str| {
        let mut arguments = vec!["build", "manifest.json", "--cache", cache, "--output-directory", output];
        arguments.extend(pipelines.iter().flat_map(|name| ["--export", name]));
        kiln(world, &arguments);
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
