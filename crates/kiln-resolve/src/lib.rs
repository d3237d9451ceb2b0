//! kiln-resolve.
