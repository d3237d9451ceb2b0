//! Objects: built trees and their metadata, by id, on top of the cache.
//!
//! # Layout of an entry's `data`
//!
//! ```text
//! tree/            the tree
//! meta/info.json   {"created": SECONDS}: when the object, or the one it started from, was begun
//! meta/ID.json     what the stage of that id reported; none if it reported nothing
//! ```
//!
//! # Life of an object
//!
//! A [`NewObject`] is filled in the staging area, from nothing or from a clone of another one. A checkpoint
//! commits a clone of it under the id of a stage. Finishing it clamps its times and either commits it, by
//! rename, or keeps it where it is: *floating*, known to this run only. If the cache does not keep it, it
//! floats too. What has been handed out stays usable for as long as it is held.
//!
//! The store is a handle that can be cloned and used from several threads.

mod error;
mod export;
mod new;
mod store;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::Value;

pub use error::ObjectError;
pub use export::{ExportOptions, Exported};
pub use new::NewObject;
pub use store::{ObjectStore, StoreOptions};

use crate::cache::{Entry, LoadGuard, Refusal};
use crate::tree::{self, CopyOptions};

const TREE: &str = "tree";
const META: &str = "meta";
const INFO: &str = "info";

/// What an object is found by: its id and, if it matters, what it was made by.
///
/// An object whose recipe is another one is not found. One without a recipe (the reference writes none) is found by
/// any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    /// The id.
    pub id: &'a str,
    /// The recipe; none means any.
    pub recipe: Option<&'a str>,
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(id: &'a str) -> Self {
        Self { id, recipe: None }
    }
}

impl<'a> From<(&'a str, &'a str)> for Key<'a> {
    /// An id and a recipe; an empty one means any.
    fn from((id, recipe): (&'a str, &'a str)) -> Self {
        Self { id, recipe: (!recipe.is_empty()).then_some(recipe) }
    }
}

/// Whether the cache has an object after it was offered to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cache keeps it.
    Kept,
    /// The cache already had one of this id.
    Exists,
    /// The cache does not keep it, and why.
    Refused(Refusal),
    /// It was not offered.
    NotAsked,
}

/// Where an object's data is, and what holds it there.
#[derive(Debug)]
enum Home {
    Cache(LoadGuard),
    Staging(Entry),
}

/// A finished object, held against removal.
#[derive(Debug)]
pub struct Object {
    id: String,
    /// What it was made by; of those in the cache nobody asks again.
    recipe: Option<String>,
    tree: PathBuf,
    home: Home,
}

impl Object {
    fn new(key: Key<'_>, home: Home) -> Self {
        let tree = match &home {
            Home::Cache(guard) => guard.data(),
            Home::Staging(entry) => entry.data(),
        }
        .join(TREE);
        Self { id: key.id.to_owned(), recipe: key.recipe.map(str::to_owned), tree, home }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn key(&self) -> Key<'_> {
        Key { id: &self.id, recipe: self.recipe.as_deref() }
    }

    /// The tree, which nobody may change.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// Whether it is known to this run only.
    pub const fn is_floating(&self) -> bool {
        matches!(self.home, Home::Staging(_))
    }

    /// What the stage of an id reported, if it did.
    pub fn metadata(&self, stage_id: &str) -> Result<Option<Value>, ObjectError> {
        read_metadata(&self.data(), stage_id)
    }

    fn data(&self) -> PathBuf {
        match &self.home {
            Home::Cache(guard) => guard.data(),
            Home::Staging(entry) => entry.data(),
        }
    }
}

/// Fills the data of a new object, which holds nothing but an empty tree or nothing at all, with a clone of another
/// one's.
fn clone_data(from: &Path, to: &Path, interrupt: &AtomicBool) -> Result<(), ObjectError> {
    let (tree, meta) = (to.join(TREE), to.join(META));
    tree::remove(&tree, interrupt)?;
    tree::clone_root(&from.join(TREE), &tree, CopyOptions::default(), interrupt)?;
    Ok(tree::copy(&from.join(META), &meta, CopyOptions::default(), interrupt)?)
}

fn metadata_file(data: &Path, key: &str) -> PathBuf {
    data.join(META).join(format!("{key}.json"))
}

fn read_metadata(data: &Path, key: &str) -> Result<Option<Value>, ObjectError> {
    let path = metadata_file(data, key);
    match std::fs::read(&path) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| ObjectError::Metadata { id: key.to_owned(), source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ObjectError::io("read", &path)(error)),
    }
}
