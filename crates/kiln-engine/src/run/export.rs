//! Exports: finished trees in the user's output directory, one directory for each.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_store::object::{ExportOptions, Object};
use rustix::fs::{Access, access};

use super::{Context, OutputError, RunError};
use crate::event::{Event, Events};
use crate::plan::Plan;

/// A tree in the output directory.
#[derive(Debug)]
pub struct Exported {
    /// The export's name.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    /// How long it took.
    pub duration: Duration,
}

/// Makes the output directory, and makes sure that it can be written to.
pub(super) fn check_output(output: &Path) -> Result<(), RunError> {
    std::fs::create_dir_all(output)
        .and_then(|()| Ok(access(output, Access::WRITE_OK | Access::EXEC_OK)?))
        .map_err(failed(output, OutputError::Directory))
}

/// Exports what the plan says. `built` are the objects of this run; what the cache does not keep is moved, not
/// copied, if nobody else needs it.
///
/// What has the export's name is whole: a new directory gets its name when everything is in it. Only a directory
/// that is there already is filled in place.
pub(super) fn export(
    context: &Context<'_>,
    plan: &Plan,
    built: Vec<Arc<Object>>,
    events: Events<'_>,
) -> Result<Vec<Exported>, RunError> {
    let Some(output) = context.output_directory else { return Ok(Vec::new()) };
    let mut exported = Vec::new();
    let mut objects = Vec::new();
    for export in &plan.exports {
        let object = context.store.get((export.id.as_str(), export.recipe.as_str()))?;
        objects.push(object.ok_or_else(|| RunError::Vanished { pipeline: export.pipeline.clone() })?);
    }
    drop(built);
    for (export, object) in plan.exports.iter().zip(objects) {
        let start = Instant::now();
        events(Event::ExportStarted { name: &export.name });
        let path = output.join(&export.name);
        if path.exists() {
            put(context, object, &path)?;
        } else {
            let unfinished = tempfile::Builder::new()
                .prefix(&format!(".{}-", export.name))
                .tempdir_in(output)
                .map_err(failed(output, OutputError::Directory))?;
            let tree = unfinished.path().join("tree");
            std::fs::create_dir(&tree).map_err(failed(&tree, OutputError::Directory))?;
            put(context, object, &tree)?;
            std::fs::rename(&tree, &path).map_err(failed(&path, OutputError::Directory))?;
        }
        let duration = start.elapsed();
        events(Event::ExportFinished { name: &export.name, duration });
        exported.push(Exported { name: export.name.clone(), path, duration });
    }
    Ok(exported)
}

fn put(context: &Context<'_>, object: Arc<Object>, path: &Path) -> Result<(), RunError> {
    let options = ExportOptions { no_preserve_owner: !context.keep_owners };
    let done = if object.is_floating() {
        context.store.export_by_rename(object, path, options).map(|_| ())
    } else {
        object.export(path, options, context.interrupted)
    };
    done.map_err(|error| {
        if error.is_interrupted() { RunError::Interrupted } else { failed(path, OutputError::Export)(error) }
    })
}

fn failed<E>(path: &Path, kind: impl FnOnce(E) -> OutputError) -> impl FnOnce(E) -> RunError {
    let path = path.to_owned();
    move |error| RunError::Output { path, source: kind(error) }
}
