//! The verbs of the project: `cargo xtask demo`, `test`, `ci`, `bench`.
//!
//! CI calls these and nothing else, so that what it does can be done anywhere.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod bench;
mod cargo;
mod checks;
mod demo;
mod error;
mod text;

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
    /// Measure Kiln and what it is compared with
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let result = match Verb::parse() {
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Test(arguments) => checks::test(&arguments),
        Verb::Ci => checks::ci(),
        Verb::Bench(arguments) => bench::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}
