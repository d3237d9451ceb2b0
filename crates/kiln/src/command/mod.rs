//! The `kiln` command line: one file for each command.

mod build;
mod cache;
mod completions;
mod diff;
mod graph;
mod input;
mod inspect;
pub(crate) mod library;
mod limits;
mod man;
mod modules;
pub(crate) mod osbuild;
mod pe;
mod plan;
mod resolve;
mod schema;
mod session;
mod shadow;
mod shell;
pub(crate) mod size;
mod tree;
mod validate;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::error::{CliResult, Kind, exit_codes};
use crate::present::{print, say};
use crate::settings;

/// Build operating-system images from manifests and definitions
///
/// A definition (a blueprint in TOML or JSON) says what an image is; it is resolved into a manifest, which says
/// exactly how to build it. Kiln reads osbuild's manifests, and is `osbuild` when called by that name.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, propagate_version = false, max_term_width = 100)]
#[command(after_help = after_help())]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a manifest or a definition and export the results
    Build(Box<build::Arguments>),
    /// Look at the cache, prune it, verify it
    Cache(cache::Arguments),
    /// Show what a build would fetch, build and use from the cache, and why
    Plan(plan::Arguments),
    /// Print a script that completes command lines in a shell
    Completions(completions::Arguments),
    /// Say what differs between two manifests, and why that is built again
    Diff(diff::Arguments),
    /// Draw pipelines, build roots, inputs and sources of a manifest
    Graph(graph::Arguments),
    /// Print a manifest with all its ids
    Inspect(inspect::Arguments),
    /// Print a manual page, or write all of them
    Man(man::Arguments),
    /// List the modules there are, or document one of them
    Modules(modules::Arguments),
    /// Show what PE images hold: EFI programs, unified kernel images
    Pe(pe::Arguments),
    /// Turn a definition into a manifest with every package pinned
    Resolve(resolve::Arguments),
    /// Print the JSON Schema of manifests, for editors
    Schema(schema::Arguments),
    /// Build a manifest with the reference, too, and say what differs
    Shadow(shadow::Arguments),
    /// Open a shell in the build root of a stage, or in a finished tree
    Shell(shell::Arguments),
    /// Compare trees, or print the digest of one
    Tree(tree::Arguments),
    /// Say everything that is wrong with a manifest or a definition
    Validate(validate::Arguments),
}

/// The `kiln` program.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    finish(match arguments.command {
        Command::Build(arguments) => build::run(&arguments),
        Command::Cache(arguments) => cache::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Graph(arguments) => graph::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
        Command::Modules(arguments) => modules::run(&arguments),
        Command::Pe(arguments) => pe::run(&arguments),
        Command::Resolve(arguments) => resolve::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Shadow(arguments) => shadow::run(&arguments),
        Command::Shell(arguments) => shell::run(&arguments),
        Command::Tree(arguments) => tree::run(&arguments),
        Command::Validate(arguments) => validate::run(&arguments),
    })
}

/// All that the `kiln` command line takes.
fn command() -> clap::Command {
    Arguments::command()
}

/// What the help ends with.
fn after_help() -> String {
    let mut text = "Examples:\n  kiln build examples/debian.toml\n  kiln plan manifest.json --export image\n  kiln modules show org.osbuild.mkdir\n\nExit codes:".to_owned();
    for (code, meaning) in exit_codes() {
        let _ = write!(text, "\n  {code:<3}  {meaning}");
    }
    text
}

/// Help and version go to standard output, mistakes to standard error.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let text = error.render();
        // Colours are for people.
        let text = if settings::stderr_is_terminal() { text.ansi().to_string() } else { text.to_string() };
        say(text.trim_end());
        return Kind::Usage.code();
    }
    print(error.render());
    ExitCode::SUCCESS
}

/// Shows an error and turns it into the exit code.
fn finish(result: CliResult<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            say(error.render());
            error.kind.code()
        }
    }
}
