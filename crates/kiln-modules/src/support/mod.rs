//! What several modules need: numbers as the manifests write them, paths that stay below a root.

pub(crate) mod number;
pub(crate) mod root;
