//! The commands of both sides.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;

/// The programs that are compared.
#[derive(Debug)]
pub(super) struct Programs {
    kiln: PathBuf,
    reference: Option<PathBuf>,
}

impl Programs {
    /// Takes Kiln's program and, if there is one, the reference's checkout.
    pub(super) fn new(kiln: PathBuf, reference: Option<PathBuf>) -> Result<Self, Error> {
        if let Some(directory) = &reference
            && !directory.join("osbuild").is_dir()
        {
            let what = "is no checkout of the reference: it has no directory `osbuild`".to_owned();
            return Err(Error::Content { path: directory.clone(), what });
        }
        Ok(Self { kiln, reference })
    }

    /// Whether there is a reference to compare with.
    pub(super) fn has_reference(&self) -> bool {
        self.reference.is_some()
    }

    /// The reference's checkout.
    pub(super) fn checkout(&self) -> Option<&Path> {
        self.reference.as_deref()
    }

    /// A command of Kiln.
    pub(super) fn kiln(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.kiln);
        command.arg(verb);
        command
    }

    /// Kiln's program.
    pub(super) fn program(&self) -> &Path {
        &self.kiln
    }

    /// Kiln by the reference's name.
    pub(super) fn osbuild(&self) -> Command {
        let mut command = Command::new(&self.kiln);
        command.arg0("osbuild");
        command
    }

    /// Kiln building a manifest.
    pub(super) fn kiln_build(&self, manifest: &Path, cache: &Path) -> Command {
        let mut command = self.kiln("build");
        command.arg(manifest).arg("--cache").arg(cache).args(["--progress", "none"]);
        command
    }

    /// The reference on a manifest, or nothing.
    pub(super) fn reference(&self, manifest: &Path, cache: &Path) -> Option<Command> {
        let directory = self.reference.as_ref()?;
        let mut command = self.reference_itself();
        command.arg("--libdir").arg(directory).arg("--cache").arg(cache).arg(manifest);
        Some(command)
    }

    /// The reference without arguments; it has to be there.
    pub(super) fn reference_itself(&self) -> Command {
        let mut command = Command::new("python3");
        command
            .args(["-m", "osbuild"])
            .envs(self.reference.iter().map(|directory| ("PYTHONPATH", directory)));
        command
    }
}

/// Adds an export to a command of either side.
pub(super) fn export(mut command: Command, pipeline: &str, output: &Path) -> Command {
    command.args(["--export", pipeline, "--output-directory"]).arg(output);
    command
}
