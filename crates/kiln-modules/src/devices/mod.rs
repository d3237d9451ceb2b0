//! Native devices.

mod loopback;

/// What makes loop devices for stages that ask for them while they run.
pub(crate) const LOOPS: &dyn kiln_api::loops::Loops = &loopback::Loopback;

/// All native devices, sorted by name.
pub(crate) const DEVICES: &[&dyn kiln_api::device::Device] = &[&loopback::Loopback];
