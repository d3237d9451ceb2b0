//! Timing whole commands, in turns.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_sys::command::describe;

use crate::cargo::failed;
use crate::error::Error;

/// How much of a failed command's standard error is shown, in bytes.
const TAIL: i64 = 4096;

/// A side of a comparison: what is run, and what is done before each run without being timed.
pub(super) struct Side<'a> {
    name: String,
    prepare: Box<dyn FnMut() -> Result<(), Error> + 'a>,
    command: Box<dyn FnMut() -> Command + 'a>,
}

impl<'a> Side<'a> {
    /// A side that needs no preparation.
    pub(super) fn new(name: impl Into<String>, command: impl FnMut() -> Command + 'a) -> Self {
        Self { name: name.into(), prepare: Box::new(|| Ok(())), command: Box::new(command) }
    }

    /// Does something before each run.
    pub(super) fn after(mut self, prepare: impl FnMut() -> Result<(), Error> + 'a) -> Self {
        self.prepare = Box::new(prepare);
        self
    }
}

/// The times of a side.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    times: Vec<Duration>,
}

impl Series {
    /// The best time: the one least disturbed by what else the machine did.
    pub(super) fn best(&self) -> Duration {
        self.times.iter().min().copied().unwrap_or_default()
    }

    /// The median time.
    pub(super) fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }
}

/// Runs all sides in turns.
pub(super) fn in_turns(runs: u32, sides: &mut [Side<'_>]) -> Result<Vec<Series>, Error> {
    let mut series = vec![Series::default(); sides.len()];
    for run in 1..=runs {
        for (side, series) in sides.iter_mut().zip(&mut series) {
            (side.prepare)()?;
            // What was written before must not be written out at this side's expense.
            rustix::fs::sync();
            let time = timed(&side.name, &mut (side.command)())?;
            eprintln!("  {} {run}/{runs}: {}", side.name, crate::text::duration(time));
            series.times.push(time);
        }
    }
    Ok(series)
}

/// Runs a command silently, expects it to succeed, and says how long it took.
pub(super) fn timed(name: &str, command: &mut Command) -> Result<Duration, Error> {
    let error = |command: &Command, error: std::io::Error| failed(name, command, error.to_string());
    // A file, not a pipe: nobody needs to read along.
    let mut stderr = tempfile::tempfile().map_err(|source| error(command, source))?;
    let its_stderr = stderr.try_clone().map_err(|source| error(command, source))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(its_stderr);
    let started = Instant::now();
    let status = command.status().map_err(|source| error(command, source))?;
    let time = started.elapsed();
    if status.success() {
        return Ok(time);
    }
    Err(failed(name, command, format!("{}: {}", describe(status), tail(&mut stderr).trim())))
}

/// The end of a file.
pub(super) fn tail(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // Best effort: this only explains another error.
    let _ = file.seek(SeekFrom::End(-TAIL)).or_else(|_| file.seek(SeekFrom::Start(0)));
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_run_in_turns_each_after_its_preparation() {
        let log = std::cell::RefCell::new(Vec::new());
        let calls = &log;
        let side = |name: &'static str| {
            Side::new(name, move || {
                calls.borrow_mut().push(name.to_owned());
                Command::new("true")
            })
            .after(move || {
                calls.borrow_mut().push(format!("before {name}"));
                Ok(())
            })
        };
        let series = in_turns(2, &mut [side("a"), side("b")]).expect("`true` succeeds");
        assert_eq!(series.iter().map(|series| series.times.len()).collect::<Vec<_>>(), [2, 2]);
        let turn = ["before a", "a", "before b", "b"];
        assert_eq!(*log.borrow(), [turn, turn].concat());
    }

    #[test]
    fn a_failing_side_is_explained() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck >&2; exit 3"]);
        let error = timed("a", &mut command).expect_err("it fails").to_string();
        assert!(error.ends_with("ended with exit status 3: no such luck"), "{error}");
    }

    #[test]
    fn best_and_median_are_told_apart() {
        let series = Series { times: [5, 1, 9].map(Duration::from_secs).to_vec() };
        assert_eq!((series.best(), series.median()), (Duration::from_secs(1), Duration::from_secs(5)));
    }
}
