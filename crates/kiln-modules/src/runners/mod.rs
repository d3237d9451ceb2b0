//! Native runners.
//!
//! A runner prepares a build root and then becomes the stage: [`run`] is its whole program. What it prepares
//! depends on the build tree only, so that the engine may have it done once (`--prepare`) and copy the result
//! into the build roots of later stages.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use kiln_api::ModuleError;
use kiln_api::stage::Runner;

mod debian;
mod linux;
mod tools;

/// The argument with which a runner prepares the build root and ends.
const PREPARE: &str = "--prepare";

/// All native runners, sorted by name.
pub(crate) const RUNNERS: &[Runner] = &[debian::RUNNER, linux::RUNNER];

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
    match become_program(program, rest) {
        Ok(never) => match never {},
        Err(error) => Err(error),
    }
}

/// Replaces this process, so that the stage's exit status is the runner's.
fn become_program(program: &OsString, arguments: &[OsString]) -> Result<Infallible, ModuleError> {
    let error = Command::new(program).args(arguments).exec();
    Err(ModuleError::io("execute", program)(error))
}
