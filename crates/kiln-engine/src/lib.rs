//! Manifest to plan to run.
//!
//! The engine knows no terminal, no environment and no module by name: it is handed the native modules, and what
//! happens leaves it as events.
//!
//! - [`manifest`]: text to a resolved manifest with ids; validation.
//! - [`plan`]: what must be fetched and built, and why.
//! - [`run`]: carries out a plan.
//! - `host`: modules that are programs on the host.
//! - [`compare`]: what differs between two manifests, and why something is built again.
//! - [`event`]: what happens, for presenters.
//! - [`index`]: which modules there are, and what they say of themselves.
//! - [`runner`]: which runner prepares a build root.

pub mod compare;
pub mod event;
mod host;
pub mod index;
pub mod manifest;
pub mod plan;
pub mod recipe;
pub mod run;
pub mod runner;

/// An error and its causes in one line, `: ` between them.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}
