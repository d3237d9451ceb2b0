//! What stages are run with, wherever that is: on this machine, or in a virtual machine that it has started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kiln_store::cache::TemporaryDirectory;
use kiln_store::object::{self, ObjectStore};

use super::shell::Shells;
use super::{Context, RunError};
use crate::index::Index;
use crate::manifest::{Manifest, Pipeline};

/// What stages are run with.
#[derive(Clone, Copy)]
pub(super) struct Workplace<'a> {
    /// The modules there are.
    pub(super) index: &'a Index,
    /// The executable that is module, runner and sandbox helper.
    pub(super) program: &'a Path,
    /// Where device nodes of build roots are mounted.
    pub(super) rundir: &'a Path,
    /// The value of `TERM` in build roots.
    pub(super) terminal: &'a str,
    /// How long a stage may run.
    pub(super) stage_timeout: Option<Duration>,
    /// The shells that the user wants.
    pub(super) shells: Option<&'a Shells<'a>>,
    /// Set when the user interrupts.
    pub(super) interrupted: &'a AtomicBool,
    /// What stages take in, and where they have room.
    pub(super) trees: Trees<'a>,
}

impl<'a> Workplace<'a> {
    /// That of a run on this machine.
    pub(super) fn of(context: &Context<'a>, manifest: &'a Manifest) -> Self {
        Self {
            index: context.index,
            program: context.program,
            rundir: context.rundir,
            terminal: context.terminal,
            stage_timeout: context.stage_timeout,
            shells: context.shells,
            interrupted: context.interrupted,
            trees: Trees::Store { manifest, store: context.store },
        }
    }
}

/// Where finished trees, sources and temporary directories are.
#[derive(Clone, Copy)]
pub(super) enum Trees<'a> {
    /// In the store: the trees of a manifest's pipelines.
    Store { manifest: &'a Manifest, store: &'a ObjectStore },
    /// Where somebody who has the store has said.
    Told(&'a ToldTrees),
}

/// Paths of what a store holds.
#[derive(Debug)]
pub(super) struct ToldTrees {
    /// The trees of pipelines by id.
    pub(super) trees: BTreeMap<String, PathBuf>,
    /// The directory with the sources.
    pub(super) sources: PathBuf,
    /// A directory on disk for temporary ones.
    pub(super) scratch: PathBuf,
}

/// A tree, held for as long as this is.
pub(super) struct HeldTree {
    path: PathBuf,
    _object: Option<Arc<object::Object>>,
}

impl HeldTree {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// A directory that goes with this.
pub(super) enum Temporary {
    Cache(TemporaryDirectory),
    Scratch(tempfile::TempDir),
}

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Cache(directory) => directory.path(),
            Self::Scratch(directory) => directory.path(),
        }
    }
}

impl Trees<'_> {
    /// The tree of the pipeline that an id refers to.
    pub(super) fn get(self, id: &str) -> Result<Option<HeldTree>, RunError> {
        match self {
            Self::Store { manifest, store } => {
                let recipe = manifest.pipeline_by_id(id).map_or("", Pipeline::recipe);
                let held = |object: Arc<object::Object>| HeldTree {
                    path: object.tree().to_owned(),
                    _object: Some(object),
                };
                Ok(store.get((id, recipe))?.map(held))
            }
            Self::Told(told) => {
                Ok(told.trees.get(id).map(|path| HeldTree { path: path.clone(), _object: None }))
            }
        }
    }

    /// Makes a temporary directory on disk.
    pub(super) fn tempdir(self, prefix: &str) -> Result<Temporary, RunError> {
        match self {
            Self::Store { store, .. } => Ok(Temporary::Cache(store.tempdir(prefix)?)),
            Self::Told(told) => tempfile::Builder::new()
                .prefix(prefix)
                .tempdir_in(&told.scratch)
                .map(Temporary::Scratch)
                .map_err(RunError::io("create a directory in", &told.scratch)),
        }
    }

    /// The directory with the sources.
    pub(super) fn sources_dir(self) -> PathBuf {
        match self {
            Self::Store { store, .. } => store.sources_dir(),
            Self::Told(told) => told.sources.clone(),
        }
    }
}
