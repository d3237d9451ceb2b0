//! The build root as plain data, and the code that carries it out.
//!
//! A [`StageRoot`] gathers the facts about one stage and makes a [`BuildRoot`] of them: an ordered list of
//! mounts and files, capabilities, environment and argument vector, which prints itself with
//! [`BuildRoot::describe`]. [`start`] carries it out by executing a helper (normally Kiln itself, as
//! `kiln sandbox-init`) as the first process of new namespaces; the helper's whole program is
//! [`init_main`]. What a stage sees is what it sees in osbuild's own build root.
//!
//! ```text
//! Kiln ── clone(new namespaces) + exec ──▶ pid 1: sandbox-init: mounts, pivots, drops capabilities, reaps
//!   │  ▲                                       │  fork + exec
//!   │  └── report: setup error | exit status ──┤
//!   └───── lifeline: closes when Kiln ends ──▶ └▶ pid 2: the runner, then the module
//! ```
//!
//! When pid 1 ends, the kernel kills everything in its pid namespace, and waiting for it returns only after
//! all of that is gone. Pid 1 ends when its child does, when it is killed, and when the lifeline closes,
//! which the kernel does for Kiln however Kiln ends. A parent-death signal would do less: it is sent when
//! the *thread* that started the process ends, and it can be missed between `fork` and `prctl`.
//!
//! [`guest`] is a virtual machine with a kernel of its own, for build roots that need what the host's kernel lacks.
//!
//! Limitations: Linux 5.12 or newer (`mount_setattr`), and a caller with `CAP_SYS_ADMIN`.

mod build_root;
mod capability;
mod carry_out;
mod error;
pub mod guest;
mod host;
mod init;
mod prepared;
mod report;
mod running;
mod stage_root;

pub use build_root::{Access, Bind, BuildRoot, Operation, Presence, Root};
pub use error::SandboxError;
pub use host::{Dev, enter_private_namespace, prepare_dev};
pub use init::{SANDBOX_INIT, init_main};
pub use prepared::finish_prepared;
pub use running::{Ended, Running, Streams, start, start_with};
pub use stage_root::{PREPARE, PROC_CMDLINE, PrepareRoot, Program, StageRoot};
