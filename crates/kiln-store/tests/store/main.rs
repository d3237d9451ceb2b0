//! What the store promises, tried on real file systems.

mod common;
mod object;
mod tree;
