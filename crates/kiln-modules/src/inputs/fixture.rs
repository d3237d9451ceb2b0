//! A store for tests of inputs: content in a directory, trees that are only recorded.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::input::{Input, InputReply, InputRequest, Store};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

type Mount = (String, PathBuf, Option<String>);

pub(super) struct Fixture {
    directory: TempDir,
    trees: RefCell<HashSet<(String, Option<String>)>>,
    mounts: RefCell<Vec<Mount>>,
    binds: RefCell<Vec<(PathBuf, PathBuf)>>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        for name in ["store", "target"] {
            fs::create_dir(directory.path().join(name)).expect("mkdir");
        }
        Self { directory, trees: RefCell::default(), mounts: RefCell::default(), binds: RefCell::default() }
    }

    pub(super) fn target(&self) -> PathBuf {
        self.directory.path().join("target")
    }

    pub(super) fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Puts content into the cache.
    pub(super) fn content(&self, name: &str, text: &str) {
        fs::write(self.store().join(name), text).expect("write");
    }

    /// Makes a tree known that has one file.
    pub(super) fn tree(&self, id: &str, file: &str) {
        let mut trees = self.trees.borrow_mut();
        trees.insert((id.to_owned(), None));
        trees.insert((id.to_owned(), Some(file.to_owned())));
    }

    /// Makes a directory; as the tree of the pipeline with that id it can be looked into.
    pub(super) fn directory(&self, id: &str) -> PathBuf {
        let path = self.looked_into(id);
        fs::create_dir_all(&path).expect("mkdir");
        path
    }

    fn looked_into(&self, id: &str) -> PathBuf {
        self.directory.path().join("trees").join(id)
    }

    /// What was mounted, and where.
    pub(super) fn mounts(&self) -> Vec<Mount> {
        self.mounts.borrow().clone()
    }

    /// What was bound, and where.
    pub(super) fn binds(&self) -> Vec<(PathBuf, PathBuf)> {
        self.binds.borrow().clone()
    }
}

impl Store for Fixture {
    fn read_tree(&self, id: &str) -> Result<Option<PathBuf>, ModuleError> {
        Ok(Some(self.looked_into(id)).filter(|path| path.exists()))
    }

    fn read_tree_at(&self, id: &str, target: &Path, subtree: Option<&str>) -> Result<bool, ModuleError> {
        let subtree = subtree.map(str::to_owned);
        assert!(target.exists(), "nothing can be mounted at {}", target.display());
        let known = self.trees.borrow().contains(&(id.to_owned(), subtree.clone()));
        if known {
            self.mounts.borrow_mut().push((id.to_owned(), target.to_owned(), subtree));
        }
        Ok(known)
    }

    fn bind(&self, source: &Path, target: &Path) -> Result<(), ModuleError> {
        assert_eq!(source.is_dir(), target.is_dir(), "{} cannot be bound", source.display());
        self.binds.borrow_mut().push((source.to_owned(), target.to_owned()));
        Ok(())
    }

    fn mkdtemp(&self, _prefix: &str) -> Result<PathBuf, ModuleError> {
        Err(ModuleError::invalid("no test needs a directory"))
    }

    fn source(&self, content_type: &str) -> PathBuf {
        assert!(content_type.starts_with("org.osbuild."), "{content_type} is no type of content");
        self.store()
    }
}

/// Maps an input into the fixture's target.
pub(super) fn map(
    input: &dyn Input,
    origin: &str,
    references: &Value,
    fixture: &Fixture,
) -> Result<InputReply, ModuleError> {
    let empty = Map::new();
    let references = references.as_object().unwrap_or(&empty);
    let request = InputRequest { origin, references, target: &fixture.target(), options: &json!({}) };
    input.map(&request, fixture)
}
