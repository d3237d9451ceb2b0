//! The steps of which runners are made, in the order in which each runner takes them.
//!
//! They are taken in a fresh build root, whose `/etc` is empty but for what the plan shows there. The reference takes
//! the machine id away after the stage; `/etc` goes with the build root anyway, so nobody can tell.

use std::path::Path;

use kiln_api::ModuleError;

use super::{release, tools};

/// One step: what it does to the build root with this root directory.
pub(super) type Step = fn(&Path) -> Result<(), ModuleError>;

/// Carries out steps in their order, up to the first that fails.
pub(super) fn carry_out(steps: &[Step], root: &Path) -> Result<(), ModuleError> {
    steps.iter().try_for_each(|step| step(root))
}

/// The least that any build root needs.
pub(super) const MINIMAL: &[Step] = &[tools::user_database];

pub(super) const DEBIAN: &[Step] = &[tools::ldconfig, tools::sysusers, tools::tmpfiles, tools::no_nsswitch];

/// Fedora as it was before its cryptographic policies kept `rpm` from reading old signatures.
pub(super) const FEDORA: &[Step] =
    &[tools::ldconfig, tools::sysusers, tools::machine_id, tools::tmpfiles, tools::no_nsswitch];

pub(super) const FEDORA_WITH_POLICIES: &[Step] = &[
    tools::ldconfig,
    tools::sysusers,
    tools::machine_id,
    tools::tmpfiles,
    tools::no_nsswitch,
    tools::crypto_policies,
];

pub(super) const RHEL7: &[Step] = &[tools::ldconfig_with_iscsi, tools::no_nsswitch];

pub(super) const RHEL81: &[Step] = &[
    tools::ldconfig,
    tools::sysusers,
    tools::machine_id,
    tools::tmpfiles,
    tools::no_nsswitch,
    release::rhel81,
    tools::python3,
];

pub(super) const RHEL8: &[Step] = &[
    tools::ldconfig,
    tools::sysusers,
    tools::machine_id,
    tools::tmpfiles,
    tools::no_nsswitch,
    tools::crypto_policies,
    tools::python3,
];
