//! Which program the executable is: that depends on the name it is called by.
//!
//! | called as | is |
//! |---|---|
//! | `/run/osbuild/bin/NAME` | the native stage of that name, inside a build root |
//! | `/run/osbuild/bin/NAME assembler` | the native assembler of that name, inside a build root |
//! | `/run/osbuild/runner/NAME` | the native runner of that name, inside a build root |
//! | `osbuild` | the reference's command line |
//! | `kiln sandbox-init …` | the first process of a build root |
//! | `/kiln-guest` | the first process of a virtual machine |
//! | `/run/kiln/task`, `/run/kiln/modprobe` | what a virtual machine is for, and what loads modules for its kernel |
//! | `kiln guest-run …` | a program of the host, run in a virtual machine |
//! | anything else | the `kiln` command line |

use std::ffi::{OsStr, OsString};
use std::path::Path;

use kiln_sandbox::guest;

use crate::guest::GUEST_RUN;

/// Where a build root has its module.
pub(crate) const MODULE_DIRECTORY: &str = "/run/osbuild/bin";
/// Where a build root has its runner.
pub(crate) const RUNNER_DIRECTORY: &str = "/run/osbuild/runner";

/// A program that the executable can be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Personality {
    /// The first process of a build root; its arguments.
    SandboxInit(Vec<OsString>),
    /// The first process of a virtual machine.
    GuestBoot,
    /// What a virtual machine is for.
    GuestTask,
    /// What loads modules for the kernel of a virtual machine; its arguments.
    GuestModprobe(Vec<OsString>),
    /// Runs a program in a virtual machine; the program and its arguments.
    GuestRun(Vec<OsString>),
    /// A native runner.
    Runner {
        /// Its file name.
        name: String,
        /// The module and its arguments.
        arguments: Vec<OsString>,
    },
    /// A native stage or assembler.
    Stage {
        /// The module's name.
        name: String,
        /// Whether it is an assembler.
        assembler: bool,
    },
    /// The reference's command line; all arguments, the program's name included.
    Osbuild(Vec<OsString>),
    /// Kiln's own command line; all arguments, the program's name included.
    Kiln(Vec<OsString>),
}

impl Personality {
    pub(crate) fn of(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let mut arguments: Vec<OsString> = arguments.into_iter().collect();
        let program = arguments.first().map(Path::new).unwrap_or(Path::new("kiln")).to_owned();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if program.parent() == Some(Path::new(MODULE_DIRECTORY)) {
            let assembler = arguments.get(1).is_some_and(|word| word == kiln_engine::run::ASSEMBLER);
            return Self::Stage { name, assembler };
        }
        if program.parent() == Some(Path::new(RUNNER_DIRECTORY)) {
            return Self::Runner { name, arguments: arguments.split_off(1) };
        }
        match program.to_str() {
            Some(guest::INIT) => return Self::GuestBoot,
            Some(guest::TASK) => return Self::GuestTask,
            Some(guest::MODPROBE) => return Self::GuestModprobe(arguments.split_off(1)),
            _ => {}
        }
        if name == "osbuild" {
            return Self::Osbuild(arguments);
        }
        if arguments.get(1).is_some_and(|word| word == OsStr::new(kiln_sandbox::SANDBOX_INIT)) {
            return Self::SandboxInit(arguments);
        }
        if arguments.get(1).is_some_and(|word| word == OsStr::new(GUEST_RUN)) {
            return Self::GuestRun(arguments.split_off(2));
        }
        Self::Kiln(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let cases = [
            (
                "/run/osbuild/bin/org.osbuild.mkdir",
                Personality::Stage { name: "org.osbuild.mkdir".to_owned(), assembler: false },
            ),
            (
                "/run/osbuild/bin/org.osbuild.tar assembler",
                Personality::Stage { name: "org.osbuild.tar".to_owned(), assembler: true },
            ),
            (
                "/run/osbuild/runner/org.osbuild.debian /run/osbuild/bin/org.osbuild.mkdir",
                Personality::Runner {
                    name: "org.osbuild.debian".to_owned(),
                    arguments: words("/run/osbuild/bin/org.osbuild.mkdir"),
                },
            ),
            ("/usr/bin/osbuild -", Personality::Osbuild(words("/usr/bin/osbuild -"))),
            ("kiln sandbox-init 3", Personality::SandboxInit(words("kiln sandbox-init 3"))),
            ("/kiln-guest", Personality::GuestBoot),
            ("/run/kiln/task", Personality::GuestTask),
            ("/run/kiln/modprobe -q -- fs-vfat", Personality::GuestModprobe(words("-q -- fs-vfat"))),
            ("kiln guest-run ls -l", Personality::GuestRun(words("ls -l"))),
            ("kiln build a.toml", Personality::Kiln(words("kiln build a.toml"))),
            // A file that merely has a module's name is not inside a build root.
            ("./org.osbuild.mkdir", Personality::Kiln(words("./org.osbuild.mkdir"))),
        ];
        for (line, expected) in cases {
            assert_eq!(Personality::of(words(line)), expected, "{line}");
        }
    }
}
