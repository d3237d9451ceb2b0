//! Native assemblers: the last step of a format-1 pipeline, which makes the result from the tree.

use kiln_api::stage::StageModule;

/// All native assemblers, sorted by name.
pub(crate) const ASSEMBLERS: &[StageModule] = &[];
