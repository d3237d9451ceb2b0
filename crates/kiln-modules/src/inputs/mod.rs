//! Native inputs.

/// All native inputs, sorted by name.
pub(crate) const INPUTS: &[&dyn kiln_api::input::Input] = &[];
