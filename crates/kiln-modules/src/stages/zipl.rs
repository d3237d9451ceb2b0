//! `org.osbuild.zipl`

use std::io::Write;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::number::Number;
use crate::support::root::Root;

const PATH: &str = "etc/zipl.conf";

/// Writes `/etc/zipl.conf`, which the boot loader of IBM Z reads when it is installed.
///
/// With it, `zipl` makes a menu of the entries of the boot menu (Boot Loader Specification). `org.osbuild.zipl.inst`
/// installs the boot loader.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// How long the menu waits, in seconds; for ever if nothing is said.
    timeout: Option<Number>,
}

pub(crate) struct Zipl;

impl Stage for Zipl {
    const NAME: &'static str = "org.osbuild.zipl";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { options_optional: true, ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let timeout = options.timeout.unwrap_or_else(|| 0.into());
        let text = format!("[defaultboot]\ndefaultauto\nprompt=1\ntimeout={timeout}\ntarget=/boot\n");
        let tree = Root::open(context.tree())?;
        tree.make_directories("etc")?;
        tree.create(PATH)?.write_all(text.as_bytes()).map_err(ModuleError::io("write", tree.shown(PATH)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Zipl>()
            .accepts([json!({}), json!({"timeout": 3}), json!({"timeout": 1.5})])
            .refuses([json!({"timeout": "3"}), json!({"target": "/boot"})]);
    }

    #[test]
    fn the_file_is_the_references() {
        for options in [json!({}), json!({"timeout": 3}), json!({"timeout": 2.5})] {
            side_by_side::<Zipl>(|_| {}, &options);
        }
        let fixture = Fixture::new();
        fixture.run::<Zipl>(json!({"timeout": 5})).expect("written");
        let text = std::fs::read_to_string(fixture.tree().join(PATH)).expect("there");
        assert_eq!(text, "[defaultboot]\ndefaultauto\nprompt=1\ntimeout=5\ntarget=/boot\n");
    }

    #[test]
    fn what_is_in_the_way_is_said() {
        let fixture = Fixture::new();
        fixture.file("etc/zipl.conf/file", "");
        let error = fixture.run::<Zipl>(json!({})).expect_err("a directory").to_string();
        assert!(error.contains("etc/zipl.conf`: Is a directory"), "{error}");
    }
}
