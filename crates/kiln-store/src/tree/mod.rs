//! Operations on whole file-system trees, in parallel and by file descriptor.
//!
//! A tree is walked from an open directory; everything below is reached by single names relative to an
//! open descriptor, so path length does not matter, symbolic links are never followed, and a path that
//! changes meanwhile cannot lead outside. No operation crosses a mount point: where one is found below
//! the root the operation fails with [`TreeError::MountPoint`] and leaves what is mounted there alone.
//!
//! - [`copy()`]: clones a tree with everything that root may set.
//! - [`create_root()`] and [`clone_root()`]: roots that are copied and removed in one step where there are subvolumes.
//! - [`remove()`]: removes it, whatever flags are in the way.
//! - [`measure()`]: what it takes on disk. [`clamp()`]: sets new times back to a source epoch.
//!   [`clamp_and_measure()`]: both in one walk.
//! - [`compare()`] and [`digest()`]: two trees, or one, in every respect.

mod attributes;
mod clamp;
mod compare;
mod content;
mod copy;
mod digest;
mod directory;
mod entries;
mod error;
mod escape;
mod handle;
mod measure;
mod mounts;
mod node;
mod pool;
mod remove;
mod root;
mod scan;
mod walk;

pub use clamp::{clamp, clamp_and_measure};
pub use compare::{Aspect, Difference, compare};
pub use copy::{Attributes, CopyOptions, copy};
pub use digest::digest;
pub use error::TreeError;
pub use measure::measure;
pub use remove::remove;
pub use root::{clone_root, create_root};
