//! Build roots that a native runner has prepared: done once for each build tree and runner, reused by all stages.

use std::collections::HashMap;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_sandbox::{Ended, PrepareRoot, Program, finish_prepared};

use super::workplace::{Temporary, Workplace};
use super::{BuildTree, RunError, directories};

/// A prepared build root; removed when the run ends.
pub(super) struct Prepared(Temporary);

impl Prepared {
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A build tree and a runner's name.
type Key = (PathBuf, String);
/// One lock for each key, so that different build trees are prepared at the same time.
type Slot = Arc<Mutex<Option<Arc<Prepared>>>>;

/// All prepared build roots of a run.
#[derive(Default)]
pub(super) struct PreparedRoots(Mutex<HashMap<Key, Slot>>);

impl PreparedRoots {
    /// The prepared build root for a build tree and a runner.
    pub(super) fn get(
        &self,
        workplace: Workplace<'_>,
        build: &BuildTree,
        runner: &str,
    ) -> Result<Arc<Prepared>, RunError> {
        let key = (build.path().to_owned(), runner.to_owned());
        let slot = Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = &*slot {
            return Ok(Arc::clone(prepared));
        }
        let prepared = Arc::new(prepare(workplace, build, runner)?);
        *slot = Some(Arc::clone(&prepared));
        Ok(prepared)
    }
}

fn prepare(workplace: Workplace<'_>, build: &BuildTree, runner: &str) -> Result<Prepared, RunError> {
    let into = workplace.trees.tempdir("prepared-")?;
    let (directory, _nodes) = directories::dev(workplace.rundir)?;
    let plan = PrepareRoot {
        root: build.path(),
        boot: build.is_object(),
        dev: directory.path(),
        runner: Program { path: workplace.program, name: runner },
        terminal: workplace.terminal,
        into: into.path(),
    }
    .plan();
    let (mut reader, writer) = std::io::pipe().map_err(RunError::Pipe)?;
    let running = kiln_sandbox::start(&plan, workplace.program, writer.as_fd())?;
    drop(writer);
    let (ended, output) = std::thread::scope(|scope| {
        let output = scope.spawn(move || {
            let mut bytes = Vec::new();
            // What could be read is all there is to show.
            let _ = reader.read_to_end(&mut bytes);
            bytes
        });
        let ended = running.wait(None, workplace.interrupted)?;
        Ok::<_, RunError>((ended, output.join().unwrap_or_default()))
    })?;
    match ended {
        Ended::Exited(0) => {}
        Ended::Interrupted => return Err(RunError::Interrupted),
        _ => {
            return Err(RunError::Runner {
                runner: runner.to_owned(),
                output: String::from_utf8_lossy(&output).trim_end().to_owned(),
            });
        }
    }
    finish_prepared(into.path())?;
    Ok(Prepared(into))
}
