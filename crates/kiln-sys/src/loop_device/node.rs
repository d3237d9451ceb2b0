//! Device nodes: the host's where it has them, else new ones.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, makedev, mknodat};

use super::{LOOP_MAJOR, LoopError, io_error, name};

/// A node that goes away again unless it is kept.
pub(super) struct MadeNode {
    pub(super) path: PathBuf,
}

impl MadeNode {
    pub(super) fn new(path: PathBuf, kind: FileType, (major, minor): (u32, u32)) -> io::Result<Self> {
        mknodat(rustix::fs::CWD, &path, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))?;
        Ok(Self { path })
    }
}

impl MadeNode {
    pub(super) fn keep(mut self) {
        self.path.clear();
    }
}

impl Drop for MadeNode {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Best effort: the directory is the build root's own `/dev` and goes away with it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn open_device(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// A loop device's node, opened.
pub(super) struct Node {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) made: Option<MadeNode>,
}

/// Opens a loop device by the host's node, or by a new one if the host has none; `None` if the device is just
/// being detached.
pub(super) fn open_node(number: u32, nodes: &Path) -> Result<Option<Node>, LoopError> {
    let host = Path::new("/dev").join(name(number));
    let (path, made) = match fs::metadata(&host) {
        Ok(info) if is_loop_device(&info, number) => (host, None),
        // There is none, or it is not the device of that name: a leftover in a hand-made `/dev`.
        _ => {
            let own = nodes.join(name(number));
            match MadeNode::new(own.clone(), FileType::BlockDevice, (LOOP_MAJOR, number)) {
                Ok(made) => (own, Some(made)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (own, None),
                Err(source) => return Err(io_error("make the device node", &own, source)),
            }
        }
    };
    let file = match open_device(&path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
        Err(source) => return Err(io_error("open", &path, source)),
    };
    let info = file.metadata().map_err(|source| io_error("look at", &path, source))?;
    if !is_loop_device(&info, number) {
        return Err(LoopError::Unexpected { path });
    }
    Ok(Some(Node { file, path, made }))
}

fn is_loop_device(info: &fs::Metadata, number: u32) -> bool {
    info.file_type().is_block_device() && info.rdev() == makedev(LOOP_MAJOR, number)
}
