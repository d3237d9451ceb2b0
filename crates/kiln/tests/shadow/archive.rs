//! Archives of roots for stages to work in.
//!
//! `programs` (and files, by absolute paths) come with the libraries that they are linked with, `directories` with all
//! that is in them, `python` is the system's, with its library, and `files` are written: texts, which are executable,
//! as some stand in for programs that this system does not have.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::served::run;

/// Parts of Python's library that are large and that no module needs.
const UNNEEDED: [&str; 4] = ["config-3*", "lib2to3", "pydoc_data", "dist-packages"];

pub(crate) fn archive(told: &Value) -> Vec<u8> {
    let root = TempDir::with_prefix("kiln-archive-").expect("a directory");
    let root = root.path();
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        fs::create_dir_all(root.join(target)).expect("made");
        symlink(target, root.join(link)).expect("linked");
    }
    if told.get("python").is_some() {
        python(root);
    }
    let list = |member: &str| {
        let all = told.get(member).and_then(Value::as_array).cloned().unwrap_or_default();
        all.into_iter().map(|text| text.as_str().expect("a text").to_owned())
    };
    for program in list("programs") {
        let path = kiln_testkit::host::find(&program).unwrap_or_else(|| panic!("no `{program}` here"));
        place(&path, root);
    }
    for directory in list("directories") {
        copy_directory(Path::new(&directory), root);
    }
    place_files(told, root);
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--mtime=@1000000000",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=go-w",
    ]);
    let output = tar.args(["-cf", "-", "-C"]).arg(root).arg(".").output().expect("tar");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Writes the texts of `files` below a directory, executable.
pub(crate) fn place_files(told: &Value, root: &Path) {
    for (path, text) in told.get("files").and_then(Value::as_object).into_iter().flatten() {
        let target = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(target.parent().expect("a parent")).expect("made");
        fs::write(&target, text.as_str().expect("a text")).expect("written");
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).expect("made executable");
    }
}

/// The system's Python: its program under the name that modules know, its library, and what that is linked with.
fn python(root: &Path) {
    let script =
        "import os, sys; print(os.path.realpath(sys.executable)); print(os.path.dirname(os.__file__))";
    let said = run(Command::new("/usr/bin/python3").args(["-I", "-c", script]));
    let (program, library) = said.trim().split_once('\n').expect("two lines");
    place(Path::new(program), root);
    fs::copy(program, root.join("usr/bin/python3")).expect("copied");
    let copied = copy_directory(Path::new(library), root);
    for unneeded in UNNEEDED {
        run(Command::new("sh").args(["-c", &format!("rm -rf -- \"$1\"/{unneeded}"), "sh"]).arg(&copied));
    }
    for entry in fs::read_dir(copied.join("lib-dynload")).expect("read") {
        for library in libraries(&entry.expect("read").path()) {
            place(&library, root);
        }
    }
}

fn copy_directory(directory: &Path, root: &Path) -> PathBuf {
    let target = root.join(directory.strip_prefix("/").expect("absolute"));
    fs::create_dir_all(target.parent().expect("a parent")).expect("made");
    run(Command::new("cp").arg("-aT").arg(directory).arg(&target));
    target
}

/// The libraries that a program is linked with, the loader among them.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    // Fails for what is linked with none.
    let output = Command::new("ldd").arg(program).output().expect("ldd");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect()
}

/// Copies a file of this system, and what it is linked with, to the same places below a root.
fn place(path: &Path, root: &Path) {
    let target = root.join(path.strip_prefix("/").expect("absolute"));
    if target.exists() {
        return;
    }
    fs::create_dir_all(target.parent().expect("a parent")).expect("made");
    // What a link leads to, by the link's name: some programs do what their names say.
    fs::copy(path, &target).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for library in libraries(path) {
        place(&library, root);
    }
}
