//! Native sources.

/// All native sources, sorted by name.
pub(crate) const SOURCES: &[&dyn kiln_api::source::Source] = &[];
