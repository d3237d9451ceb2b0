//! Modules of a library directory that run on the host: programs that are started for as long as what they make is
//! needed, and asked over a socket.
//!
//! A program is started as `PROGRAM --service-id ID --service-fd FD`, answers one request after the other, and ends
//! when its socket is closed, after it has undone what it did. The adapters make such programs what native modules
//! are: [`Input`](kiln_api::input::Input), [`Device`](kiln_api::device::Device),
//! [`Mount`](kiln_api::mount::Mount), [`Source`](kiln_api::source::Source).

mod device;
#[cfg(test)]
pub(crate) mod fuzz;
mod input;
mod log;
mod message;
mod mount;
mod service;
mod source;
mod store;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

pub(crate) use device::ExternalDevice;
pub(crate) use input::ExternalInput;
pub(crate) use log::{Log, Pump};
pub(crate) use mount::ExternalMount;
pub(crate) use source::ExternalSource;

use crate::index::Library;

/// A module of a library directory, and what it is started with.
#[derive(Clone)]
pub(crate) struct External<'a> {
    /// Its name in the manifest's stage, after its kind: `input/tree`.
    pub(crate) id: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// The library.
    pub(crate) library: &'a Library,
    /// Where what it says goes.
    pub(crate) log: Log,
    /// Set when the user interrupts.
    pub(crate) interrupted: &'a AtomicBool,
}
