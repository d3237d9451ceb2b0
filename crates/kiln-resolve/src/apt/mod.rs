//! The distribution's own solver, `apt-get`, in a private root.
//!
//! ```text
//! STATE/lock            one resolution at a time
//! STATE/refreshed       digest of the sources that the lists are of; its age is theirs
//! STATE/apt.conf        read after the host's configuration: private directories, no hooks, only package indexes
//! STATE/early.conf      read before it: another configuration directory, if one was asked for
//! STATE/status          the dpkg database of the private root: nothing is installed
//! STATE/state/lists     the package lists and their signed releases
//! STATE/cache, log
//! ```
//!
//! Sources, keys, pins, credentials and proxies are the host's. The host's hooks are cleared, because they act on
//! the host: they empty its cache, notify its daemons. Nothing outside the state directory is written.

mod child;
mod index;
mod release;
mod root;
mod solve;

pub(crate) use index::{Record, names};
pub(crate) use root::{Apt, Target};
pub(crate) use solve::{epoch, lock};
