//! `org.osbuild.systemd`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;

/// Where masks of generators are, below the tree.
const GENERATORS: &str = "etc/systemd/system-generators";

/// Enables, disables and masks systemd units and sets the default target.
///
/// Units of all types may be named. First come the units to enable, then those to disable (which removes all links
/// to them), then those to mask; then generators are masked, and the default target is set last. All but the
/// generators is done by the build root's `systemctl` with `--root`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The units to enable.
    #[serde(default)]
    enabled_services: Vec<String>,
    /// The units to disable.
    #[serde(default)]
    disabled_services: Vec<String>,
    /// The units to mask, so that nothing can start them.
    #[serde(default)]
    masked_services: Vec<String>,
    /// The generators to mask, so that they do not run.
    #[serde(default)]
    masked_generators: Vec<String>,
    /// The target to boot into, as `multi-user.target`.
    default_target: Option<String>,
}

pub(crate) struct Systemd;

impl Stage for Systemd {
    const NAME: &'static str = "org.osbuild.systemd";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { options_optional: true, ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let systemctl = || Run::new("systemctl").arg("--root").arg(context.tree());
        for (verb, units) in [
            ("enable", &options.enabled_services),
            ("disable", &options.disabled_services),
            ("mask", &options.masked_services),
        ] {
            for unit in units {
                systemctl().args([verb, "--", unit]).run()?;
            }
        }
        if !options.masked_generators.is_empty() {
            let tree = Root::open(context.tree())?;
            tree.make_directories(GENERATORS)?;
            for generator in &options.masked_generators {
                tree.symlink("/dev/null", format!("{GENERATORS}/{generator}"))?;
            }
        }
        match options.default_target.filter(|target| !target.is_empty()) {
            Some(target) => Ok(systemctl().args(["set-default", &target]).run()?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    const SYSTEM: &str = "etc/systemd/system";

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Systemd>()
            .accepts([
                json!({}),
                json!({
                    "enabled_services": ["a.service"],
                    "disabled_services": [],
                    "masked_services": ["b"],
                    "masked_generators": ["g"],
                    "default_target": "",
                }),
            ])
            .refuses([
                json!({"enabled_services": "a"}),
                json!({"enabled_services": [1]}),
                json!({"unit_dropins": {}}),
                json!({"default_target": null}),
            ]);
        Agreement::stage::<Systemd>().member("inputs").refuses([json!({})]);
    }

    fn prepare(fixture: &mut Fixture) {
        let unit = |name: &str, wanted: &str| {
            let text = format!("[Service]\nExecStart=/bin/true\n[Install]\nWantedBy={wanted}\n");
            fixture.file(&format!("usr/lib/systemd/system/{name}"), &text);
        };
        unit("a.service", "multi-user.target");
        unit("b.service", "basic.target");
        fixture.file("usr/lib/systemd/system/multi-user.target", "[Unit]\nDescription=Many\n");
    }

    fn cases() -> Vec<(Value, bool)> {
        vec![
            (json!({}), true),
            (json!({"enabled_services": ["a.service", "b"]}), true),
            (json!({"enabled_services": ["a"], "disabled_services": ["a"], "masked_services": ["b"]}), true),
            (json!({"masked_generators": ["one", "two"]}), true),
            (json!({"masked_generators": ["one", "one"]}), false),
            (json!({"default_target": "multi-user.target"}), true),
            (json!({"enabled_services": ["missing.service"]}), false),
            (json!({"default_target": "a.service"}), false),
        ]
    }

    #[test]
    fn units_are_changed_as_asked_for() {
        for (options, succeeds) in cases() {
            let mut fixture = Fixture::new();
            prepare(&mut fixture);
            let result = fixture.run::<Systemd>(options.clone());
            assert_eq!(result.is_ok(), succeeds, "{options}: {result:?}");
        }
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        fixture
            .run::<Systemd>(json!({
                "enabled_services": ["a.service"],
                "masked_services": ["b.service"],
                "masked_generators": ["g"],
                "default_target": "multi-user.target",
            }))
            .expect("changed");
        let link = |path: &str| fs::read_link(fixture.tree().join(path)).expect(path).display().to_string();

        assert!(
            link(&format!("{SYSTEM}/multi-user.target.wants/a.service"))
                .ends_with("lib/systemd/system/a.service")
        );
        assert_eq!(link(&format!("{SYSTEM}/b.service")), "/dev/null");
        assert_eq!(link("etc/systemd/system-generators/g"), "/dev/null");
        assert!(link(&format!("{SYSTEM}/default.target")).ends_with("/systemd/system/multi-user.target"));
    }

    #[test]
    fn trees_equal_the_reference() {
        for (options, _) in cases() {
            side_by_side::<Systemd>(prepare, &options);
        }
    }
}
