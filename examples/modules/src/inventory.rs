//! A stage as one static executable: writes a list of the tree's files into it.
//!
//! It needs nothing of its build root, neither a shell nor a C library. It takes no options, so that it need not read
//! what it is told: the tree is always in the same place.
//!
//! ```sh
//! rustc --edition 2024 -O -C target-feature=+crt-static -C panic=abort -C strip=symbols \
//!     -o stages/org.example.inventory src/inventory.rs
//! ```

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The tree that the stage changes.
const TREE: &str = "/run/osbuild/tree";
/// Where in the tree the list goes.
const LIST: &str = "usr/share/inventory";
/// What is written here goes into the result.
const META: &str = "/run/osbuild/meta";

/// What failed, with what.
type Failure = (PathBuf, io::Error);

fn at(path: &Path) -> impl Fn(io::Error) -> Failure {
    let path = path.to_owned();
    move |error| (path.clone(), error)
}

/// All files below a directory and their sizes, sorted by name, so that the same tree always gives the same list.
fn files(directory: &Path, into: &mut Vec<(PathBuf, u64)>) -> Result<(), Failure> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(at(directory))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let metadata = entry.metadata().map_err(at(&path))?;
        if metadata.is_dir() {
            files(&path, into)?;
        } else if metadata.is_file() {
            into.push((path, metadata.len()));
        }
    }
    Ok(())
}

fn run() -> Result<(), Failure> {
    let tree = Path::new(TREE);
    let mut found = Vec::new();
    files(tree, &mut found)?;
    let (mut list, mut bytes) = (String::new(), 0);
    for (path, size) in &found {
        let path = path.strip_prefix(tree).unwrap_or(path);
        let _ = writeln!(list, "{size} /{}", path.display());
        bytes += size;
    }
    let target = tree.join(LIST);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(at(parent))?;
    }
    fs::write(&target, list).map_err(at(&target))?;
    let meta = format!("{{\"files\": {}, \"bytes\": {bytes}}}\n", found.len());
    fs::write(META, meta).map_err(at(Path::new(META)))?;
    println!("listed {} files", found.len());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err((path, error)) => {
            eprintln!("{}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
