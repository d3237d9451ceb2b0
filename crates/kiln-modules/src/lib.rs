//! Native modules, one file each. A module's doc comment is its help, its options type its only statement of
//! what it accepts; the lists below are sorted by name, and a test fails if a file is missing from them.

use kiln_api::module::Modules;

mod assemblers;
mod checksum;
mod container_storage;
mod devices;
mod filesystem_mount;
mod host;
mod inputs;
pub mod lvm2;
mod mounts;
mod ostree;
pub mod pe;
pub mod runners;
#[cfg(test)]
mod schema_agreement;
mod sources;
mod stage_devices;
#[cfg(test)]
mod stage_fixture;
#[cfg(test)]
mod stage_test;
mod stages;
mod support;

/// A digest of the code of the native modules and of what they run in: results of other code are not used again.
pub const CODE: &str = env!("KILN_CODE");

/// What makes loop devices for stages of a library that ask for them while they run.
pub const LOOPS: &dyn kiln_api::loops::Loops = devices::LOOPS;

/// Everything that is native.
pub const MODULES: Modules = Modules {
    stages: stages::STAGES,
    assemblers: assemblers::ASSEMBLERS,
    sources: sources::SOURCES,
    inputs: inputs::INPUTS,
    devices: devices::DEVICES,
    mounts: mounts::MOUNTS,
    runners: runners::RUNNERS,
};
