//! Points at which a test can stop the cache, so that a race is forced and not hoped for.

use std::fmt;
use std::sync::Arc;

/// A moment between two steps, at which the file system can change under the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Point {
    /// A file was opened and is about to be locked.
    Opened,
    /// A file was locked, and it is about to be looked whether its name still leads to it.
    Locked,
    /// The directory of an entry was made; its lock file is not in it yet.
    DirectoryMade,
    /// The lock file of an entry was put into its directory.
    LockLinked,
    /// What commits an entry was written; it is not accounted yet.
    InfoWritten,
    /// An entry was accounted; it has no name yet.
    Accounted,
    /// An entry has its name; its write lock is still held.
    Named,
    /// An entry was found to be the least recently used one, and is about to be locked.
    Chosen,
    /// An entry has lost its name; its bytes are still accounted.
    Retired,
    /// The bytes of an entry without a name were given back; it is still there.
    GivenBack,
}

/// What is called at each [`Point`]; nothing, unless a test says otherwise.
#[derive(Clone, Default)]
pub struct Hooks(Option<Arc<dyn Fn(Point) + Send + Sync>>);

impl Hooks {
    /// Calls a function at each point, in the thread that has come there.
    pub fn new(function: impl Fn(Point) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(function)))
    }

    pub(super) fn at(&self, point: Point) {
        if let Some(function) = &self.0 {
            function(point);
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "Hooks(set)" } else { "Hooks(none)" })
    }
}
