//! Native runners.

/// All native runners, sorted by name.
pub(crate) const RUNNERS: &[kiln_api::stage::Runner] = &[];
