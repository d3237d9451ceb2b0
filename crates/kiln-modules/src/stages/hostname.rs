//! `org.osbuild.hostname`

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::firstboot;

/// Sets the host name of the system.
///
/// Replaces `/etc/hostname`; the build root's `systemd-firstboot` checks the name and writes it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The host name.
    hostname: String,
}

pub(crate) struct Hostname;

impl Stage for Hostname {
    const NAME: &'static str = "org.osbuild.hostname";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        firstboot::set(context, "/etc/hostname", "hostname", &options.hostname)
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
        Agreement::stage::<Hostname>()
            .accepts([json!({"hostname": "x"}), json!({"hostname": ""})])
            .refuses([json!({}), json!({"hostname": 1}), json!({"hostname": "x", "more": 1})]);
        Agreement::stage::<Hostname>().member("inputs").refuses([json!({})]);
    }

    #[test]
    fn the_name_is_written() {
        for before in [None, Some("old\n")] {
            let fixture = Fixture::new();
            fixture.file("etc/.keep", "");
            if let Some(before) = before {
                fixture.file("etc/hostname", before);
            }
            let said = fixture.run::<Hostname>(json!({"hostname": "kiln.example"})).expect("written");
            let written = std::fs::read_to_string(fixture.tree().join("etc/hostname")).expect("written");
            assert_eq!(written, "kiln.example\n");
            let expected = if before.is_some() { "/etc/hostname already exists. Replacing.\n" } else { "" };
            assert_eq!(said, expected);
        }
        Fixture::new().run::<Hostname>(json!({"hostname": "not a name"})).expect_err("it is checked");
    }

    #[test]
    fn trees_equal_the_reference() {
        for name in ["kiln", "kiln.example", "not a name", ""] {
            let options = json!({"hostname": name});
            side_by_side::<Hostname>(|_| {}, &options);
            side_by_side::<Hostname>(
                |fixture| {
                    fixture.file("etc/hostname", "old");
                },
                &options,
            );
        }
    }
}
