//! Native mounts.

/// All native mounts, sorted by name.
pub(crate) const MOUNTS: &[&dyn kiln_api::mount::Mount] = &[];
