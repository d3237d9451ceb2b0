//! Running maintainer scripts and the tree's own dpkg.

use std::path::Path;

use kiln_api::ModuleError;

use super::archive::Deb;
use super::database::DIRECTORY;
use super::environment::{Environment, Failure};

/// What dpkg is told every time.
///
/// Configuration files that were there before the packages stay; nothing is flushed; the first failure ends it;
/// the log would hold the time of the build.
const DPKG: [&str; 6] =
    ["dpkg", "--force-unsafe-io", "--force-confdef", "--force-confold", "--abort-after=1", "--log=/dev/null"];

/// Runs a package's `preinst install`; does nothing if it has none.
///
/// The script runs from the place where dpkg would run it before the files are unpacked.
pub(super) fn preinst(environment: &mut Environment<'_>, deb: &Deb) -> Result<(), ModuleError> {
    if !deb.members.contains_key("preinst") {
        return Ok(());
    }
    let directory = environment.root().join(DIRECTORY).join("tmp.ci");
    std::fs::create_dir_all(&directory).map_err(ModuleError::io("create directory", &directory))?;
    for (name, content) in &deb.members {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.join(name);
        std::fs::write(&path, content).map_err(ModuleError::io("write", &path))?;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).map_err(ModuleError::io("set mode of", &path))?;
    }
    let package = &deb.package;
    let variables = [
        ("DPKG_MAINTSCRIPT_PACKAGE", package.name.as_str()),
        ("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1"),
        ("DPKG_MAINTSCRIPT_ARCH", package.architecture.as_str()),
        ("DPKG_MAINTSCRIPT_NAME", "preinst"),
        ("DPKG_MAINTSCRIPT_DEBUG", "0"),
        ("DPKG_ROOT", ""),
        ("DPKG_ADMINDIR", "/var/lib/dpkg"),
    ];
    let result = environment.run(&["/var/lib/dpkg/tmp.ci/preinst", "install"], &variables, None)?;
    std::fs::remove_dir_all(&directory).map_err(ModuleError::io("remove directory", &directory))?;
    result.map_err(|failure| script_failed(&package.name, "preinst", &failure))
}

/// Configures the packages named (`--pending`: all that are not yet configured) without running triggers; with
/// none named, configures all that are not yet configured and runs triggers.
pub(super) fn configure(environment: &mut Environment<'_>, packages: &[String]) -> Result<(), ModuleError> {
    let mut words = DPKG.to_vec();
    if packages.is_empty() {
        words.extend(["--configure", "--pending"]);
    } else {
        // Between rounds nobody needs the triggers, and they would run again after the next.
        words.extend(["--no-triggers", "--configure"]);
        words.extend(packages.iter().map(String::as_str));
    }
    environment.run(&words, &[], None)?.map_err(|failure| dpkg_failed(&failure))
}

/// Runs the triggers that are pending.
pub(super) fn run_triggers(environment: &mut Environment<'_>) -> Result<(), ModuleError> {
    let mut words = DPKG.to_vec();
    words.extend(["--triggers-only", "--pending"]);
    environment.run(&words, &[], None)?.map_err(|failure| dpkg_failed(&failure))
}

/// Configures one package although what it depends on is not configured.
pub(super) fn configure_first(environment: &mut Environment<'_>, package: &str) -> Result<(), ModuleError> {
    let mut words = DPKG.to_vec();
    words.extend(["--force-depends", "--no-triggers", "--configure", package]);
    environment.run(&words, &[], None)?.map_err(|failure| dpkg_failed(&failure))
}

/// Answers debconf's questions before they are asked; the lines are in the format of `debconf-set-selections`.
pub(super) fn answer(environment: &mut Environment<'_>, lines: &str) -> Result<(), ModuleError> {
    let path = environment.root().join("tmp/kiln-debconf");
    std::fs::write(&path, lines).map_err(ModuleError::io("write", &path))?;
    let result = environment.run(&["debconf-set-selections"], &[], Some(&path))?;
    std::fs::remove_file(&path).map_err(ModuleError::io("remove", &path))?;
    result.map_err(|failure| {
        ModuleError::option("debconf", format!("the answers were not accepted: {}", failure.tail))
    })
}

/// Whether the tree has a dpkg that can be run.
pub(super) fn has_dpkg(tree: &Path) -> bool {
    tree.join("usr/bin/dpkg").is_file()
}

fn script_failed(package: &str, script: &str, failure: &Failure) -> ModuleError {
    let Failure { status, tail, .. } = failure;
    ModuleError::invalid(format!("package `{package}`: {script} failed with {status}:\n{tail}"))
}

fn dpkg_failed(failure: &Failure) -> ModuleError {
    let Failure { status, tail, package } = failure;
    match package {
        Some(package) => ModuleError::invalid(format!("package `{package}` cannot be configured:\n{tail}")),
        None => ModuleError::invalid(format!("dpkg failed with {status}:\n{tail}")),
    }
}
