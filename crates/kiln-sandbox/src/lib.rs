//! kiln-sandbox.
