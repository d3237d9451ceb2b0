//! Inputs: each hands content to a stage, on the host.

use kiln_api::input::Input;

mod files;
#[cfg(test)]
mod fixture;
mod tree;

/// All native inputs, sorted by name.
pub(crate) const INPUTS: &[&dyn Input] = &[&files::Files, &tree::Tree];
