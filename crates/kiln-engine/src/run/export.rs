//! Exports: finished trees in the user's output directory, one directory for each.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_store::object::{ExportOptions, Object};

use super::{Context, RunError};
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

/// Exports what the plan says. `built` are the objects of this run; what the cache does not keep is moved, not
/// copied, if nobody else needs it.
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
        let object = context.store.get(export.id.as_str())?;
        objects.push(object.ok_or_else(|| RunError::Vanished { pipeline: export.pipeline.clone() })?);
    }
    drop(built);
    let options = ExportOptions { no_preserve_owner: !context.keep_owners };
    for (export, object) in plan.exports.iter().zip(objects) {
        let start = Instant::now();
        events(Event::ExportStarted { name: &export.name });
        let path = output.join(&export.name);
        std::fs::create_dir_all(&path).map_err(RunError::io("create directory", &path))?;
        if object.is_floating() {
            context.store.export_by_rename(object, &path, options)?;
        } else {
            object.export(&path, options, context.interrupted)?;
        }
        let duration = start.elapsed();
        events(Event::ExportFinished { name: &export.name, duration });
        exported.push(Exported { name: export.name.clone(), path, duration });
    }
    Ok(exported)
}
