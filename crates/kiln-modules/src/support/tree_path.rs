//! Absolute paths in the tree, as keys and values of options.

use schemars::JsonSchema;
use serde::Deserialize;

/// A path in the tree: it starts with `/`, is not `/`, and does not go up on its way.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(transparent)]
#[schemars(extend("pattern" = r"^\/(?!\.\.)((?!\/\.\.\/).)+$"))]
pub(crate) struct TreePath(String);

impl TreePath {
    /// The path as it was given.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}
