//! A tree, inputs and mounts to run a stage on in tests, alone or beside the reference's stage of that name.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageArguments, StageContext, StageModule};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::schema_agreement::reference;

/// What the reference's stage is started with: it reads its arguments from where they are, and runs as always.
const REFERENCE_START: &str = "\
import json, runpy, sys
import osbuild.api
osbuild.api.arguments = lambda: json.load(open(sys.argv[2], encoding='utf8'))
runpy.run_path(sys.argv[1], run_name='__main__')
";

/// A place for a stage to run in; removed with everything in it when dropped.
pub(crate) struct Fixture {
    directory: TempDir,
    arguments: Value,
}

impl Fixture {
    /// Makes an empty tree.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir(&path).expect("a new directory");
            path
        };
        let arguments = json!({
            "tree": at("tree"),
            "paths": {"devices": "/dev", "inputs": at("inputs"), "mounts": at("mounts")},
            "devices": {},
            "inputs": {},
            "mounts": {},
            "options": {},
            "meta": {"id": "0"},
        });
        Self { directory, arguments }
    }

    /// The tree.
    pub(crate) fn tree(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    /// Writes a file of the tree, and the directories that it is in.
    pub(crate) fn file(&self, path: &str, content: &str) -> &Self {
        write(&self.tree().join(path), content);
        self
    }

    /// Puts programs of this machine into the tree, with the libraries that they and the name service need.
    pub(crate) fn programs(&self, names: &[&str]) {
        let tree = self.tree();
        for directory in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc"] {
            fs::create_dir_all(tree.join(directory)).expect("a directory");
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            if !tree.join(name).exists() {
                std::os::unix::fs::symlink(format!("usr/{name}"), tree.join(name)).expect("a link");
            }
        }
        for name in names {
            let program = ["/usr/bin", "/usr/sbin"]
                .iter()
                .map(|directory| Path::new(directory).join(name))
                .find(|path| path.exists())
                .unwrap_or_else(|| panic!("`{name}` is not installed"));
            let libraries = Command::new("ldd").arg(&program).output().expect("ldd runs").stdout;
            let libraries = String::from_utf8(libraries).expect("text");
            let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
            for file in libraries.chain([program.as_path()]) {
                let target = tree.join(file.strip_prefix("/").expect("absolute"));
                fs::create_dir_all(target.parent().expect("a file's path")).expect("a directory");
                fs::copy(file, target).expect("a copy");
            }
        }
    }

    /// Adds an input with files, as `org.osbuild.files` hands them over; its directory.
    pub(crate) fn input(&mut self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let directory = self.directory.path().join("inputs").join(name);
        fs::create_dir(&directory).expect("a new directory");
        let mut listed = json!({});
        for (file, content) in files {
            write(&directory.join(file), content);
            listed[file] = json!({});
        }
        self.arguments["inputs"][name] = json!({"path": directory, "data": {"files": listed}});
        directory
    }

    /// Sets the source epoch.
    pub(crate) fn at(mut self, epoch: i64) -> Self {
        self.arguments["meta"]["source-epoch"] = json!(epoch);
        self
    }

    /// Adds a mount, which is a plain directory; its path.
    pub(crate) fn mount(&mut self, name: &str) -> PathBuf {
        let directory = self.directory.path().join("mounts").join(name);
        fs::create_dir(&directory).expect("a new directory");
        self.arguments["mounts"][name] = json!({"path": directory});
        directory
    }

    /// Runs the stage with options that its schema accepts; what it said.
    pub(crate) fn run<S: Stage>(&self, options: Value) -> Result<String, ModuleError> {
        let mut arguments = self.arguments.clone();
        arguments["options"] = options;
        let arguments: StageArguments = serde_json::from_value(arguments).expect("valid arguments");
        let output = Output::default();
        let metadata = self.directory.path().join("meta");
        let mut context = StageContext::new(arguments, metadata, Box::new(output.clone()));
        (StageModule::of::<S>().run)(&mut context)?;
        let output = output.0.lock().expect("not poisoned").clone();
        Ok(String::from_utf8(output).expect("text"))
    }

    /// Runs the reference's stage; whether it succeeded, and what it said. `None` without a reference.
    pub(crate) fn run_reference(&self, name: &str, options: Value) -> Option<(bool, String)> {
        let mut arguments = self.arguments.clone();
        arguments["options"] = options;
        run_reference(name, &arguments)
    }

    /// The same for an assembler.
    pub(crate) fn run_reference_assembler(&self, name: &str, options: Value) -> Option<(bool, String)> {
        let mut arguments = self.arguments.clone();
        arguments["options"] = options;
        run_reference_of("assemblers", name, &arguments)
    }

    /// Every file of the tree and the mounts, one line each with all that a stage may have set but times.
    pub(crate) fn listing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for root in ["tree", "mounts"] {
            let root = self.directory.path().join(root);
            list(&root, self.directory.path(), &mut lines).expect("a readable tree");
        }
        lines
    }
}

/// Runs the reference's stage with these arguments; whether it succeeded, and what it said. `None` without a
/// reference.
pub(crate) fn run_reference(name: &str, arguments: &Value) -> Option<(bool, String)> {
    run_reference_of("stages", name, arguments)
}

fn run_reference_of(directory: &str, name: &str, arguments: &Value) -> Option<(bool, String)> {
    let reference = reference(name)?;
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    write(file.path(), &arguments.to_string());
    let output = Command::new("python3")
        .args(["-c", REFERENCE_START])
        .arg(reference.join(directory).join(name))
        .arg(file.path())
        .env("PYTHONPATH", reference)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1")
        .current_dir("/")
        .output()
        .expect("python3 is installed where the reference is");
    Some((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Runs a stage and the reference's stage of that name on equal trees and asserts that both succeed or fail
/// alike, say the same, and leave equal trees.
#[track_caller]
pub(crate) fn side_by_side<S: Stage>(prepare: impl Fn(&mut Fixture), options: &Value) {
    let [mut one, mut other] = [Fixture::new(), Fixture::new()];
    prepare(&mut one);
    prepare(&mut other);
    let Some((succeeded, said)) = other.run_reference(S::NAME, options.clone()) else { return };
    let result = one.run::<S>(options.clone());
    let plain = |fixture: &Fixture, text: &str| {
        text.replace(fixture.directory.path().to_str().expect("a plain path"), "DIRECTORY")
    };
    assert_eq!(result.is_ok(), succeeded, "{options}: {result:?}, the reference: {said}");
    if let Ok(text) = result {
        assert_eq!(plain(&one, &text), plain(&other, &said), "{options}");
    }
    // Nobody sees the tree of a stage that failed.
    if succeeded {
        assert_eq!(one.listing(), other.listing(), "{options}");
    }
}

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("a file's path")).expect("a directory");
    fs::write(path, content).expect("a new file");
}

fn list(path: &Path, base: &Path, lines: &mut Vec<String>) -> io::Result<()> {
    let status = path.symlink_metadata()?;
    let kind = status.file_type();
    let plain = |text: &str| text.replace(base.to_str().expect("a plain path"), "DIRECTORY");
    let content = if kind.is_symlink() {
        format!("-> {}", fs::read_link(path)?.display())
    } else if kind.is_file() {
        let content = fs::read(path)?;
        let shown = if content.len() > 4096 {
            content.len().to_string()
        } else {
            format!("{:?}", String::from_utf8_lossy(&content))
        };
        format!("{shown} x{}", status.nlink())
    } else if kind.is_char_device() || kind.is_block_device() {
        format!("{:#x}", status.rdev())
    } else {
        String::new()
    };
    let name = path.strip_prefix(base).expect("below the base").display();
    let line = format!("{name} {:o} {}:{} {}", status.mode(), status.uid(), status.gid(), plain(&content));
    lines.push(line.trim_end().to_owned());
    if kind.is_dir() {
        let mut entries =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        for entry in entries {
            list(&entry, base, lines)?;
        }
    }
    Ok(())
}
