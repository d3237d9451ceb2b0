//! What the store promises, tried on real file systems.

mod cache;
mod common;
mod crash;
mod crashpoint;
mod durability;
mod filesystems;
mod full;
mod interop;
mod object;
mod races;
mod tools;
mod tree;
mod tree_disk;
mod tree_filesystems;
mod tree_limits;
