//! Manifest to plan to run.
//!
//! The engine knows no terminal, no environment and no module by name: it is handed the native modules, and what
//! happens leaves it as events.
//!
//! - [`manifest`]: text to a resolved manifest with ids; validation.
//! - [`plan`]: what must be fetched and built, and why.
//! - [`event`]: what happens, for presenters.
//! - [`runner`]: which runner prepares a build root.

pub mod event;
pub mod manifest;
pub mod plan;
pub mod runner;
