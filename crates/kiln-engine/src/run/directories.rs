//! The directories on the host that belong to one run of a stage.
//!
//! ```text
//! CACHE/tmp/…/inputs/      shown as /run/osbuild/inputs
//!             mounts/      shown as /run/osbuild/mounts
//!             api/         the arguments file and sockets
//!             var/         shown as /var: on disk, because it may grow large
//! RUNDIR/dev/              a tmpfs of this run, in Kiln's own mount namespace: nothing of it can stay on the host
//!            …/            a tmpfs that allows device nodes, shown as /dev
//! ```

use std::io;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_sandbox::{Dev, SandboxError, prepare_dev};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::RunError;
use super::workplace::{Temporary, Trees};

/// The directory of device directories below the run directory.
const DEV: &str = "dev";

/// The directories of one run of a stage; removed when dropped.
pub(super) struct Directories {
    base: PathBuf,
    pub(super) inputs: PathBuf,
    pub(super) mounts: PathBuf,
    pub(super) arguments: PathBuf,
    pub(super) exceptions: PathBuf,
    pub(super) remote_loop: PathBuf,
    pub(super) var: PathBuf,
    pub(super) dev: PathBuf,
    // The device nodes go before the directory they are mounted on.
    _nodes: Dev,
    _dev: tempfile::TempDir,
    _base: Temporary,
}

impl Directories {
    pub(super) fn create(trees: Trees<'_>, rundir: &Path) -> Result<Self, RunError> {
        let base = trees.tempdir("buildroot-tmp-")?;
        let make = |name: &str| {
            let path = base.path().join(name);
            std::fs::create_dir(&path).map(|()| path.clone()).map_err(RunError::io("create directory", &path))
        };
        let (inputs, mounts, api, var) = (make("inputs")?, make("mounts")?, make("api")?, make("var")?);
        let dev = dev_directory(rundir).map_err(RunError::io("create a directory in", rundir))?;
        let nodes = prepare_dev(dev.path())?;
        Ok(Self {
            base: base.path().to_owned(),
            inputs,
            mounts,
            arguments: api.join("arguments"),
            exceptions: api.join("osbuild"),
            remote_loop: api.join("remoteloop"),
            var,
            dev: dev.path().to_owned(),
            _nodes: nodes,
            _dev: dev,
            _base: base,
        })
    }

    /// A directory on the host for the endpoints of one input.
    pub(super) fn endpoint(&self, input: &str) -> Result<PathBuf, ModuleError> {
        // By number: names may be longer than what leads to a socket.
        let endpoints = self.base.join("endpoints");
        let made = std::fs::create_dir_all(&endpoints).and_then(|()| {
            let path = endpoints.join(std::fs::read_dir(&endpoints)?.count().to_string());
            std::fs::create_dir(&path).map(|()| path)
        });
        made.map_err(ModuleError::io("create a directory for the input", Path::new(input)))
    }
}

/// A fresh `/dev` for a run that prepares a build root.
pub(super) fn dev(rundir: &Path) -> Result<(tempfile::TempDir, Dev), RunError> {
    let directory = dev_directory(rundir).map_err(RunError::io("create a directory in", rundir))?;
    let nodes: Result<Dev, SandboxError> = prepare_dev(directory.path());
    Ok((directory, nodes?))
}

/// The place for device directories. On the host it is an empty directory.
pub(super) struct PrivateRundir(PathBuf);

impl PrivateRundir {
    pub(super) fn mount(rundir: &Path) -> Result<Self, RunError> {
        let path = rundir.join(DEV);
        std::fs::create_dir_all(&path).map_err(RunError::io("create directory", &path))?;
        mount("tmpfs", &path, "tmpfs", MountFlags::NOSUID, c"mode=0700")
            .map_err(|error| RunError::io("mount tmpfs on", &path)(error.into()))?;
        Ok(Self(path))
    }
}

impl Drop for PrivateRundir {
    fn drop(&mut self) {
        // It vanishes with Kiln's mount namespace at the latest.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn dev_directory(rundir: &Path) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("osbuild-dev-").tempdir_in(rundir.join(DEV))
}
