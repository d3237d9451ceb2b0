//! Digests of modules of a library directory: results of other code are not used again.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use sha2::{Digest, Sha256};

/// Digests that were made already.
#[derive(Default)]
pub(super) struct Digests {
    modules: Mutex<HashMap<PathBuf, String>>,
    package: OnceLock<String>,
}

impl Digests {
    /// The digest of a module and of the package that it imports. What cannot be read cannot be run, and says so then.
    pub(super) fn of(&self, module: &Path, package: &Path) -> String {
        let mut known = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = known.get(module) {
            return digest.clone();
        }
        let mut hash = Sha256::new();
        hash.update(self.package.get_or_init(|| of_package(package)));
        add(&mut hash, &fs::read(module).unwrap_or_default());
        let digest = hexadecimal(hash);
        known.insert(module.to_owned(), digest.clone());
        digest
    }
}

/// The digest of the source files below a directory, by their names.
fn of_package(directory: &Path) -> String {
    let (mut files, mut todo) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(path),
                // Compiled files come and go with the runs of the interpreter.
                Ok(_) if path.extension().is_some_and(|extension| extension == "py") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort_unstable();
    let mut hash = Sha256::new();
    for path in files {
        add(&mut hash, path.strip_prefix(directory).unwrap_or(&path).as_os_str().as_encoded_bytes());
        add(&mut hash, &fs::read(&path).unwrap_or_default());
    }
    hexadecimal(hash)
}

fn add(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_and_what_it_imports_count() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let write = |name: &str, text: &str| {
            fs::create_dir_all(path(name).parent().expect("a parent")).expect("made");
            fs::write(path(name), text).expect("written");
        };
        write("stages/a", "one");
        write("stages/b", "one");
        write("osbuild/util/x.py", "x");
        let digest = || Digests::default().of(&path("stages/a"), directory.path());
        let first = digest();
        assert_eq!(first.len(), 64);
        assert_eq!(Digests::default().of(&path("stages/b"), directory.path()), first);
        write("osbuild/__pycache__/x.pyc", "compiled");
        assert_eq!(digest(), first);
        write("stages/a", "two");
        let second = digest();
        assert_ne!(second, first);
        write("osbuild/util/x.py", "y");
        assert_ne!(digest(), second);
    }
}
