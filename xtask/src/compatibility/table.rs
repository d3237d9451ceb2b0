//! The table of the reference's tests.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kiln_testkit::reference_tests::{Outcome, Verdict, wanted_difference};

use super::{Results, Runs};

/// The longest reason that is shown.
const REASON: usize = 120;

/// All of it in Markdown.
pub(super) fn markdown(results: &Results, version: &str) -> String {
    let tests = &results.tests;
    let starting = tests.reference.values().filter(|verdict| verdict.starts > 0).count();
    let mut text = format!(
        "osbuild {version}: of {} tests, {starting} start `osbuild`; {} of these pass with it on the machine of this run, \
         and {} with Kiln in its place.\n\n",
        tests.reference.len(),
        tests.expected().count(),
        tests.expected().count() - tests.missed().len(),
    );
    text += &table(tests);
    text += "\nOf `test/run`, and of whatever else starts `osbuild`, these do not pass with it there:\n\n\
             | file | tests | why |\n|---|---|---|\n";
    for ((file, reason), tests) in not_passing(tests) {
        let _ = writeln!(text, "| `{file}` | {}: {} | {reason} |", tests.len(), tests.join(", "));
    }
    if !results.without_packages.reference.is_empty() {
        text += &without_packages(&results.without_packages);
    }
    if !results.stages.is_empty() {
        text += &single_stages(results);
    }
    text += "\n### The other tests\n\nThese never start `osbuild`, but use its code within the tests' own process, and say nothing of \
             Kiln:\n\n| directory | tests | pass with osbuild |\n|---|--:|--:|\n";
    for (directory, (all, passed)) in without_start(tests) {
        let _ = writeln!(text, "| `{directory}` | {all} | {passed} |");
    }
    text
}

/// The tests that build with packages, without these.
fn without_packages(without: &Runs) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "\n### Without Fedora's packages\n\nMost tests of stages and assemblers need these packages for a build root only, or for \
         a few directories. So they run once more with the host as the build root and with directories in the place of \
         packages ([host_root.py](../crates/kiln-testkit/src/reference_tests/host_root.py)); what they do and expect is unchanged. \
         {} pass with osbuild and {} of them with Kiln; {} need more of the packages, or programs that the machine lacks.\n\n",
        without.expected().count(),
        without.expected().count() - without.missed().len(),
        without.reference.len() - without.expected().count(),
    );
    text += &table(without);
    text
}

/// The tests of single stages.
fn single_stages(results: &Results) -> String {
    let mut text = String::new();
    text += "\n### Single stages\n\nTests that call a stage's main function, or hold options against its schema, run with Kiln's own \
             stages ([native.py](../crates/kiln-testkit/src/reference_tests/native.py)). A test that replaces functions of Python which \
             the stage's source uses is left out when it does.\n\n\
             | file | pass | left out | differ, and why |\n|---|--:|--:|---|\n";
    for (file, [passed, skipped, differ]) in stages(results) {
        let _ = writeln!(text, "| `{file}` | {} | {} | {} |", passed.len(), skipped.len(), counted(&differ));
    }
    text
}

/// What differs, once for all parameters of a test.
fn counted(differ: &[String]) -> String {
    let mut text = String::new();
    for same in differ.chunk_by(|one, other| one == other) {
        let [first, ..] = same else { continue };
        let separator = if text.is_empty() { "" } else { "; " };
        let _ = match same.len() {
            1 => write!(text, "{separator}{first}"),
            times => write!(text, "{separator}{first} ({times} times)"),
        };
    }
    text
}

/// The tests that pass with the reference, with each program.
fn table(runs: &Runs) -> String {
    let mut text =
        "| test | osbuild | Kiln, osbuild's modules | Kiln, its own modules |\n|---|---|---|---|\n"
            .to_owned();
    for name in runs.expected() {
        let of = |verdicts: &BTreeMap<String, Verdict>| verdicts.get(name).map_or("not run", outcome);
        let cells = [of(&runs.reference), of(&runs.library), of(&runs.native)];
        let _ = writeln!(text, "| `{name}` | {} |", cells.join(" | "));
    }
    text
}

fn outcome(verdict: &Verdict) -> &'static str {
    match verdict.outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "**failed**",
        Outcome::Skipped => "skipped",
    }
}

/// The tests of whole runs that do not pass with the reference, by file and reason.
fn not_passing(runs: &Runs) -> BTreeMap<(&str, String), Vec<&str>> {
    let mut found: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for (name, verdict) in &runs.reference {
        if verdict.outcome == Outcome::Passed || !(verdict.starts > 0 || name.starts_with("test/run/")) {
            continue;
        }
        let (file, test) = name.split_once("::").unwrap_or((name, ""));
        let test = test.rsplit_once("::").map_or(test, |(_, test)| test);
        found.entry((file, why(verdict))).or_default().push(test);
    }
    found
}

/// The tests of stages by file: those that pass, those that are none for another program, and those that differ and why.
fn stages(results: &Results) -> BTreeMap<&str, [Vec<String>; 3]> {
    let mut found: BTreeMap<&str, [Vec<String>; 3]> = BTreeMap::new();
    for (name, verdict) in &results.stages {
        let (file, test) = name.split_once("::").unwrap_or((name, ""));
        let [passed, skipped, differ] = found.entry(file).or_default();
        match verdict.outcome {
            Outcome::Passed => passed.push(test.to_owned()),
            Outcome::Skipped => skipped.push(test.to_owned()),
            Outcome::Failed => {
                let why = wanted_difference(name).unwrap_or("**failed**");
                let test = test.split('[').next().unwrap_or_default();
                differ.push(format!("{test}: {why}"));
            }
        }
    }
    found
}

/// How many tests of a directory never start `osbuild`, and how many of these pass.
fn without_start(runs: &Runs) -> BTreeMap<&str, (usize, usize)> {
    let mut found: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (name, verdict) in &runs.reference {
        let file = name.split_once("::").map_or(name.as_str(), |(file, _)| file);
        let directory = file.rsplit_once('/').map_or(file, |(directory, _)| directory);
        let passed = verdict.outcome == Outcome::Passed;
        if verdict.starts == 0 && (passed || directory != "test/run") {
            let (all, passing) = found.entry(directory).or_default();
            *all += 1;
            *passing += usize::from(passed);
        }
    }
    found
}

/// Why a test does not pass on this machine, in a few words.
fn why(verdict: &Verdict) -> String {
    let all = format!("{}\n{}", verdict.output, verdict.reason);
    if all.contains("Could not resolve host") {
        return "content from the network (Fedora's packages)".to_owned();
    }
    if let Some(rest) = after(&all, "unknown filesystem type '") {
        return format!("a kernel without `{}`", rest.split('\'').next().unwrap_or_default());
    }
    if all.contains("special device /dev/loop") {
        return "a kernel that reads no partition tables".to_owned();
    }
    // A program's last words say more than what the test made of them.
    let is_error = |line: &&str| line.split_once(": ").is_some_and(|(name, _)| name.ends_with("Error"));
    let reason = verdict.reason.strip_prefix("Skipped: ").unwrap_or(&verdict.reason);
    let line = verdict.output.lines().rfind(is_error).or(reason.lines().next()).unwrap_or_default();
    line.replace('|', "\\|").chars().take(REASON).collect()
}

fn after<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    text.split_once(what).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(outcome: Outcome, reason: &str, output: &str, starts: u64) -> Verdict {
        Verdict { outcome, reason: reason.to_owned(), output: output.to_owned(), starts }
    }

    #[test]
    fn reasons_are_short() {
        for (reason, output, expected) in [
            (
                "AssertionError",
                "curl: Could not resolve host: example.invalid",
                "content from the network (Fedora's packages)",
            ),
            ("RemoteError: unknown filesystem type 'vfat'.\nmore", "", "a kernel without `vfat`"),
            (
                "RemoteError: mount: special device /dev/loop0p1 does not exist",
                "",
                "a kernel that reads no partition tables",
            ),
            ("Skipped: no such program", "", "no such program"),
            (
                "AssertionError",
                "a\nosbuild.host.RemoteError: FileNotFoundError: no a|b\nmore",
                "osbuild.host.RemoteError: FileNotFoundError: no a\\|b",
            ),
        ] {
            assert_eq!(why(&verdict(Outcome::Failed, reason, output, 1)), expected);
        }
    }

    #[test]
    fn each_test_stands_where_it_belongs() {
        let passed = || verdict(Outcome::Passed, "", "", 2);
        let reference = [
            ("test/run/test_a.py::test_good", passed()),
            ("test/run/test_a.py::test_bad", passed()),
            ("test/run/test_b.py::TestB::test_one", verdict(Outcome::Failed, "Error: x", "", 1)),
            ("test/run/test_b.py::TestB::test_two", verdict(Outcome::Skipped, "Skipped: no y", "", 0)),
            ("test/mod/test_c.py::test_good", verdict(Outcome::Passed, "", "", 0)),
            ("test/mod/test_c.py::test_bad", verdict(Outcome::Failed, "", "", 0)),
        ];
        let all = |tests: &[(&str, Verdict)]| {
            tests.iter().map(|(name, verdict)| ((*name).to_owned(), verdict.clone())).collect()
        };
        let kiln =
            [reference[0].clone(), ("test/run/test_a.py::test_bad", verdict(Outcome::Failed, "", "", 2))];
        let stages = [
            ("stages/test/test_s.py::test_good", verdict(Outcome::Passed, "", "", 0)),
            ("stages/test/test_s.py::test_bad[1]", verdict(Outcome::Failed, "", "", 0)),
            ("stages/test/test_s.py::test_inside", verdict(Outcome::Skipped, "", "", 0)),
            ("stages/test/test_tar.py::test_tar_disk_full[1]", verdict(Outcome::Failed, "", "", 0)),
        ];
        let tests = Runs { reference: all(&reference), library: all(&kiln), native: all(&kiln[..1]) };
        let (one, two) = (&reference[..2], &kiln[..1]);
        let without_packages = Runs { reference: all(one), library: all(one), native: all(two) };
        let results = Results { tests, without_packages, stages: all(&stages) };
        let bad = "test/run/test_a.py::test_bad";
        let missed = [bad, bad, "stages/test/test_s.py::test_bad[1]"];
        assert_eq!(results.missed(), missed);
        let text = markdown(&results, "1");
        for line in [
            "osbuild 1: of 6 tests, 3 start `osbuild`; 2 of these pass with it on the machine of this run, and 1 with Kiln in its place.",
            "| `test/run/test_a.py::test_bad` | passed | **failed** | not run |",
            "| `test/run/test_a.py::test_good` | passed | passed | passed |",
            "| `test/run/test_b.py` | 1: test_one | Error: x |",
            "| `test/run/test_b.py` | 1: test_two | no y |",
            "| `stages/test/test_s.py` | 1 | 1 | test_bad: **failed** |",
            "| `stages/test/test_tar.py` | 0 | 0 | test_tar_disk_full: wants the exit code of `tar` itself in Python's exception |",
            "| `test/run/test_a.py::test_bad` | passed | passed | not run |",
            "| `test/mod` | 2 | 1 |",
        ] {
            assert!(text.lines().any(|found| found == line), "no line `{line}` in\n{text}");
        }
    }
}
