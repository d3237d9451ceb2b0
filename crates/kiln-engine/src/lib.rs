//! Manifest to plan to run.
//!
//! The engine knows no terminal, no environment and no module by name: it is handed the native modules, and what
//! happens leaves it as events.
//!
//! - [`manifest`]: text to a resolved manifest with ids; validation.
//! - [`runner`]: which runner prepares a build root.

pub mod manifest;
pub mod runner;
