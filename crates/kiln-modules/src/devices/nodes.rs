//! Device nodes in the build root's `/dev`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// Nodes that go away with the device, for the next one of that number may be another's.
pub(super) struct Nodes {
    pub(super) paths: Vec<PathBuf>,
}

impl Nodes {
    pub(super) fn new() -> Self {
        Self { paths: Vec::new() }
    }

    /// Makes the node of a block device, and the directories that it is in.
    pub(super) fn make(&mut self, dev: &Path, name: &str, major: u32, minor: u32) -> Result<(), ModuleError> {
        let path = dev.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(ModuleError::io("create directory", parent))?;
        }
        let number = makedev(major, minor);
        let make = || mknodat(CWD, &path, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, number);
        match make() {
            // It was made there to open the device by it.
            Err(Errno::EXIST) if is_device(&path, number) => {}
            // What a killed stage of another device left, or a link that a tool made: there is one meaning of a name.
            Err(Errno::EXIST) => {
                fs::remove_file(&path).map_err(ModuleError::io("remove", &path))?;
                make().map_err(|errno| ModuleError::io("make the device node", &path)(errno.into()))?;
            }
            // Containers that may not make nodes may still show the ones they have.
            Err(Errno::PERM) => {
                File::create(&path).map_err(ModuleError::io("create", &path))?;
                rustix::mount::mount_bind(Path::new("/dev").join(name), &path)
                    .map_err(io::Error::from)
                    .map_err(ModuleError::io("bind the host's device node to", &path))?;
            }
            result => result.map_err(|errno| ModuleError::io("make the device node", &path)(errno.into()))?,
        }
        if !self.paths.contains(&path) {
            self.paths.push(path);
        }
        Ok(())
    }
}

/// Whether a path is the node of this block device, and no link.
fn is_device(path: &Path, number: u64) -> bool {
    fs::symlink_metadata(path).is_ok_and(|info| info.file_type().is_block_device() && info.rdev() == number)
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for path in &self.paths {
            if fs::remove_file(path).is_err() {
                // Best effort: the directory goes away with the build root.
                let _ = rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
                let _ = fs::remove_file(path);
            }
        }
    }
}
