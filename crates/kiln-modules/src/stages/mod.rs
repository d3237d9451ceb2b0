//! Stages: each changes the tree (or a device), inside the build root.

use kiln_api::stage::StageModule;

mod noop;

/// All native stages, sorted by name.
pub(crate) const STAGES: &[StageModule] = &[StageModule::of::<noop::Noop>()];
