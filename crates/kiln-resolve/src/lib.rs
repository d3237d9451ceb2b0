//! From a definition to a locked manifest.
//!
//! A definition is a short TOML or JSON text: a blueprint and a table `[kiln]`. [`Definition::parse`] reads it and
//! finds every mistake in it; [`resolve()`] asks the distribution's own solver which packages it needs and writes
//! the manifest that builds it, with the checksum and size of each file.
//!
//! - `definition` reads the text;
//! - `apt` runs the solver in a private root that changes nothing on the host;
//! - `plan` makes the manifest: pure, the same packages in, the same text out.
//!
//! The crate prints nothing, reads no environment, and never exits: all of that is handed in with [`Resolver`].

mod apt;
mod definition;
mod near;
mod plan;
mod resolve;

pub use definition::{Definition, FileSystem, Finding, Format, Output};
pub use plan::Export;
pub use resolve::{Progress, Refresh, Resolution, ResolveError, Resolver, Summary, resolve};
