//! `org.osbuild.noop`

use std::collections::BTreeMap;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Does nothing.
///
/// Accepts any options and leaves the tree as it is. Useful for tests, and to change the ids of the stages
/// that follow.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Options {
    #[serde(flatten)]
    _ignored: BTreeMap<String, Value>,
}

pub(crate) struct Noop;

impl Stage for Noop {
    const NAME: &'static str = "org.osbuild.noop";
    type Options = Options;

    fn run(_options: Options, _context: &mut StageContext) -> Result<(), ModuleError> {
        Ok(())
    }
}
