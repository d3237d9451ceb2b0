//! The cache: what is done in an open one, one process and many; how fast it is pruned and looked at.
//!
//! Both sides do the same in processes of their own, in turns, each in a cache of its own. What they need to start, and
//! to open and close the cache, is not counted.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_sys::command::{describe, die_with_parent};

use super::Context;
use super::measure::{Side, in_turns};
use super::scratch::remove;
use super::table::{Limit, Row, Value};
use crate::cargo;
use crate::error::Error;

/// The reference's side.
const SCRIPT: &str = include_str!("cache.py");

/// So many objects are pruned down by half.
const OBJECTS: u32 = 10_000;
/// So many entries has a cache that is looked at.
const ENTRIES: u32 = 1000;
/// A look takes little time, so that more of them can be taken.
const RUNS: u32 = 20;
/// How long a look at it may take.
const INFO: Duration = Duration::from_millis(10);
/// How many processes work side by side: what the machine of the targets has processors for, and many more.
const FEW: u32 = 2;
const MANY: u32 = 8;
/// How often all processes together do what they do.
const TOGETHER: u32 = 8000;

/// Something that is done many times in an open cache.
struct Operation {
    name: &'static str,
    case: &'static str,
    count: u32,
    factor: f64,
}

const OPERATIONS: &[Operation] = &[
    Operation {
        name: "load",
        case: "loading and releasing an entry of an open cache",
        count: 50_000,
        factor: 2.0,
    },
    Operation { name: "stage", case: "making and removing a staging entry", count: 5000, factor: 1.3 },
    Operation { name: "store", case: "storing a small entry", count: 3000, factor: 1.3 },
];

/// Measures the cases.
pub(super) fn measure(context: &Context<'_>) -> Result<Vec<Row>, Error> {
    let bench = Bench { context, worker: cargo::build_example("kiln-store", "cache_bench")? };
    let mut rows = Vec::new();
    for operation in OPERATIONS {
        eprintln!("cache: {}", operation.case);
        let (kiln, reference) = bench.best(operation.name, operation.count)?;
        let each = |time: Duration| time / operation.count;
        rows.push(row(operation.case.to_owned(), operation.factor, each(kiln), reference.map(each)));
    }
    rows.push(bench.side_by_side()?);
    rows.push(bench.prune()?);
    rows.push(bench.info()?);
    Ok(rows)
}

fn row(case: String, factor: f64, kiln: Duration, reference: Option<Duration>) -> Row {
    Row {
        case,
        limit: Some(Limit::TimesAsFast(factor)),
        kiln: Value::Time(kiln),
        other: reference.map(|time| ("reference", Value::Time(time))),
    }
}

struct Bench<'a> {
    context: &'a Context<'a>,
    worker: PathBuf,
}

impl Bench<'_> {
    /// A process of Kiln's that does something so many times.
    fn kiln(&self, cache: &Path, operation: &str, count: u32, unique: &str) -> Command {
        let mut command = Command::new(&self.worker);
        command.arg(cache).args([operation, &count.to_string(), unique]);
        command
    }

    /// The same of the reference.
    fn reference(&self, cache: &Path, operation: &str, count: u32) -> Option<Command> {
        let checkout = self.context.programs.checkout()?;
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]).arg(cache).args([operation, &count.to_string(), "n"]);
        command.env("PYTHONPATH", checkout).env("PYTHONDONTWRITEBYTECODE", "1");
        Some(command)
    }

    /// The best times of both sides, each in a new cache.
    fn best(&self, operation: &str, count: u32) -> Result<(Duration, Option<Duration>), Error> {
        self.in_turns(
            |cache| self.kiln(cache, operation, count, "n"),
            |cache| self.reference(cache, operation, count),
            |_| Ok(()),
        )
    }

    fn in_turns(
        &self,
        kiln: impl Fn(&Path) -> Command,
        reference: impl Fn(&Path) -> Option<Command>,
        prepare: impl Fn(&Path) -> Result<(), Error>,
    ) -> Result<(Duration, Option<Duration>), Error> {
        let cache = self.context.scratch.join("cache");
        let (mut best, mut best_of_reference) = (Duration::MAX, None::<Duration>);
        for run in 1..=self.context.runs {
            for (side, command) in [("kiln", Some(kiln(&cache))), ("reference", reference(&cache))] {
                let Some(mut command) = command else { continue };
                remove(&cache)?;
                prepare(&cache)?;
                let time = together(&mut [&mut command])?.told;
                eprintln!("  {side} {run}/{}: {}", self.context.runs, crate::text::duration(time));
                if side == "kiln" {
                    best = best.min(time);
                } else {
                    best_of_reference = Some(best_of_reference.map_or(time, |best| best.min(time)));
                }
            }
        }
        remove(&cache)?;
        Ok((best, best_of_reference))
    }

    /// Many processes must not take longer for the same than few.
    fn side_by_side(&self) -> Result<Row, Error> {
        eprintln!("cache: {MANY} processes");
        let cache = self.context.scratch.join("cache");
        let mut best = [Duration::MAX; 2];
        for run in 1..=self.context.runs {
            for (processes, best) in [FEW, MANY].into_iter().zip(&mut best) {
                remove(&cache)?;
                let command =
                    |number: u32| self.kiln(&cache, "mixed", TOGETHER / processes, &number.to_string());
                let mut commands: Vec<Command> = (0..processes).map(command).collect();
                let time = together(&mut commands.iter_mut().collect::<Vec<_>>())?.measured;
                eprintln!(
                    "  {processes} processes {run}/{}: {}",
                    self.context.runs,
                    crate::text::duration(time)
                );
                *best = time.min(*best);
            }
        }
        remove(&cache)?;
        let [few, many] = best;
        Ok(Row {
            case: format!("{MANY} processes that load, stage and store {TOGETHER} times together"),
            limit: Some(Limit::TimesAsFast(1.0)),
            kiln: Value::Time(many),
            other: Some(("2 processes", Value::Time(few))),
        })
    }

    /// Fills a cache with small objects.
    fn fill(&self, cache: &Path, objects: u32) -> Result<(), Error> {
        together(&mut [&mut self.kiln(cache, "store", objects, "object")]).map(|_| ())
    }

    fn prune(&self) -> Result<Row, Error> {
        let case = format!("pruning {OBJECTS} objects down by half");
        eprintln!("cache: {case}");
        let (kiln, reference) = self.in_turns(
            |cache| self.kiln(cache, "prune", 1, "n"),
            |cache| self.reference(cache, "prune", 1),
            |cache| self.fill(cache, OBJECTS),
        )?;
        Ok(row(case, 3.0, kiln, reference))
    }

    fn info(&self) -> Result<Row, Error> {
        let case = format!("`kiln cache info` of {ENTRIES} objects, the whole command");
        eprintln!("cache: {case}");
        let cache = self.context.scratch.join("cache");
        remove(&cache)?;
        self.fill(&cache, ENTRIES)?;
        let command = || {
            let mut command = self.context.programs.kiln("cache");
            command.args(["info", "--cache"]).arg(&cache);
            command
        };
        let series = in_turns(self.context.runs.max(RUNS), &mut [Side::new("kiln", command)])?;
        remove(&cache)?;
        let best = series.first().map(super::measure::Series::best).unwrap_or_default();
        let limit = Some(Limit::AtMost(Value::Time(INFO)));
        Ok(Row { case, limit, kiln: Value::Time(best), other: None })
    }
}

/// What a worker that is on its own says it took.
pub(super) fn told(command: &mut Command) -> Result<Duration, Error> {
    together(&mut [command]).map(|took| took.told)
}

/// How long processes took.
struct Took {
    /// What the last of them says.
    told: Duration,
    /// From when all were let go until all were done.
    measured: Duration,
}

/// Starts processes, lets all go at once when each has opened the cache, and waits for all.
fn together(commands: &mut [&mut Command]) -> Result<Took, Error> {
    let mut workers =
        commands.iter_mut().map(|command| Worker::start(command)).collect::<Result<Vec<_>, _>>()?;
    // What was written before must not be written out at their expense.
    rustix::fs::sync();
    let started = Instant::now();
    for worker in &mut workers {
        worker.go()?;
    }
    let mut took = Took { told: Duration::ZERO, measured: Duration::ZERO };
    for worker in &mut workers {
        took.told = worker.line()?.parse().map(Duration::from_nanos).unwrap_or_default();
    }
    took.measured = started.elapsed();
    for worker in workers {
        worker.end()?;
    }
    Ok(took)
}

struct Worker {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    program: PathBuf,
}

impl Worker {
    fn start(command: &mut Command) -> Result<Self, Error> {
        die_with_parent(command);
        let program = PathBuf::from(command.get_program());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::file("start", &program))?;
        let stdout = child.stdout.take().ok_or_else(|| Error::Missing("standard output".to_owned()))?;
        let mut worker = Self { child, stdout: BufReader::new(stdout), program };
        worker.line()?;
        Ok(worker)
    }

    fn go(&mut self) -> Result<(), Error> {
        let stdin = self.child.stdin.as_mut().ok_or_else(|| Error::Missing("standard input".to_owned()))?;
        stdin.write_all(b"g").map_err(Error::file("let go", &self.program))
    }

    fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).map_err(Error::file("listen to", &self.program))?;
        if line.is_empty() {
            return Err(self.failure());
        }
        Ok(line.trim().to_owned())
    }

    fn failure(&mut self) -> Error {
        let mut errors = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            // Best effort: this only explains another error.
            let _ = stderr.read_to_string(&mut errors);
        }
        let status = self.child.wait().map_or_else(|error| error.to_string(), describe);
        Error::Content { path: self.program.clone(), what: format!("ended with {status}: {}", errors.trim()) }
    }

    fn end(mut self) -> Result<(), Error> {
        let status = self.child.wait().map_err(Error::file("wait for", &self.program))?;
        if status.success() { Ok(()) } else { Err(self.failure()) }
    }
}
