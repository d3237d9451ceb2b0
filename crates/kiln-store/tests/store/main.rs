//! What the store promises, tried on real file systems.

mod cache;
mod common;
mod crash;
mod crashpoint;
mod durability;
mod interop;
mod object;
mod tree;
