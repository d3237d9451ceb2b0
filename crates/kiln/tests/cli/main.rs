//! The program from end to end: the real executable, hermetic worlds, everything it shows.
//!
//! Tests that build are named `root_…`: building needs root.

mod cache;
mod cache_limits;
mod client;
mod commands;
mod completions;
mod containers;
mod debian;
mod diff;
mod downloads;
mod examples;
mod export_sources;
mod format1;
mod graph;
mod in_vm;
mod interrupted;
mod kept;
mod library;
mod man;
mod manifests;
mod mapped;
mod mistakes;
mod monitors;
mod options;
mod osbuild;
mod ostree;
mod pe;
mod programs;
mod reference_tests;
mod schema;
mod shadow;
mod shell;
mod surroundings;
mod tree;
mod trouble;
mod validate;
mod world;
