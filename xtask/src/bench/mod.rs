//! `cargo xtask bench`: what Kiln takes, and what others take for the same.
//!
//! Whole commands are timed from outside, all sides of a case in turns within one run, so that what the machine does
//! meanwhile meets all of them alike. The best and the median time are kept. Everything a case writes goes to a fresh
//! file system, never to the root's. The table goes to standard output and into `docs/benchmarks.md`, between its marks.
//!
//! The reference is an osbuild checkout: `--reference DIRECTORY` or `KILN_REFERENCE`; without one its column is empty.

mod cache;
mod demo;
mod disk;
mod downloads;
mod inspect;
mod load;
mod measure;
mod memory;
mod modules;
mod sample;
mod scratch;
mod side;
mod stages;
mod table;
mod trees;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kiln_testkit::host;

use crate::cargo;
use crate::error::Error;
use crate::page::write_between_marks;
use demo::Demo;
use scratch::{FileSystem, Scratch};
use side::Programs;
use table::Row;

/// The arguments of the verb.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A checkout of osbuild to compare with, by default `KILN_REFERENCE`
    #[arg(long, value_name = "DIRECTORY")]
    reference: Option<PathBuf>,
    /// What to measure, all by default
    #[arg(value_enum, value_name = "CASE")]
    cases: Vec<Case>,
    /// How often each side of a case runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The file system that is measured on
    #[arg(long, value_enum, default_value = "ext4")]
    file_system: FileSystem,
    /// The directory of the conformance manifests
    #[arg(long, value_name = "DIRECTORY", default_value = "../shared/conformance/manifests")]
    manifests: PathBuf,
    /// The definition whose image is built
    #[arg(long, value_name = "FILE", default_value = "examples/debian.toml")]
    definition: PathBuf,
    /// Print the table only
    #[arg(long)]
    print_only: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// The cost of an empty stage
    Stage,
    /// Loading large manifests to ids
    Load,
    /// The command line's `--inspect` on a real manifest, and all faults of a large one
    Inspect,
    /// Stages of the reference, with its runner and with Kiln's, and what a stage costs beside both
    Modules,
    /// Fetching small and large files, beside the reference and curl
    Downloads,
    /// Loads, stores, and pruning in an open cache
    Cache,
    /// Copying and removing trees, against cp and rm
    Trees,
    /// A build with everything cached
    Cached,
    /// A root tree from packages, against mmdebstrap
    Tree,
    /// Tree to raw ext4 disk to qcow2
    Disk,
    /// The memory of Kiln itself
    Memory,
}

/// What all cases share.
struct Context<'a> {
    programs: Programs,
    scratch: &'a Scratch,
    runs: u32,
    manifests: PathBuf,
    definition: PathBuf,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    host::provide(host::BENCH)?;
    let from_environment = || std::env::var_os("KILN_REFERENCE").map(PathBuf::from);
    let reference = arguments.reference.clone().or_else(from_environment);
    let programs = Programs::new(cargo::build_kiln()?, reference)?;
    let scratch = Scratch::mount(arguments.file_system)?;
    let root = cargo::root();
    let context = Context {
        programs,
        scratch: &scratch,
        runs: arguments.runs,
        manifests: root.join(&arguments.manifests),
        definition: root.join(&arguments.definition),
    };
    let wanted = |case: Case| arguments.cases.is_empty() || arguments.cases.contains(&case);
    let mut rows = Vec::new();
    if wanted(Case::Stage) {
        rows.extend(stages::measure(&context)?);
    }
    if wanted(Case::Load) {
        rows.extend(load::measure(&context)?);
    }
    if wanted(Case::Inspect) {
        rows.extend(inspect::measure(&context)?);
    }
    if wanted(Case::Modules) {
        rows.extend(modules::measure(&context)?);
    }
    if wanted(Case::Downloads) {
        rows.extend(downloads::measure(&context)?);
    }
    if wanted(Case::Cache) {
        rows.extend(cache::measure(&context)?);
    }
    if wanted(Case::Trees) {
        rows.extend(trees::measure(&context)?);
    }
    if wanted(Case::Disk) {
        rows.push(disk::measure(&context)?);
    }
    if [Case::Cached, Case::Tree, Case::Memory].into_iter().any(wanted) {
        let demo = Demo::prepare(&context)?;
        if wanted(Case::Cached) {
            rows.push(demo.cached(&context)?);
        }
        if wanted(Case::Tree) {
            rows.push(demo.tree(&context)?);
        }
        if wanted(Case::Memory) {
            rows.extend(demo.memory(&context)?);
        }
    }
    report(&rows, &context, arguments)
}

fn report(rows: &[Row], context: &Context<'_>, arguments: &Arguments) -> Result<(), Error> {
    let text = format!("{}\n{}", machine(context, arguments.file_system), table::markdown(rows));
    println!("\n{text}");
    if arguments.print_only {
        return Ok(());
    }
    let page = cargo::root().join("docs/benchmarks.md");
    write_between_marks(&page, table::MARKS, &text)
}

/// What the numbers were measured on, in a sentence.
fn machine(context: &Context<'_>, file_system: FileSystem) -> String {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim().split('-').next().unwrap_or_default().to_owned();
    format!(
        "Measured on {processors} processors, Linux {kernel}, on a fresh {file_system}, best of {} runs in turns.\n",
        context.runs
    )
}

/// Reads a JSON file.
fn read_json(path: &Path) -> Result<serde_json::Value, Error> {
    let text = std::fs::read(path).map_err(Error::file("read", path))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::Content { path: path.to_owned(), what: format!("is not JSON: {error}") })
}

/// Writes a JSON file.
fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), Error> {
    std::fs::write(path, value.to_string()).map_err(Error::file("write", path))
}
