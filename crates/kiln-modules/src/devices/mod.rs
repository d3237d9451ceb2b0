//! Native devices.

/// All native devices, sorted by name.
pub(crate) const DEVICES: &[&dyn kiln_api::device::Device] = &[];
