//! Inputs: each hands content to a stage, on the host.

use kiln_api::input::Input;

mod containers;
mod containers_storage;
mod files;
#[cfg(test)]
mod fixture;
mod noop;
mod ostree;
mod ostree_checkout;
mod ostree_commits;
mod tree;

/// All native inputs, sorted by name.
pub(crate) const INPUTS: &[&dyn Input] = &[
    &containers::Containers,
    &containers_storage::ContainersStorage,
    &files::Files,
    &noop::Noop,
    &ostree::Ostree,
    &ostree_checkout::OstreeCheckout,
    &tree::Tree,
];
