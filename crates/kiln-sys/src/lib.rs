//! Safe wrappers of the Linux interfaces that Kiln needs and that no well-kept crate has.
//!
//! This is the only crate in which `unsafe` is allowed; each use has a `SAFETY` note.
//!
//! - [`command`]: the one way to run a child process.

pub mod command;
