//! Entries of a boot menu as files, after the Boot Loader Specification: `loader/entries/*.conf` below `/boot`.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;

use super::root::Root;

/// The paths of all entries below the directory `boot` of a root, sorted; none if there is no directory for them.
pub(crate) fn find(root: &Root, boot: &Path) -> Result<Vec<PathBuf>, ModuleError> {
    let directory = boot.join("loader/entries");
    if !root.is_directory(&directory) {
        return Ok(Vec::new());
    }
    let path = root.resolve(&directory)?;
    let failed = || ModuleError::io("read directory", &path);
    let mut entries = Vec::new();
    for entry in fs::read_dir(&path).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        let text = name.to_string_lossy();
        if text.ends_with(".conf") && !text.starts_with('.') {
            entries.push(directory.join(&name));
        }
    }
    entries.sort();
    Ok(entries)
}

/// Changes the text of an entry; the file stays the same, with its mode, owner and label.
pub(crate) fn change(
    root: &Root,
    entry: &Path,
    change: impl FnOnce(&str) -> String,
) -> Result<(), ModuleError> {
    let mut text = String::new();
    root.read(entry)?.read_to_string(&mut text).map_err(ModuleError::io("read", root.shown(entry)))?;
    root.create(entry)?
        .write_all(change(&text).as_bytes())
        .map_err(ModuleError::io("write", root.shown(entry)))
}
