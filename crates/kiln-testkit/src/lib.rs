//! What the project's tests and verbs share, for development only: the host's needs, virtual machines.

pub mod host;
pub mod http;
pub mod vm;
