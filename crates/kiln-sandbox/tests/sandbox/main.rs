//! Sandboxes that really run.
//!
//! This one binary is three programs: the tests, the helper that becomes a sandbox's first process
//! (`sandbox-init`), and, inside the sandbox, the probe that looks around and says what it sees. It is static,
//! so that the probe needs nothing of the build tree.

mod against_bubblewrap;
mod endings;
mod fixture;
mod prepared;
mod probe;
mod view;

use std::ffi::OsString;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let text: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    match text.iter().map(AsRef::as_ref).collect::<Vec<&str>>().as_slice() {
        [_, kiln_sandbox::SANDBOX_INIT, ..] => {
            return ExitCode::from(u8::try_from(kiln_sandbox::init_main(&arguments)).unwrap_or(1));
        }
        [program, rest @ ..] if program.starts_with("/run/osbuild/") => return probe::main(program, rest),
        [_, endings::PARENT, directory] => return endings::parent(directory.as_ref()),
        _ => {}
    }
    let tests: Vec<Trial> = [view::TESTS, endings::TESTS, prepared::TESTS, against_bubblewrap::TESTS]
        .concat()
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}
