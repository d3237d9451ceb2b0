//! Native devices.

#[cfg(test)]
mod fixture;
mod loopback;
mod luks2;
mod lvm2_lv;
pub(crate) mod mapping;
mod nodes;

/// What makes loop devices for stages that ask for them while they run.
pub(crate) const LOOPS: &dyn kiln_api::loops::Loops = &loopback::Loopback;

/// All native devices, sorted by name.
pub(crate) const DEVICES: &[&dyn kiln_api::device::Device] =
    &[&loopback::Loopback, &luks2::Luks2, &lvm2_lv::Lvm2Lv];
