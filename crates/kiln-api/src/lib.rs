//! What both ends of a wire agree on.
//!
//! The engine knows no module by name: it is handed an [`Modules`](module::Modules) of everything that is
//! native and talks to it through the traits of this crate. Modules know no engine: a stage sees its
//! [`StageArguments`](stage::StageArguments), the host-side kinds see one request each.
//!
//! - [`module`]: what is the same for every kind (name, schema, documentation).
//! - [`stage`]: stages and runners, which run as processes inside the build root.
//! - [`source`], [`input`], [`device`], [`mount`]: the kinds that run on the host.
//! - [`loops`]: loop devices that stages ask for while they run.
//! - [`location`]: the `tree://`, `mount://` and `input://` addresses that stages use.
//! - [`endpoint`]: sockets that are listened on, wherever they are.
//! - [`wire`]: messages between processes, with descriptors.
//! - [`error`]: how a module fails.

pub mod device;
pub mod endpoint;
pub mod error;
pub mod input;
pub mod location;
pub mod loops;
pub mod module;
pub mod mount;
pub mod source;
pub mod stage;
pub mod wire;

pub use error::ModuleError;
