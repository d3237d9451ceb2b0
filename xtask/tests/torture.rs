//! A short torture of the cache; `cargo xtask torture` goes on for as long as one likes.

use std::io::Write;
use std::process::Command;

/// Long enough for several bursts, and for all kinds of them.
const MINUTES: &str = "0.33";
/// Fewer kills prove little.
const KILLS: u64 = 200;

#[test]
fn a_cache_survives_a_short_torture() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["torture", "--minutes", MINUTES])
        .output()
        .expect("the program of the verbs");
    let [text, errors] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    // Shown when the test fails, and it says whether the reference took part.
    std::io::stderr().write_all(format!("{text}\n{errors}").as_bytes()).expect("standard error");
    assert!(output.status.success(), "something was found");
    let kills = text.lines().find_map(|line| line.split_once(" kills: ")?.0.parse::<u64>().ok());
    assert!(kills.is_some_and(|kills| kills >= KILLS), "{kills:?} kills");
}
