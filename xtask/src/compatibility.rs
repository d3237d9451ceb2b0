//! `cargo xtask compatibility`: the reference's own tests with Kiln as the `osbuild` they start, and the table of them.
//!
//! All tests run with the reference first. Those that start `osbuild` and pass run with Kiln then, once with the modules
//! of the reference and once with its own. Tests of single stages run with Kiln's own stages; tests that build with Fedora's
//! packages run once more without them. The tables go to standard output and into `docs/compatibility.md`, between its
//! marks. A test that Kiln does not pass is an error.
//!
//! The reference is a whole osbuild checkout: `--reference DIRECTORY` or `KILN_REFERENCE`.

mod table;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use clap::Args;
use kiln_testkit::host;
use kiln_testkit::reference_tests::{NEEDS, Outcome, ReferenceTests, Started, Verdict, wanted_difference};

use crate::cargo;
use crate::error::Error;
use crate::page::write_between_marks;

/// Where the reference has tests.
const TESTS: [&str; 7] =
    ["test/run", "test/mod", "stages/test", "sources/test", "inputs/test", "devices/test", "mounts/test"];
/// Where it has tests of single stages.
const STAGES: &str = "stages/test";
/// Which of them build with packages.
const WITH_PACKAGES: [&str; 2] = ["test/run/test_assemblers.py", "test/run/test_stages.py"];
/// What comes before and after the tables.
const MARKS: (&str, &str) = ("<!-- tests: begin -->", "<!-- tests: end -->");

/// The arguments of the verb.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A whole checkout of osbuild, by default `KILN_REFERENCE`
    #[arg(long, value_name = "DIRECTORY")]
    reference: Option<PathBuf>,
    /// Tests to run: directories or files of the checkout, by default all there are; the page is not written then
    #[arg(value_name = "TESTS")]
    tests: Vec<String>,
    /// The kiln to run, by default the one that is built here
    #[arg(long, value_name = "PROGRAM")]
    kiln: Option<PathBuf>,
    /// Print the table only
    #[arg(long)]
    print_only: bool,
}

/// What became of tests with each program.
#[derive(Default)]
struct Runs {
    reference: BTreeMap<String, Verdict>,
    /// Kiln with the reference's modules.
    library: BTreeMap<String, Verdict>,
    /// Kiln with its own where it has them.
    native: BTreeMap<String, Verdict>,
}

impl Runs {
    /// Runs tests with the reference, and with Kiln what passes then.
    fn of(tests: &ReferenceTests, program: &Path, selection: &[&str]) -> Result<Self, Error> {
        println!("running {} with the reference", selection.join(", "));
        let reference = tests.run(Started::Reference, selection)?;
        let mut runs = Self { reference, ..Self::default() };
        let expected: Vec<&str> = runs.expected().collect();
        println!("running {} tests with Kiln", expected.len());
        let library = tests.run(Started::Other(program, &[]), &expected)?;
        let native = tests.run(Started::Other(program, &["--prefer-native"]), &expected)?;
        drop(expected);
        (runs.library, runs.native) = (library, native);
        Ok(runs)
    }

    /// The tests that start `osbuild` and pass with the reference.
    fn expected(&self) -> impl Iterator<Item = &str> {
        let expected = |verdict: &Verdict| verdict.outcome == Outcome::Passed && verdict.starts > 0;
        self.reference.iter().filter(move |(_, verdict)| expected(verdict)).map(|(name, _)| name.as_str())
    }

    /// Those of them that Kiln does not pass.
    fn missed(&self) -> Vec<&str> {
        let passes = |verdicts: &BTreeMap<String, Verdict>, name: &str| {
            verdicts.get(name).is_some_and(|verdict| verdict.outcome == Outcome::Passed)
        };
        self.expected().filter(|name| !passes(&self.library, name) || !passes(&self.native, name)).collect()
    }
}

/// What became of all tests.
#[derive(Default)]
struct Results {
    /// As they are.
    tests: Runs,
    /// Without Fedora's packages in their manifests.
    without_packages: Runs,
    /// Tests of single stages, with Kiln's own.
    stages: BTreeMap<String, Verdict>,
}

impl Results {
    /// The tests that Kiln does not pass and should.
    fn missed(&self) -> Vec<&str> {
        let failed = |(name, verdict): &(&String, &Verdict)| {
            verdict.outcome == Outcome::Failed && wanted_difference(name).is_none()
        };
        let of_stages = self.stages.iter().filter(failed).map(|(name, _)| name.as_str());
        [self.tests.missed(), self.without_packages.missed()].into_iter().flatten().chain(of_stages).collect()
    }
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let from_environment = || std::env::var_os("KILN_REFERENCE").map(PathBuf::from);
    let checkout = arguments.reference.clone().or_else(from_environment).ok_or_else(|| {
        Error::Missing("no checkout of the reference: --reference or KILN_REFERENCE names it".to_owned())
    })?;
    host::provide(NEEDS)?;
    let kiln = match &arguments.kiln {
        Some(kiln) => std::path::absolute(kiln).map_err(Error::file("find", kiln))?,
        None => cargo::build_kiln()?,
    };
    let directory = tempfile::tempdir().map_err(Error::file("make a directory in", Path::new("/tmp")))?;
    let program = directory.path().join("osbuild");
    symlink(&kiln, &program).map_err(Error::file("make the link", &program))?;
    let tests = ReferenceTests::of(&checkout)?;
    let mut results = Results::default();
    if arguments.tests.is_empty() {
        results.tests = Runs::of(&tests, &program, &TESTS)?;
        println!("running {STAGES} with Kiln's stages");
        results.stages = tests.run(Started::Stages(&kiln), &[STAGES])?;
        results.without_packages = Runs::of(&tests.without_packages()?, &program, &WITH_PACKAGES)?;
    } else {
        let selection: Vec<&str> = arguments.tests.iter().map(String::as_str).collect();
        results.tests = Runs::of(&tests, &program, &selection)?;
    }
    let text = table::markdown(&results, &version(&checkout));
    println!("\n{text}");
    if arguments.tests.is_empty() && !arguments.print_only {
        write_between_marks(&cargo::root().join("docs/compatibility.md"), MARKS, &text)?;
    }
    match results.missed().as_slice() {
        [] => Ok(()),
        missed => Err(Error::Found(format!("Kiln does not pass: {}", missed.join(", ")))),
    }
}

/// The reference's version as it names itself.
fn version(checkout: &Path) -> String {
    let text = fs::read_to_string(checkout.join("osbuild/__init__.py")).unwrap_or_default();
    let number = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
    number.map(|number| number.trim_matches('"').to_owned()).unwrap_or_default()
}
