//! The verbs of the project: `cargo xtask demo`, `test`, `guest-test`, `ci`, `bench`, `compatibility`, `torture`, `docs`.
//!
//! CI calls these and nothing else, so that what it does can be done anywhere.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod bench;
mod cargo;
mod checks;
mod compatibility;
mod demo;
mod docs;
mod error;
mod guest;
mod page;
mod text;
mod torture;

use std::process::ExitCode;

use clap::Parser;

/// The verbs of the project
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    /// Build a bootable Debian image from examples/debian.toml and boot it
    Demo(demo::Arguments),
    /// Run all tests
    Test(checks::Arguments),
    /// Run all checks: formatting, lints, documentation, tests
    Ci,
    /// Run the tests that need more than the host's kernel, in a virtual machine
    GuestTest(guest::Arguments),
    /// Measure Kiln and what it is compared with
    Bench(bench::Arguments),
    /// Run the reference's own tests with Kiln as the `osbuild` they start
    Compatibility(compatibility::Arguments),
    /// Write what is generated in docs/: the manual pages
    Docs,
    /// Kill processes that use one cache, all the time, and look whether it stays right
    Torture(torture::Arguments),
    /// Use a cache until killed
    #[command(hide = true)]
    TortureWorker(torture::WorkerArguments),
}

fn main() -> ExitCode {
    let result = match Verb::parse() {
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Test(arguments) => checks::test(&arguments),
        Verb::Ci => checks::ci(),
        Verb::GuestTest(arguments) => guest::test(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Compatibility(arguments) => compatibility::run(&arguments),
        Verb::Docs => docs::run(),
        Verb::Torture(arguments) => torture::run(&arguments),
        Verb::TortureWorker(arguments) => torture::work(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}
