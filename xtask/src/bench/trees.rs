//! Trees: copied and removed against `cp -a --reflink=auto` and `rm -rf`, on each file system that caches are kept on.

use std::process::Command;
use std::time::Duration;

use super::measure::{Series, Side, in_turns};
use super::scratch::{FileSystem, Scratch};
use super::table::{Limit, Row, Value};
use super::{Context, memory, sample};
use crate::cargo;
use crate::error::Error;

/// How many times as fast a copy must be where the file system copies, shares blocks, and makes snapshots.
const COPY: f64 = 1.3;
const CLONE: f64 = 1.5;
const SNAPSHOT: f64 = 10.0;
/// How many times as fast a removal must be.
const REMOVAL: f64 = 1.3;
/// How long giving a tree its name in the cache may take, whatever its size.
const COMMIT: Duration = Duration::from_millis(5);
/// How much memory a copy may take, in bytes.
const MEMORY: u64 = 64 << 20;
/// So many entries has a large directory.
const ENTRIES: u32 = 100_000;

/// Measures the cases.
pub(super) fn measure(context: &Context<'_>) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for (kind, name, factor) in [
        (FileSystem::Ext4, "ext4", COPY),
        (FileSystem::Xfs, "xfs, blocks shared,", CLONE),
        (FileSystem::Btrfs, "btrfs, by snapshot,", SNAPSHOT),
    ] {
        eprintln!("trees on {kind}");
        let bench = Bench { context, scratch: Scratch::mount(kind)? };
        rows.extend(bench.copy_and_remove(name, factor)?);
        if kind == FileSystem::Ext4 {
            rows.extend(bench.more()?);
        }
    }
    Ok(rows)
}

struct Bench<'a> {
    context: &'a Context<'a>,
    scratch: Scratch,
}

impl Bench<'_> {
    fn kiln(&self, verb: &str, paths: &[&str]) -> Command {
        let mut command = self.context.programs.kiln("tree");
        command.arg(verb).args(paths.iter().map(|name| self.scratch.join(name)));
        command
    }

    fn run_kiln(&self, verb: &str, paths: &[&str]) -> Result<(), Error> {
        super::measure::timed("kiln tree", &mut self.kiln(verb, paths)).map(drop)
    }

    fn other(&self, program: &str, options: &[&str], paths: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(options).args(paths.iter().map(|name| self.scratch.join(name)));
        command
    }

    fn copy_and_remove(&self, name: &str, factor: f64) -> Result<[Row; 2], Error> {
        // As objects come to be: a root that is a subvolume where there are such.
        sample::make(&self.scratch.join("made"))?;
        self.run_kiln("copy", &["made", "tree"])?;
        self.run_kiln("remove", &["made"])?;
        let clear = || self.run_kiln("remove", &["copy"]);
        let copied = in_turns(
            self.context.runs,
            &mut [
                Side::new("kiln", || self.kiln("copy", &["tree", "copy"])).after(clear),
                Side::new("cp", || self.other("cp", &["-a", "--reflink=auto"], &["tree", "copy"]))
                    .after(clear),
            ],
        )?;
        clear()?;
        let fill = || self.run_kiln("copy", &["tree", "copy"]);
        let removed = in_turns(
            self.context.runs,
            &mut [
                Side::new("kiln", || self.kiln("remove", &["copy"])).after(fill),
                Side::new("rm", || self.other("rm", &["-rf"], &["copy"])).after(fill),
            ],
        )?;
        let row = |case: String, factor, other, series: &[Series]| Row {
            case,
            limit: Some(Limit::TimesAsFast(factor)),
            kiln: best(series, 0),
            other: Some((other, best(series, 1))),
        };
        Ok([
            row(format!("{name} copying 500 MB in 20,000 files"), factor, "`cp -a --reflink=auto`", &copied),
            row(format!("{name} removing them"), REMOVAL, "`rm -rf`", &removed),
        ])
    }

    /// What does not depend on the file system.
    fn more(&self) -> Result<Vec<Row>, Error> {
        let series =
            in_turns(self.context.runs, &mut [Side::new("kiln", || self.kiln("measure", &["tree"]))])?;
        let mut rows =
            vec![Row { case: "measuring them".to_owned(), limit: None, kiln: best(&series, 0), other: None }];
        rows.extend(self.keep()?);
        let wide = format!("a directory of {ENTRIES} entries");
        sample::make_wide(&self.scratch.join("wide"), ENTRIES)?;
        for (case, tree) in [("500 MB in 20,000 files", "tree"), (wide.as_str(), "wide")] {
            for (verb, paths) in [("copy", [tree, "copy"].as_slice()), ("remove", ["copy"].as_slice())] {
                let peak = memory::peak(&mut self.kiln(verb, paths))?;
                rows.push(Row {
                    case: format!("peak memory of `kiln tree {verb}`, {case}"),
                    limit: Some(Limit::AtMost(Value::Memory(MEMORY))),
                    kiln: Value::Memory(peak.main),
                    other: None,
                });
            }
        }
        Ok(rows)
    }
}

impl Bench<'_> {
    /// What keeping the tree in a cache takes, copying it there aside.
    fn keep(&self) -> Result<Vec<Row>, Error> {
        let worker = cargo::build_example("kiln-store", "cache_bench")?;
        let cases = [
            (
                "commit",
                "giving them, finished, their name in the cache",
                Some(Limit::AtMost(Value::Time(COMMIT))),
            ),
            ("finish", "finishing them: measuring, and the name", None),
            ("off", "committing them and closing the cache, never flushed", None),
            ("deferred", "committing them and closing the cache, flushed after", None),
            ("before", "committing them and closing the cache, flushed before", None),
        ];
        let mut rows = Vec::new();
        for (operation, case, limit) in cases {
            let mut best = Duration::MAX;
            for _ in 0..self.context.runs {
                let cache = self.scratch.join("cache");
                let mut command = Command::new(&worker);
                command.arg(&cache).args([operation, "1"]).arg(self.scratch.join("tree"));
                best = best.min(super::cache::told(&mut command)?);
                super::scratch::remove(&cache)?;
            }
            eprintln!("  {operation}: {}", crate::text::duration(best));
            rows.push(Row { case: case.to_owned(), limit, kiln: Value::Time(best), other: None });
        }
        Ok(rows)
    }
}

fn best(series: &[Series], index: usize) -> Value {
    Value::Time(series.get(index).map(Series::best).unwrap_or_default())
}
