//! Handing an object's tree to the user.

use std::collections::HashSet;
use std::fs::{File, FileTimes, read_dir};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Home, Object, ObjectError, ObjectStore};
use crate::tree::{self, Attributes, CopyOptions};

/// How an object is exported.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions {
    /// Leaves the files with the owner that the process has.
    pub no_preserve_owner: bool,
}

/// How an export was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exported {
    /// The object is still there.
    Copied,
    /// The files were moved; the object is gone.
    Moved,
}

impl Object {
    /// Copies the content of the tree, and its root's attributes, into a directory, which is made if need be.
    ///
    /// Blocks are shared where the file systems can. What the destination's file system has no attribute for
    /// is left out.
    pub fn export(
        &self,
        destination: &Path,
        options: ExportOptions,
        interrupt: &AtomicBool,
    ) -> Result<(), ObjectError> {
        let no_preserve_owner = options.no_preserve_owner;
        let options = CopyOptions { no_preserve_owner, attributes: Attributes::BestEffort };
        Ok(tree::copy(&self.tree, destination, options, interrupt)?)
    }
}

impl ObjectStore {
    /// Exports an object that is not needed any more: by rename if it floats, nobody else holds it, and the
    /// destination is an empty place on the same file system; else as [`Object::export`] does.
    pub fn export_by_rename(
        &self,
        object: Arc<Object>,
        destination: &Path,
        options: ExportOptions,
    ) -> Result<Exported, ObjectError> {
        if object.is_floating() && !options.no_preserve_owner {
            self.release(&object);
            match Arc::try_unwrap(object) {
                Ok(object) => return self.move_or_copy(object, destination, options),
                // Somebody needs it still, and must be able to find it.
                Err(shared) => {
                    self.float(&shared);
                    shared.export(destination, options, self.interrupt())?;
                }
            }
        } else {
            object.export(destination, options, self.interrupt())?;
            if !object.is_floating() {
                self.release(&object);
            }
        }
        Ok(Exported::Copied)
    }

    fn move_or_copy(
        &self,
        object: Object,
        destination: &Path,
        options: ExportOptions,
    ) -> Result<Exported, ObjectError> {
        let moved = matches!(&object.home, Home::Staging(_))
            && keeping_times(&object.tree, || move_entries(&object.tree, destination))
                .map_err(ObjectError::io("export to", destination))?;
        // After a move this is about the attributes of the root, and whatever could not be moved.
        object.export(destination, options, self.interrupt())?;
        if moved {
            return Ok(Exported::Moved);
        }
        self.float(&Arc::new(object));
        Ok(Exported::Copied)
    }
}

/// Does something in a directory and sets its times back.
fn keeping_times<T>(directory: &Path, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = std::fs::metadata(directory)?;
    let result = change()?;
    let times = FileTimes::new().set_accessed(before.accessed()?).set_modified(before.modified()?);
    File::open(directory)?.set_times(times)?;
    Ok(result)
}

/// Renames what is in a tree into a directory, unless a name is taken there or it is on another file system:
/// then nothing is moved, because hard links between what is and what is not would break.
fn move_entries(tree: &Path, destination: &Path) -> io::Result<bool> {
    std::fs::create_dir_all(destination)?;
    let names =
        |path: &Path| read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<HashSet<_>>>();
    let present = names(destination)?;
    let own = names(tree)?;
    if !own.is_disjoint(&present) {
        return Ok(false);
    }
    let mut moved: Vec<_> = Vec::new();
    for name in own {
        match std::fs::rename(tree.join(&name), destination.join(&name)) {
            Ok(()) => moved.push(name),
            Err(error) => {
                // Another file system, or an immutable entry: back again, and copy.
                for name in moved {
                    std::fs::rename(destination.join(&name), tree.join(&name))?;
                }
                return match error.kind() {
                    io::ErrorKind::CrossesDevices | io::ErrorKind::PermissionDenied => Ok(false),
                    _ => Err(error),
                };
            }
        }
    }
    Ok(true)
}
