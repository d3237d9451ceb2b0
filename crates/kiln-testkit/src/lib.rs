//! What the project's tests and verbs share, for development only: the host's needs, caches, virtual machines.

pub mod fscache;
pub mod host;
pub mod http;
pub mod vm;
