//! The object store: objects by id, kept by the cache or floating in this run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Home, Key, NewObject, Object, ObjectError};
use crate::cache::{BuildLock, Cache, CacheOptions, LoadGuard, MaximumSize, TemporaryDirectory};

/// How an object store is opened.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// How its cache is opened.
    pub cache: CacheOptions,
    /// Ends copies and waits once it is set.
    pub interrupt: Arc<AtomicBool>,
}

/// A handle of the object store of one run.
#[derive(Clone, Debug)]
pub struct ObjectStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cache: Arc<Cache>,
    /// By id; of one id there may be several that were made in different ways.
    floating: Mutex<HashMap<String, Vec<Arc<Object>>>>,
    interrupt: Arc<AtomicBool>,
}

impl ObjectStore {
    /// Opens the store in a cache directory, which is made if need be.
    pub fn open(directory: &Path, options: StoreOptions) -> Result<Self, ObjectError> {
        let cache = Cache::open(directory, options.cache)?;
        let floating = Mutex::default();
        Ok(Self { shared: Arc::new(Shared { cache, floating, interrupt: options.interrupt }) })
    }

    /// The cache below.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.shared.cache
    }

    /// Changes the cache's limit.
    pub fn set_maximum_size(&self, maximum: MaximumSize) -> Result<(), ObjectError> {
        Ok(self.shared.cache.set_maximum_size(maximum)?)
    }

    /// Whether there is such an object, floating or in the cache. It may be evicted at any time unless it
    /// is held: ask with [`get`](Self::get) for what is needed.
    pub fn contains<'a>(&self, key: impl Into<Key<'a>>) -> Result<bool, ObjectError> {
        let key = key.into();
        Ok(self.find_floating(key).is_some() || self.load(key)?.is_some())
    }

    /// Finds an object and holds it.
    pub fn get<'a>(&self, key: impl Into<Key<'a>>) -> Result<Option<Arc<Object>>, ObjectError> {
        let key = key.into();
        if let Some(object) = self.find_floating(key) {
            return Ok(Some(object));
        }
        Ok(self.load(key)?.map(|guard| Arc::new(Object::new(key, Home::Cache(guard)))))
    }

    /// Finds an entry in the cache and holds it.
    pub(super) fn load(&self, key: Key<'_>) -> Result<Option<LoadGuard>, ObjectError> {
        Ok(match key.recipe {
            Some(recipe) => self.shared.cache.load_made_by(key.id, recipe)?,
            None => self.shared.cache.load(key.id)?,
        })
    }

    /// Begins an object with an empty tree. With a source epoch (in seconds), finishing it clamps its times.
    pub fn new_object<'a>(
        &self,
        key: impl Into<Key<'a>>,
        source_epoch: Option<i64>,
    ) -> Result<NewObject, ObjectError> {
        NewObject::begin(self.clone(), key.into(), source_epoch)
    }

    /// Waits for the right to build an object. Look for it again afterwards: somebody may have built it.
    pub fn build_lock(&self, id: &str) -> Result<BuildLock, ObjectError> {
        Ok(self.shared.cache.build_lock(id, &self.shared.interrupt)?)
    }

    /// Makes a directory in the cache that is removed when dropped.
    pub fn tempdir(&self, prefix: &str) -> Result<TemporaryDirectory, ObjectError> {
        Ok(self.shared.cache.temporary_directory(prefix)?)
    }

    /// The directory of downloaded sources, which has a directory for each content type.
    pub fn sources_dir(&self) -> PathBuf {
        self.shared.cache.sources()
    }

    /// Forgets a floating object that is not needed any more; it is removed when nobody holds it.
    pub fn forget(&self, id: &str) {
        // Dropped after the lock is released: removing a tree takes time.
        let forgotten = self.floating().remove(id);
        drop(forgotten);
    }

    /// Takes back this run's own hold on an object.
    pub(super) fn release(&self, object: &Arc<Object>) {
        if let Some(known) = self.floating().get_mut(&object.id) {
            known.retain(|known| !Arc::ptr_eq(known, object));
        }
    }

    pub(super) fn interrupt(&self) -> &AtomicBool {
        &self.shared.interrupt
    }

    /// Makes an object known to this run.
    pub(super) fn float(&self, object: &Arc<Object>) {
        let mut floating = self.floating();
        let same_id = floating.entry(object.id.clone()).or_default();
        let replaced = same_id.iter().position(|known| known.recipe == object.recipe);
        let replaced = replaced.map(|index| same_id.swap_remove(index));
        same_id.push(Arc::clone(object));
        drop(floating);
        // Dropped after the lock is released: removing a tree takes time.
        drop(replaced);
    }

    fn find_floating(&self, key: Key<'_>) -> Option<Arc<Object>> {
        let floating = self.floating();
        let same_id = floating.get(key.id)?.iter();
        same_id.rev().find(|object| key.recipe.is_none() || object.key().recipe == key.recipe).cloned()
    }

    fn floating(&self) -> MutexGuard<'_, HashMap<String, Vec<Arc<Object>>>> {
        self.shared.floating.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
