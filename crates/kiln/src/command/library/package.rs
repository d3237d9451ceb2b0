//! Where Python has the `osbuild` package, for a library directory that has only a place for it: distributions put the
//! modules into one directory and the package they import where all packages are.

use std::path::{Path, PathBuf};

use kiln_sys::command::Run;

use crate::settings;

/// Prints where the package is, if there is one. Nothing of the user's surroundings counts (`-I`): what is found here
/// runs as root in build roots.
const ASK: &str = "import importlib.util, os
found = importlib.util.find_spec('osbuild')
if found and found.origin:
    print(os.path.dirname(found.origin))";

/// The package's directory: of `PYTHONPATH`, else of the host's Python; none if neither has it.
pub(super) fn find() -> Option<PathBuf> {
    let named = settings::python_path().into_iter().map(|directory| directory.join("osbuild"));
    named.into_iter().find(|package| is_package(package)).or_else(installed)
}

fn installed() -> Option<PathBuf> {
    // Without Python there are no modules in Python either.
    let said = Run::new("python3").args(["-I", "-c", ASK]).output().ok()?;
    let package = PathBuf::from(String::from_utf8(said).ok()?.trim_end_matches('\n'));
    is_package(&package).then_some(package)
}

fn is_package(directory: &Path) -> bool {
    directory.join("__init__.py").is_file()
}
