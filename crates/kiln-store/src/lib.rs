//! What Kiln keeps on disk: the cache that many programs share, the objects in it, and the trees in those.
//!
//! - [`cache`]: entries by name in a directory that is shared with the reference, byte for byte.
//! - [`object`]: built trees and their metadata, by id, on top of the cache.
//! - [`tree`]: copying, removing, measuring, clamping and comparing whole trees.
//!
//! Everything here is safe to kill at any point: what a name shows was complete before it got the name.
//! Long operations look at a flag between steps and end with `Interrupted` once it is set.

pub mod cache;
pub mod object;
pub mod tree;
