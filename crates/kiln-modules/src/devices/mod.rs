//! Native devices.

mod loopback;

/// All native devices, sorted by name.
pub(crate) const DEVICES: &[&dyn kiln_api::device::Device] = &[&loopback::Loopback];
