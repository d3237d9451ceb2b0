//! `cargo xtask guest-test`: tests that need more than the host's kernel has, in a virtual machine.
//!
//! These tests are called `guest_…` and ignored where the others run. The machine is one of Kiln's own (`kiln guest-run`): it sees the host's
//! files, so that the tests run from where cargo has put them and with the host's programs; what they write is gone with it.

use std::process::{Command, Stdio};

use clap::Args;
use kiln_sys::command::describe;

use crate::cargo::{Built, build_tests, failed};
use crate::checks;
use crate::error::Error;

/// How the names of these tests begin.
const PREFIX: &str = "guest_";

/// Runs each program of tests in its directory; how many failed is the exit code. The arguments: directory, program and tests, and a `;` after
/// each of the programs.
const SCRIPT: &str = r#"
failed=0
while [ $# -gt 0 ]; do
    cd "$1" || exit 100
    program=$2
    shift 2
    tests=
    while [ "$1" != ";" ]; do
        tests="$tests $1"
        shift
    done
    shift
    # Names of tests hold no blanks.
    "$program" --ignored --exact --test-threads 2 $tests || failed=$((failed + 1))
done
exit $failed
"#;

/// The arguments of the verb.
#[derive(Debug, Default, Args)]
pub(crate) struct Arguments {
    /// Package whose tests are run (repeat); all if left out
    #[arg(short, long, value_name = "NAME")]
    package: Vec<String>,
    /// Run only tests with this in their names
    filter: Option<String>,
}

/// Prepares the host and runs the tests.
pub(crate) fn test(arguments: &Arguments) -> Result<(), Error> {
    checks::prepare()?;
    run(arguments)
}

/// Runs the tests.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let kernel = kiln_testkit::guest::provide()?;
    let mut packages = vec!["--workspace".to_owned()];
    if !arguments.package.is_empty() {
        // The machine is Kiln's own.
        packages = ["kiln"].into_iter().chain(arguments.package.iter().map(String::as_str)).fold(
            Vec::new(),
            |mut words, name| {
                words.extend(["--package".to_owned(), name.to_owned()]);
                words
            },
        );
    }
    let built = build_tests(&packages)?;
    let kiln = built.iter().find(|program| program.name == "kiln" && !program.is_test);
    let kiln = kiln.ok_or_else(|| Error::Missing("cargo built no program `kiln`".to_owned()))?;
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let mut words = Vec::new();
    for program in built.iter().filter(|program| program.is_test) {
        let tests = tests_of(program, filter)?;
        if !tests.is_empty() {
            words.push(program.package.clone().into_os_string());
            words.push(program.executable.clone().into_os_string());
            words.extend(tests.into_iter().map(Into::into));
            words.push(";".into());
        }
    }
    if words.is_empty() {
        return Err(Error::Missing("no test is selected".to_owned()));
    }
    let mut command = Command::new(&kiln.executable);
    command.args(["guest-run", "sh", "-c", SCRIPT, "sh"]).args(words).env("KILN_VM_KERNEL", kernel);
    let failed = |status| Error::Step {
        step: "testing in the guest".to_owned(),
        command: "kiln guest-run".to_owned(),
        status,
    };
    let status = command.status().map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(describe(status))) }
}

/// The tests of a program that run in the guest.
fn tests_of(program: &Built, filter: &str) -> Result<Vec<String>, Error> {
    let mut command = Command::new(&program.executable);
    command
        .args(["--ignored", "--list", "--format", "terse"])
        .current_dir(&program.package)
        .stdin(Stdio::null());
    let output = command.output();
    let output = output.map_err(|error| failed("listing tests", &command, error.to_string()))?;
    if !output.status.success() {
        return Err(failed("listing tests", &command, describe(output.status)));
    }
    Ok(selected(&String::from_utf8_lossy(&output.stdout), filter))
}

/// The tests for the guest in a list of tests.
fn selected(list: &str, filter: &str) -> Vec<String> {
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    let own = tests.filter(|test| test.rsplit("::").next().is_some_and(|name| name.starts_with(PREFIX)));
    own.filter(|test| test.contains(filter)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_for_the_guest_are_known_by_their_names() {
        let list =
            "a::tests::guest_one: test\nb::guest::two: test\nguest_three: test\nguest_bench: benchmark\n";
        assert_eq!(selected(list, ""), ["a::tests::guest_one", "guest_three"]);
        assert_eq!(selected(list, "one"), ["a::tests::guest_one"]);
    }
}
