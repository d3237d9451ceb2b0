//! Objects that are being made.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{
    Home, INFO, Key, META, Object, ObjectError, ObjectStore, Outcome, TREE, clone_data, metadata_file,
    read_metadata,
};
use crate::cache::{Commit, Entry, Refusal};
use crate::tree;

/// The unit in which the kernel counts allocated space.
const SECTOR: u64 = 512;

/// An object that is being made. It vanishes unless it is finished.
#[derive(Debug)]
pub struct NewObject {
    store: ObjectStore,
    id: String,
    recipe: Option<String>,
    entry: Entry,
    source_epoch: Option<i64>,
    created: i64,
    tree: PathBuf,
    /// What people are told about it.
    notes: BTreeMap<&'static str, String>,
}

impl NewObject {
    pub(super) fn begin(
        store: ObjectStore,
        key: Key<'_>,
        source_epoch: Option<i64>,
    ) -> Result<Self, ObjectError> {
        let entry = store.cache().stage()?;
        let data = entry.data();
        let tree = data.join(TREE);
        tree::create_root(&tree)?;
        let meta = data.join(META);
        std::fs::create_dir(&meta).map_err(ObjectError::io("create directory", &meta))?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let created = i64::try_from(created).unwrap_or(i64::MAX);
        let info = metadata_file(&data, INFO);
        private_file(&info)?
            .write_all(format!("{{\n  \"created\": {created}\n}}").as_bytes())
            .map_err(ObjectError::io("write", &info))?;
        let (id, recipe) = (key.id.to_owned(), key.recipe.map(str::to_owned));
        Ok(Self { store, id, recipe, entry, source_epoch, created, tree, notes: BTreeMap::new() })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Notes something for people, as the pipeline's name; it goes with the object into the cache.
    pub fn note(&mut self, key: &'static str, value: &str) {
        self.notes.insert(key, value.to_owned());
    }

    /// The tree to fill.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// The time from which on modifications are its own, in seconds: its beginning or that of its base.
    pub const fn created(&self) -> i64 {
        self.created
    }

    /// Replaces the tree and the metadata by a clone of another object's.
    pub fn init_from(&mut self, base: &Object) -> Result<(), ObjectError> {
        clone_data(&base.data(), &self.entry.data(), self.store.interrupt())?;
        let info = read_metadata(&self.entry.data(), INFO)?;
        // Times that a stage of the base has set count from when the base was begun.
        if let Some(created) = info.as_ref().and_then(|info| info.get("created")).and_then(Value::as_i64) {
            self.created = created;
        }
        Ok(())
    }

    /// Makes the file that a stage reports its metadata to, and says where it is.
    pub fn metadata_path(&self, stage_id: &str) -> Result<PathBuf, ObjectError> {
        let path = metadata_file(&self.entry.data(), stage_id);
        private_file(&path)?;
        Ok(path)
    }

    /// What the stage of an id has reported, if it did.
    pub fn metadata(&self, stage_id: &str) -> Result<Option<Value>, ObjectError> {
        read_metadata(&self.entry.data(), stage_id)
    }

    /// Offers a clone of what the object is now to the cache, under the id of its last stage.
    pub fn checkpoint<'a>(&self, stage: impl Into<Key<'a>>) -> Result<Outcome, ObjectError> {
        let stage = stage.into();
        let cache = self.store.cache();
        let size = self.finalise(true)?.unwrap_or(0);
        if self.store.load(stage)?.is_some() {
            return Ok(Outcome::Exists);
        }
        let data = self.entry.data();
        // Copying takes time, and whether the copy will be kept can be known before, mostly.
        if let Some(refusal) = cache.refusal(size) {
            return Ok(Outcome::Refused(refusal));
        }
        if let Some(full) = cache.make_free(size)? {
            return Ok(Outcome::Refused(Refusal::DiskFull(full)));
        }
        let mut copy = cache.store()?;
        if let Some(recipe) = stage.recipe {
            copy.note_recipe(recipe);
        }
        for (key, value) in &self.notes {
            copy.note(key, value.as_str());
        }
        clone_data(&data, &copy.data(), self.store.interrupt())?;
        Ok(match copy.commit(stage.id)? {
            Commit::Kept(_) => Outcome::Kept,
            Commit::Exists(_) => Outcome::Exists,
            Commit::Refused(_, refusal) => Outcome::Refused(refusal),
        })
    }

    /// Finishes the object, and offers it to the cache if it is to be kept. It is usable in any case.
    pub fn finish(self, keep: bool) -> Result<(Arc<Object>, Outcome), ObjectError> {
        let size = self.finalise(keep)?;
        let Self { store, id, recipe, mut entry, notes, .. } = self;
        let key = Key { id: &id, recipe: recipe.as_deref() };
        if let Some(recipe) = key.recipe {
            entry.note_recipe(recipe);
        }
        for (key, value) in notes {
            entry.note(key, value);
        }
        let (home, outcome) = if let Some(size) = size {
            match entry.commit_measured(&id, size)? {
                Commit::Kept(guard) => (Home::Cache(guard), Outcome::Kept),
                Commit::Refused(entry, refusal) => (Home::Staging(entry), Outcome::Refused(refusal)),
                // The other one is as good, and one copy on disk is enough; unless it has just gone.
                Commit::Exists(entry) => match store.load(key)? {
                    Some(guard) => (Home::Cache(guard), Outcome::Exists),
                    None => (Home::Staging(entry), Outcome::Exists),
                },
            }
        } else {
            (Home::Staging(entry), Outcome::NotAsked)
        };
        let object = Arc::new(Object::new(key, home));
        // Also one that the cache keeps: this run must not lose it to an eviction.
        store.float(&object);
        Ok((object, outcome))
    }

    /// Removes empty metadata, clamps times, and measures what there is if that is asked for; all in one walk.
    fn finalise(&self, measure: bool) -> Result<Option<u64>, ObjectError> {
        let data = self.entry.data();
        let meta = data.join(META);
        for found in std::fs::read_dir(&meta).map_err(ObjectError::io("read directory", &meta))? {
            let found = found.map_err(ObjectError::io("read directory", &meta))?;
            let path = found.path();
            if found.metadata().map_err(ObjectError::io("read attributes of", &path))?.len() == 0 {
                std::fs::remove_file(&path).map_err(ObjectError::io("remove", &path))?;
            }
        }
        let interrupt = self.store.interrupt();
        let size = match self.source_epoch {
            Some(epoch) => tree::clamp_and_measure(&self.tree, self.created, epoch, interrupt)?,
            None if measure => tree::measure(&self.tree, interrupt)?,
            None => return Ok(None),
        };
        if !measure {
            return Ok(None);
        }
        let own =
            std::fs::metadata(&data).map_err(ObjectError::io("read attributes of", &data))?.blocks() * SECTOR;
        Ok(Some(own + tree::measure(&meta, interrupt)? + size))
    }
}

/// Makes an empty file for its owner alone, as the reference's are, which shares the cache.
fn private_file(path: &Path) -> Result<File, ObjectError> {
    let mut options = File::options();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(ObjectError::io("create", path))
}
