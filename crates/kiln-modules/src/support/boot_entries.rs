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

/// What an entry says of a kernel; paths are from the root of the file system that has `/boot`.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// The path of the entry itself.
    pub(crate) path: PathBuf,
    /// The kernel's version.
    pub(crate) version: Option<String>,
    /// The path of the kernel.
    pub(crate) linux: Option<String>,
    /// The path of its first file system.
    pub(crate) initrd: Option<String>,
    /// Its command line.
    pub(crate) options: String,
}

/// What the entries of a system say, but for those for rescue.
pub(crate) fn kernels(root: &Root) -> Result<Vec<Entry>, ModuleError> {
    let is_rescue =
        |path: &PathBuf| path.file_stem().is_some_and(|name| name.to_string_lossy().ends_with("rescue"));
    let paths = find(root, Path::new("boot"))?;
    paths.into_iter().filter(|path| !is_rescue(path)).map(|path| read(root, path)).collect()
}

fn read(root: &Root, path: PathBuf) -> Result<Entry, ModuleError> {
    let mut text = String::new();
    root.read(&path)?.read_to_string(&mut text).map_err(ModuleError::io("read", root.shown(&path)))?;
    let mut entry = Entry { path, ..Entry::default() };
    for line in text.lines() {
        // Comments have no key that is looked for.
        let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let value = value.trim().to_owned();
        match key {
            "version" => entry.version = Some(value),
            "linux" => entry.linux = Some(value),
            "initrd" => entry.initrd = Some(value),
            "options" => entry.options = value,
            _ => {}
        }
    }
    Ok(entry)
}
