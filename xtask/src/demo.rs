//! `cargo xtask demo`: from a bare machine to a bootable image.
//!
//! Installs the emulator, builds Kiln, has Kiln build the example, boots the image, and says what came of it. The
//! tools that make the image come from the distribution's packages by way of the build root, not from the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use kiln_sys::command::describe;
use kiln_testkit::{host, vm};
use serde_json::Value;

use crate::cargo;
use crate::error::Error;
use crate::text;

/// How disk images are named.
const IMAGES: &[&str] = &["raw", "qcow2", "img"];

/// The arguments of the verb.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The definition to build
    #[arg(default_value = "examples/debian.toml")]
    definition: PathBuf,
    /// Where the image goes
    #[arg(long, value_name = "DIRECTORY", default_value = "output")]
    output_directory: PathBuf,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let definition = cargo::root().join(&arguments.definition);
    let output = cargo::root().join(&arguments.output_directory);
    let expectation = expectation(&definition)?;
    if !host::is_root() {
        return Err(Error::Missing(
            "building an image needs root: run `cargo xtask demo` as root".to_owned(),
        ));
    }
    let installed = host::provide(host::DEMO)?;
    if !installed.is_empty() {
        println!("installed: {}", installed.join(", "));
    }
    let kiln = cargo::build_kiln()?;

    println!("building {} …", arguments.definition.display());
    let started = (Instant::now(), SystemTime::now());
    let result = build(&kiln, &definition, &output)?;
    let took = started.0.elapsed();
    let image = image_of(&output, started.1)?;
    let size = image.metadata().map_err(Error::file("read", &image))?.len();

    println!("booting {} …", image.display());
    let report = vm::check_boot(&image, &expectation)?;

    println!();
    for line in lines(&result) {
        println!("{line}");
    }
    println!("built:   {} in {}", arguments.definition.display(), text::duration(took));
    println!("image:   {} ({})", image.display(), text::bytes(size));
    println!(
        "booted:  {} ({}), powered off in {}",
        text::duration(report.boot_time),
        report.accelerator,
        text::duration(report.shutdown_time)
    );
    println!(
        "checked: systemd is running, no unit failed, host `{}`, user `{}`",
        expectation.hostname, expectation.user
    );
    println!("\nThe image boots.");
    Ok(())
}

/// Has Kiln build the definition; returns its result, null if it gives none.
fn build(kiln: &Path, definition: &Path, output: &Path) -> Result<Value, Error> {
    let mut command = Command::new(kiln);
    command.arg("build").arg(definition).arg("--json").arg("--output-directory").arg(output);
    command.current_dir(cargo::root()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let ended =
        command.output().map_err(|error| cargo::failed("building the image", &command, error.to_string()))?;
    if !ended.status.success() {
        // The result says what failed; progress and the error for people went to standard error.
        println!("{}", String::from_utf8_lossy(&ended.stdout).trim_end());
        return Err(cargo::failed("building the image", &command, describe(ended.status)));
    }
    Ok(serde_json::from_slice(&ended.stdout).unwrap_or_default())
}

/// What the definition promises.
fn expectation(definition: &Path) -> Result<vm::Expectation, Error> {
    let text = fs::read_to_string(definition).map_err(Error::file("read", definition))?;
    let content = |what: String| Error::Content { path: definition.to_owned(), what };
    let table: toml::Table =
        toml::from_str(&text).map_err(|error| content(format!("is not TOML: {error}")))?;
    let customizations = table.get("customizations");
    let hostname = customizations.and_then(|table| table.get("hostname")?.as_str());
    let user = customizations.and_then(|table| table.get("user")?.get(0)?.get("name")?.as_str());
    match (hostname, user) {
        (Some(hostname), Some(user)) => Ok(vm::Expectation::new(hostname, user)),
        _ => Err(content("sets no hostname or no user, which the check of the boot looks for".to_owned())),
    }
}

/// The disk image that a build has just put into its output directory.
fn image_of(output: &Path, since: SystemTime) -> Result<PathBuf, Error> {
    // Exports carry the time at which they were made, or the definition's epoch; an older file may be a leftover.
    let mut images = Vec::new();
    find_images(output, 0, &mut images)?;
    let fresh = images.iter().filter(|(_, changed)| *changed >= since).max_by_key(|(_, changed)| *changed);
    fresh
        .map(|(path, _)| path.clone())
        .ok_or_else(|| Error::Missing(format!("the build left no disk image below `{}`", output.display())))
}

/// Collects disk images and the times at which their inodes changed.
fn find_images(directory: &Path, depth: usize, images: &mut Vec<(PathBuf, SystemTime)>) -> Result<(), Error> {
    use std::os::unix::fs::MetadataExt;
    // An exported tree may be below, too: images stand directly in the output directory or in their export's.
    const DEPTH: usize = 2;
    for entry in fs::read_dir(directory).map_err(Error::file("list", directory))? {
        let path = entry.map_err(Error::file("list", directory))?.path();
        let metadata = path.symlink_metadata().map_err(Error::file("read", &path))?;
        if metadata.is_dir() && depth + 1 < DEPTH {
            find_images(&path, depth + 1, images)?;
        } else if metadata.is_file()
            && path.extension().is_some_and(|found| IMAGES.iter().any(|image| found == *image))
        {
            // The change time cannot be set, so it tells what this run has made.
            let seconds = u64::try_from(metadata.ctime()).unwrap_or_default();
            let nanoseconds = u64::try_from(metadata.ctime_nsec()).unwrap_or_default();
            let changed = Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds);
            // The file system's clock ticks more coarsely than the system's.
            const TICK: Duration = Duration::from_millis(20);
            images.push((path, SystemTime::UNIX_EPOCH + changed + TICK));
        }
    }
    Ok(())
}

/// The durations of a result, one line each.
fn lines(result: &Value) -> Vec<String> {
    let Some(durations) = result["durations"].as_object() else { return Vec::new() };
    let width = durations.keys().map(|name| name.chars().count()).max().unwrap_or_default();
    durations
        .iter()
        .filter_map(|(name, value)| {
            let seconds = Duration::try_from_secs_f64(value.as_f64()?).ok()?;
            Some(format!("  {name:width$}  {}", text::duration(seconds)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expectation_comes_from_the_definition() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.toml");
        let text = "[customizations]\nhostname = \"h\"\n[[customizations.user]]\nname = \"u\"\n";
        fs::write(&path, text).expect("a definition");
        let found = expectation(&path).expect("both are there");
        assert_eq!((found.hostname.as_str(), found.user.as_str()), ("h", "u"));
        fs::write(&path, "name = \"x\"\n").expect("a definition");
        let error = expectation(&path).expect_err("nothing is there").to_string();
        assert!(error.contains("sets no hostname or no user"), "{error}");
    }

    #[test]
    fn the_image_of_this_run_is_found_and_no_older_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let export = directory.path().join("qcow2");
        fs::create_dir_all(export.join("deep")).expect("directories");
        let before = SystemTime::now();
        for path in ["qcow2/disk.qcow2", "qcow2/notes.txt", "qcow2/deep/inner.raw"] {
            fs::write(directory.path().join(path), path).expect("a file");
        }
        assert_eq!(image_of(directory.path(), before).expect("an image"), export.join("disk.qcow2"));
        let later = SystemTime::now() + Duration::from_secs(60);
        let error = image_of(directory.path(), later).expect_err("it is old").to_string();
        assert!(error.starts_with("the build left no disk image below"), "{error}");
    }

    #[test]
    fn durations_are_shown_in_the_order_of_the_result() {
        let result = serde_json::json!({"durations": {"build": 61.0, "image": 2.5, "odd": "x"}});
        assert_eq!(lines(&result), ["  build  1 min 01 s", "  image  2.5 s"]);
        assert_eq!(lines(&Value::Null), [""; 0]);
    }
}
