//! Cargo, and where things are.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_sys::command::describe;
use serde_json::Value;

use crate::error::Error;

/// The directory of the workspace.
pub(crate) fn root() -> &'static Path {
    // The verbs are compiled where they are used.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo, in the workspace; the one that runs this program if there is one.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs a command that speaks for itself.
pub(crate) fn step(name: &str, command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|error| failed(name, command, error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(name, command, describe(status))) }
}

/// The error of a step.
pub(crate) fn failed(step: &str, command: &Command, status: String) -> Error {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words: Vec<_> =
        std::iter::once(program).chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    Error::Step { step: step.to_owned(), command: words.join(" "), status }
}

/// Builds the program in release mode and says where it is.
pub(crate) fn build_kiln() -> Result<PathBuf, Error> {
    build("kiln", "bin", "kiln", &[])
}

/// Builds an example of a crate in release mode and says where it is.
pub(crate) fn build_example(package: &str, name: &str) -> Result<PathBuf, Error> {
    build(package, "example", name, &["--example", name])
}

fn build(package: &str, kind: &str, name: &str, arguments: &[&str]) -> Result<PathBuf, Error> {
    let mut command =
        cargo(&["build", "--release", "--package", package, "--message-format", "json-render-diagnostics"]);
    command.args(arguments);
    command.stdout(Stdio::piped());
    let step = &format!("building `{name}`");
    let mut child = command.spawn().map_err(|error| failed(step, &command, error.to_string()))?;
    let mut executable = None;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            executable = executable_of(&line, kind, name).or(executable);
        }
    }
    let status = child.wait().map_err(|error| failed(step, &command, error.to_string()))?;
    if !status.success() {
        return Err(failed(step, &command, describe(status)));
    }
    executable.ok_or_else(|| Error::Missing(format!("cargo built no program `{name}`")))
}

/// A program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Built {
    /// The name of its target.
    pub(crate) name: String,
    /// Whether it holds tests.
    pub(crate) is_test: bool,
    /// Where it is.
    pub(crate) executable: PathBuf,
    /// The directory of its package.
    pub(crate) package: PathBuf,
}

/// Builds tests, and what they start, without running them.
pub(crate) fn build_tests(arguments: &[String]) -> Result<Vec<Built>, Error> {
    let mut command = cargo(&["test", "--no-run", "--message-format", "json-render-diagnostics"]);
    command.args(arguments).stdout(Stdio::piped());
    let step = "building the tests";
    let mut child = command.spawn().map_err(|error| failed(step, &command, error.to_string()))?;
    let mut built = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        built.extend(
            BufReader::new(stdout).lines().map_while(Result::ok).filter_map(|line| program_of(&line)),
        );
    }
    let status = child.wait().map_err(|error| failed(step, &command, error.to_string()))?;
    if status.success() { Ok(built) } else { Err(failed(step, &command, describe(status))) }
}

/// The program that one of cargo's messages tells of.
fn program_of(message: &str) -> Option<Built> {
    let message: Value = serde_json::from_str(message).ok()?;
    Some(Built {
        name: message["target"]["name"].as_str()?.to_owned(),
        is_test: message["profile"]["test"].as_bool()?,
        executable: message["executable"].as_str()?.into(),
        package: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
    })
}

/// The path of a program in one of cargo's messages.
fn executable_of(message: &str, kind: &str, name: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let is_it = target["kind"].as_array()?.iter().any(|found| found == kind);
    (is_it && target["name"] == name).then(|| message["executable"].as_str().map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_among_cargo_s_messages() {
        let message = r#"{"manifest_path":"/w/crates/a/Cargo.toml","target":{"kind":["lib"],"name":"a"},"profile":{"test":true},"executable":"/t/a-1"}"#;
        let built = Built {
            name: "a".to_owned(),
            is_test: true,
            executable: "/t/a-1".into(),
            package: "/w/crates/a".into(),
        };
        assert_eq!(program_of(message), Some(built));
        assert_eq!(program_of(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn the_program_is_found_among_cargo_s_messages() {
        for (message, found) in [
            (
                r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"kiln"},"executable":"/t/kiln"}"#,
                true,
            ),
            (
                r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"kiln"},"executable":null}"#,
                false,
            ),
            (
                r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"other"},"executable":"/t/o"}"#,
                false,
            ),
            (r#"{"reason":"build-finished","success":true}"#, false),
            ("not JSON", false),
        ] {
            assert_eq!(
                executable_of(message, "bin", "kiln"),
                found.then(|| PathBuf::from("/t/kiln")),
                "{message}"
            );
        }
    }
}
