//! What the project's tests and verbs share, for development only: the host's needs, caches, virtual machines, the reference's tests.

pub mod fscache;
pub mod guest;
pub mod host;
pub mod http;
pub mod lvm2;
pub mod pe;
pub mod reference_tests;
pub mod registry;
pub mod socks;
pub mod tls;
pub mod vm;
