//! Native modules, one file each. A module's doc comment is its help, its options type its only statement of
//! what it accepts; the lists below are sorted by name, and a test fails if a file is missing from them.

use kiln_api::module::Modules;

mod checksum;
mod devices;
mod inputs;
mod mounts;
mod runners;
#[cfg(test)]
mod schema_agreement;
mod sources;
#[cfg(test)]
mod stage_fixture;
mod stages;
mod support;

/// Everything that is native.
pub const MODULES: Modules = Modules {
    stages: stages::STAGES,
    sources: sources::SOURCES,
    inputs: inputs::INPUTS,
    devices: devices::DEVICES,
    mounts: mounts::MOUNTS,
    runners: runners::RUNNERS,
};
