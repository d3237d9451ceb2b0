//! The object store: objects by id, kept by the cache or floating in this run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Home, NewObject, Object, ObjectError};
use crate::cache::{BuildLock, Cache, CacheOptions, MaximumSize, TemporaryDirectory};

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
    floating: Mutex<HashMap<String, Arc<Object>>>,
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

    /// Whether there is an object of an id, floating or in the cache. It may be evicted at any time unless it
    /// is held: ask with [`get`](Self::get) for what is needed.
    pub fn contains(&self, id: &str) -> Result<bool, ObjectError> {
        Ok(self.floating().contains_key(id) || self.shared.cache.load(id)?.is_some())
    }

    /// Finds an object and holds it.
    pub fn get(&self, id: &str) -> Result<Option<Arc<Object>>, ObjectError> {
        if let Some(object) = self.floating().get(id) {
            return Ok(Some(Arc::clone(object)));
        }
        let loaded = self.shared.cache.load(id)?;
        Ok(loaded.map(|guard| Arc::new(Object::new(id, Home::Cache(guard)))))
    }

    /// Begins an object with an empty tree. With a source epoch (in seconds), finishing it clamps its times.
    pub fn new_object(&self, id: &str, source_epoch: Option<i64>) -> Result<NewObject, ObjectError> {
        NewObject::begin(self.clone(), id, source_epoch)
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
        let mut floating = self.floating();
        if floating.get(&object.id).is_some_and(|known| Arc::ptr_eq(known, object)) {
            floating.remove(&object.id);
        }
    }

    pub(super) fn interrupt(&self) -> &AtomicBool {
        &self.shared.interrupt
    }

    /// Makes an object known to this run.
    pub(super) fn float(&self, object: &Arc<Object>) {
        let replaced = self.floating().insert(object.id.clone(), Arc::clone(object));
        drop(replaced);
    }

    fn floating(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Object>>> {
        self.shared.floating.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
