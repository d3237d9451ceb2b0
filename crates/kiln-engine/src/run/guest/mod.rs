//! Pipelines that are built in virtual machines: with a kernel that can do what this one cannot.
//!
//! Each pipeline has a machine of its own, which ends with it. The object store stays on the host, which alone locks, commits and evicts: the
//! machine sees the cache's directory under its own path, and is told for each stage where its tree is and where those are that it takes in. In the
//! machine a stage is run by the same code as on the host.
//!
//! ```text
//! host                                        guest
//! task: {stages: {told, place}}      ──────▶  what all stages have in common, and what the program wants to know
//! {stage, tree, metadata, trees}     ──────▶
//!                                    ◀──────  {output} … {warning} … {service, text}
//!                                    ◀──────  {result} or {error}
//! …                                  ──────▶  the next stage, or the end
//! ```
//!
//! What a stage has written is on the host before its result is: the guest keeps nothing back.

mod host;
mod serve;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_sandbox::guest::{Guest, GuestError, Hardware, Kernel};
use serde_json::Value;

pub(super) use host::PipelineGuest;
pub use serve::{ServeError, serve};

use crate::manifest::Pipeline;

/// The pipelines that are built in virtual machines, and the machines.
#[derive(Clone, Debug)]
pub struct Guests {
    /// The pipelines, by name or id.
    pub pipelines: Vec<String>,
    /// What each machine has.
    pub hardware: Hardware,
    /// The directory with the kernel; if none is named it is that of the build root or one of the host's.
    pub kernels: Option<PathBuf>,
    /// The environment of what runs in the machine beside stages.
    pub environment: BTreeMap<String, String>,
    /// What the program wants to know in the machine to find the same modules.
    pub told: Value,
}

impl Guests {
    /// Whether a pipeline is built in a machine.
    pub fn has(&self, pipeline: &Pipeline) -> bool {
        let id = pipeline.id().map(crate::manifest::Id::as_str);
        self.pipelines.iter().any(|wanted| *wanted == pipeline.name || Some(wanted.as_str()) == id)
    }

    /// Says whether what machines need is there, as far as that can be known before anything is built: a build root may bring a kernel.
    pub(super) fn check(&self) -> Result<(), GuestError> {
        Guest::check()?;
        self.kernels.as_deref().map_or(Ok(()), |directory| Kernel::find(&[directory]).map(|_| ()))
    }
}
