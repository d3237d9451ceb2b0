//! The reference's own tests, with this program as the `osbuild` they start, where `KILN_REFERENCE` names a whole
//! checkout: what passes with the reference passes with Kiln.
//!
//! Here are the files whose tests need no network; `cargo xtask compatibility` runs all there are. Tests of single stages
//! get the native stages.

use std::path::Path;

use kiln_testkit::host;
use kiln_testkit::reference_tests::{NEEDS, Outcome, ReferenceTests, Started, wanted_difference};

use crate::osbuild::say_skipped;
use crate::world::{KILN, World};

/// Files of tests that start `osbuild` and need no network.
const FILES: [&str; 5] = [
    "test/run/test_executable.py",
    "test/run/test_exports.py",
    "test/run/test_main.py",
    "test/run/test_noop.py",
    "test/run/test_sources.py",
];

/// The tests, if there are any and this machine can run them.
fn tests() -> Option<ReferenceTests> {
    let checkout = host::reference("what the reference's own tests start")?;
    if !checkout.join("test/run").is_dir() {
        say_skipped("KILN_REFERENCE names no whole checkout: the reference's own tests are not there");
        return None;
    }
    if !Path::new("/etc/containers").is_dir() {
        say_skipped("the reference needs `/etc/containers`, which this machine has not");
        return None;
    }
    let provided = host::provided("running the reference's tests", NEEDS);
    provided.then(|| ReferenceTests::of(&checkout).expect("a copy"))
}

#[test]
fn root_what_passes_with_the_reference_passes_with_kiln() {
    let Some(tests) = tests() else { return };
    let world = World::new();
    let program = world.osbuild_program();
    let expected = tests.run(Started::Reference, &FILES).expect("run with the reference");
    let passing: Vec<&str> = expected
        .iter()
        .filter(|(_, verdict)| verdict.outcome == Outcome::Passed && verdict.starts > 0)
        .map(|(name, _)| name.as_str())
        .collect();
    // Those of the files that need nothing but the reference itself.
    assert!(passing.len() >= 17, "only {passing:?}");
    for arguments in [&[][..], &["--prefer-native"]] {
        let found = tests.run(Started::Other(&program, arguments), &passing).expect("run with this program");
        assert_eq!(found.len(), passing.len());
        for (name, verdict) in found {
            assert_eq!(
                verdict.outcome,
                Outcome::Passed,
                "{name} {arguments:?}: {}\n{}",
                verdict.reason,
                verdict.output
            );
            assert_eq!(verdict.starts, expected[&name].starts, "{name} {arguments:?}");
        }
    }
    world.assert_nothing_left();
}

#[test]
fn root_native_stages_pass_the_references_tests_of_stages() {
    let Some(tests) = tests() else { return };
    let found = tests.run(Started::Stages(Path::new(KILN)), &["stages/test"]).expect("run");
    let passed = found.values().filter(|verdict| verdict.outcome == Outcome::Passed).count();
    assert!(passed >= 90, "only {passed} of {}", found.len());
    let unexpected: Vec<String> = found
        .iter()
        .filter_map(|(name, verdict)| match (&verdict.outcome, wanted_difference(name)) {
            (Outcome::Passed, Some(reason)) => Some(format!("{name} passes, in spite of: {reason}")),
            (Outcome::Failed, None) => Some(format!("{name}: {}\n{}", verdict.reason, verdict.output)),
            _ => None,
        })
        .collect();
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
}
