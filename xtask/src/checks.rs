//! `cargo xtask test` and `cargo xtask ci`.
//!
//! The tests run with nextest where it is installed, else with cargo's own runner. The last lines of the
//! output are always the runner's summary, whatever ran after it or is told about it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use kiln_sys::command::describe;
use kiln_testkit::host;

use crate::cargo::{cargo, failed, step};
use crate::error::Error;
use crate::{guest, text};

/// The arguments of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Also run the tests that take minutes, which are ignored otherwise
    #[arg(long)]
    all: bool,
    /// What to hand on to the test runner, like a filter
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    runner: Vec<String>,
}

/// How the names of ignored tests begin that take minutes. Others are ignored because they run elsewhere: in a guest,
/// or as children of other tests.
const LONG: &str = "root_debian_";

/// What starts the closing lines of nextest.
const SUMMARY: &str = "Summary [";

/// Runs all tests, or those that the arguments select, and then only on the host.
pub(crate) fn test(arguments: &Arguments) -> Result<(), Error> {
    prepare()?;
    // The examples in the documentation come first, so that the runner's summary comes last.
    if arguments.runner.is_empty() {
        doctests()?;
        guest::run(&guest::Arguments::default())?;
    }
    let packages_follow = selects_packages(&arguments.runner);
    if !arguments.all {
        return step("testing", tests(packages_follow).args(&arguments.runner));
    }
    // A filter may leave tests of one kind only.
    let usual = step("testing", tests(packages_follow).args(if_none()).args(&arguments.runner));
    let long = step("testing what takes minutes", &mut long_tests(packages_follow, &arguments.runner));
    usual.and(long)
}

/// Runs all checks, the quick ones first.
pub(crate) fn ci() -> Result<(), Error> {
    let mut clock = Clock::default();
    let mut summary = Vec::new();
    let result = ci_steps(&mut clock, &mut summary);
    clock.print();
    for line in summary {
        println!("{line}");
    }
    result
}

fn ci_steps(clock: &mut Clock, summary: &mut Vec<String>) -> Result<(), Error> {
    clock.time("preparing the host", |_| prepare())?;
    clock.time("formatting", |name| step(name, &mut cargo(&["fmt", "--all", "--check"])))?;
    clock.time("lints", |name| {
        let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        step(name, &mut cargo(&arguments))
    })?;
    clock.time("documentation", |name| {
        let mut command = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
        step(name, command.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    clock.time("examples in the documentation", |_| doctests())?;
    clock.time("tests in the guest", |_| guest::run(&guest::Arguments::default()))?;
    clock.time("tests", |name| step_with_summary(name, &mut tests(false), summary))
}

/// Installs what the tests need from the distribution, or says what is missing.
pub(crate) fn prepare() -> Result<(), Error> {
    let installed = host::provide(host::TESTS)?;
    if !installed.is_empty() {
        println!("installed: {}", installed.join(", "));
    }
    kiln_testkit::guest::provide()?;
    Ok(())
}

fn doctests() -> Result<(), Error> {
    step(
        "testing the examples in the documentation",
        &mut cargo(&["test", "--workspace", "--doc", "--quiet"]),
    )
}

/// Whether arguments for the runner choose packages, which the whole workspace would override.
fn selects_packages(arguments: &[String]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| {
        argument.starts_with("--package") || (argument.starts_with("-p") && !argument.starts_with("--"))
    })
}

/// The test runner, on the whole workspace unless packages will be chosen.
fn tests(packages_follow: bool) -> Command {
    let scope = if packages_follow { None } else { Some("--workspace") };
    if has_nextest() {
        let mut command = cargo(&["nextest", "run"]);
        command.args(scope);
        command
    } else {
        eprintln!("`cargo nextest` is not installed: using `cargo test`, which is slower and says less");
        let mut command = cargo(&["test", "--tests", "--no-fail-fast"]);
        command.args(scope);
        command
    }
}

/// The test runner with the ignored tests that take minutes.
fn long_tests(packages_follow: bool, arguments: &[String]) -> Command {
    let mut command = tests(packages_follow);
    if has_nextest() {
        command.args(["--run-ignored", "only", "-E", &format!("test(/(^|::){LONG}/)")]);
        command.args(if_none()).args(arguments);
    } else {
        command.args(arguments);
        if !arguments.iter().any(|argument| argument == "--") {
            command.arg("--");
        }
        command.args(["--ignored", LONG]);
    }
    command
}

/// What makes it no failure that there are no tests.
fn if_none() -> Option<&'static str> {
    has_nextest().then_some("--no-tests=pass")
}

fn has_nextest() -> bool {
    cargo(&["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command that speaks for itself, and keeps the closing lines of nextest.
fn step_with_summary(name: &str, command: &mut Command, summary: &mut Vec<String>) -> Result<(), Error> {
    let error = |command: &Command, error: std::io::Error| failed(name, command, error.to_string());
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(|source| error(command, source))?;
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).split(b'\n');
        while let Some(Ok(line)) = lines.next() {
            let line = String::from_utf8_lossy(&line).into_owned();
            // Best effort: the tests count, not who reads about them.
            let _ = writeln!(std::io::stderr(), "{line}");
            keep(summary, line);
        }
    }
    let status = child.wait().map_err(|source| error(command, source))?;
    if status.success() { Ok(()) } else { Err(failed(name, command, describe(status))) }
}

/// Keeps what follows the last beginning of a summary.
fn keep(summary: &mut Vec<String>, line: String) {
    if line.contains(SUMMARY) {
        summary.clear();
    } else if summary.is_empty() {
        return;
    }
    summary.push(line);
}

/// How long the steps took.
#[derive(Debug, Default)]
struct Clock {
    steps: Vec<(&'static str, Duration, bool)>,
}

impl Clock {
    fn time(
        &mut self,
        name: &'static str,
        run: impl FnOnce(&'static str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        println!("── {name}");
        let started = Instant::now();
        let result = run(name);
        self.steps.push((name, started.elapsed(), result.is_ok()));
        result
    }

    fn print(&self) {
        println!();
        for (name, duration, succeeded) in &self.steps {
            let failed = if *succeeded { "" } else { "  FAILED" };
            println!("{:>12}  {name}{failed}", text::duration(*duration));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_packages_replace_the_workspace() {
        for (arguments, chosen) in [
            (&["-p", "kiln-store", "evict"][..], true),
            (&["-pkiln-store"], true),
            (&["--package=kiln-store"], true),
            (&["evict"], false),
            (&["--profile", "ci"], false),
            (&["--", "-p"], false),
        ] {
            let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            assert_eq!(selects_packages(&arguments), chosen, "{arguments:?}");
        }
    }

    #[test]
    fn the_last_summary_is_kept_to_its_end() {
        let mut summary = Vec::new();
        for line in
            ["a", "   Summary [   1s] old", "x", "     Summary [   2s] 3 tests run", "  FAIL b", "error: c"]
        {
            keep(&mut summary, line.to_owned());
        }
        assert_eq!(summary, ["     Summary [   2s] 3 tests run", "  FAIL b", "error: c"]);
    }
}
