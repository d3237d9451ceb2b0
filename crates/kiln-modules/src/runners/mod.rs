//! Native runners: one table of names, and what each of them does to a build root.
//!
//! A runner prepares a build root and then becomes the stage: [`run`] is its whole program. What it prepares
//! depends on the build tree only, so that the engine may have it done once (`--prepare`) and copy the result
//! into the build roots of later stages.
//!
//! What there is of each distribution, and from which version on, is the reference's choice, because a manifest is
//! built by the best runner there is for the one it names.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use kiln_api::ModuleError;
use kiln_api::stage::Runner;

mod release;
mod step;
#[cfg(test)]
mod tests;
mod tools;

/// The argument with which a runner prepares the build root and ends.
const PREPARE: &str = "--prepare";

/// Work around a bug in `qemu-img` on this architecture, which can hang when it uses more than one coroutine.
const QUIRKS: &[(&str, &str)] =
    if cfg!(target_arch = "aarch64") { &[("OSBUILD_QEMU_IMG_COROUTINES", "1")] } else { &[] };

/// Makes an entry of the table: a name, what it is for, and how its build roots are prepared.
macro_rules! runner {
    ($name:literal, $distribution:literal, $preparation:ident) => {
        runner!($name, $distribution, $preparation, &[])
    };
    ($name:literal, $distribution:literal, $preparation:ident, $environment:expr) => {
        Runner {
            name: concat!("org.osbuild.", $name),
            documentation: concat!(
                "Runs stages in a build root of ",
                $distribution,
                ". ",
                documentation!($preparation)
            ),
            prepare: |root| step::carry_out(step::$preparation, root),
            environment: $environment,
        }
    };
}

/// What a preparation does, for people.
macro_rules! documentation {
    (MINIMAL) => {
        "Makes sure that there is a user database with `root` in it, which some container tools insist on."
    };
    (DEBIAN) => {
        "Makes the cache of the dynamic linker, the system users, and the directories that the build root's packages \
         declare, with the build root's own `ldconfig`, `systemd-sysusers` and `systemd-tmpfiles`, as far as it has \
         them."
    };
    (FEDORA) => {
        "Makes the cache of the dynamic linker, the system users, a machine id that is the same everywhere, and the \
         directories that the build root's packages declare, with the build root's own tools as far as it has them."
    };
    (FEDORA_WITH_POLICIES) => {
        "Makes the cache of the dynamic linker, the system users, a machine id that is the same everywhere, and the \
         directories that the build root's packages declare, with the build root's own tools as far as it has them. \
         Sets the distribution's default cryptographic policies."
    };
    (RHEL7) => {
        "Makes the cache of the dynamic linker, the libraries for iSCSI included."
    };
    (RHEL81) => {
        "Makes the cache of the dynamic linker, the system users, a machine id that is the same everywhere, and the \
         directories that the build root's packages declare, with the build root's own tools as far as it has them. \
         Says in `/etc/os-release` which system it is, and links `python3`."
    };
    (RHEL8) => {
        "Makes the cache of the dynamic linker, the system users, a machine id that is the same everywhere, and the \
         directories that the build root's packages declare, with the build root's own tools as far as it has them. \
         Sets the distribution's default cryptographic policies and links `python3`."
    };
}

/// All native runners, sorted by name.
pub(crate) const RUNNERS: &[Runner] = &[
    runner!("AutoSD9", "AutoSD 9", FEDORA_WITH_POLICIES),
    runner!("almalinux8", "AlmaLinux 8", RHEL8, QUIRKS),
    runner!("almalinux9", "AlmaLinux 9 and later", FEDORA_WITH_POLICIES),
    runner!("arch", "Arch Linux", MINIMAL),
    runner!("asahi-fedora-remix", "Asahi Fedora Remix", FEDORA),
    runner!("autosd", "AutoSD", FEDORA_WITH_POLICIES),
    runner!("centos8", "CentOS 8", RHEL8, QUIRKS),
    runner!("centos9", "CentOS Stream 9 and later", FEDORA_WITH_POLICIES),
    runner!("debian", "Debian", DEBIAN),
    runner!("eln11", "Fedora ELN", FEDORA_WITH_POLICIES),
    runner!("fedora-asahi-remix", "Fedora Asahi Remix", FEDORA_WITH_POLICIES),
    runner!("fedora30", "Fedora 30 to 37", FEDORA),
    runner!("fedora38", "Fedora 38 and later", FEDORA_WITH_POLICIES),
    runner!("linux", "any distribution", MINIMAL),
    runner!("ol9", "Oracle Linux 9 and later", FEDORA_WITH_POLICIES),
    runner!("rhel7", "Red Hat Enterprise Linux 7", RHEL7),
    runner!("rhel81", "Red Hat Enterprise Linux 8.1", RHEL81),
    runner!("rhel82", "Red Hat Enterprise Linux 8.2 and later", RHEL8, QUIRKS),
    runner!("rhivos", "Red Hat In-Vehicle Operating System", RHEL8, QUIRKS),
    runner!("ubuntu1804", "Ubuntu 18.04 and later", DEBIAN),
];

/// Runs as a runner inside a build root: prepares it and becomes the stage.
///
/// `arguments` are those after the program's own name: the stage's program and its arguments, or `--prepare`
/// alone. Returns only if it was asked to prepare, or if something failed.
pub fn run(runner: &Runner, arguments: &[OsString]) -> Result<(), ModuleError> {
    let (program, rest) = arguments.split_first().ok_or_else(|| {
        ModuleError::invalid(format!("runner `{}` was called without a stage", runner.name))
    })?;
    (runner.prepare)(Path::new("/"))?;
    if program == PREPARE && rest.is_empty() {
        return Ok(());
    }
    match become_program(runner, program, rest) {
        Ok(never) => match never {},
        Err(error) => Err(error),
    }
}

/// Replaces this process, so that the stage's exit status is the runner's.
fn become_program(
    runner: &Runner,
    program: &OsString,
    arguments: &[OsString],
) -> Result<Infallible, ModuleError> {
    let environment = runner.environment.iter().copied();
    let error = Command::new(program).args(arguments).envs(environment).exec();
    Err(ModuleError::io("execute", program)(error))
}
