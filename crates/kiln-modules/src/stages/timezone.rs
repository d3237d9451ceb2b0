//! `org.osbuild.timezone`

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::firstboot;

/// Sets the time zone of the system.
///
/// Replaces `/etc/localtime` by a link into the zone database; the build root's `systemd-firstboot` checks the zone
/// against the build root's database and makes the link.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// A zone of the database, as `Europe/Berlin` or `UTC`.
    zone: String,
}

pub(crate) struct Timezone;

impl Stage for Timezone {
    const NAME: &'static str = "org.osbuild.timezone";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        firstboot::set(context, "/etc/localtime", "timezone", &options.zone)
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
        Agreement::stage::<Timezone>().accepts([json!({"zone": "x"}), json!({"zone": ""})]).refuses([
            json!({}),
            json!({"zone": 1}),
            json!({"zone": "x", "more": 1}),
        ]);
        Agreement::stage::<Timezone>().member("inputs").refuses([json!({})]);
    }

    #[test]
    fn the_zone_is_linked() {
        let fixture = Fixture::new();
        fixture.file("etc/.keep", "").file("usr/share/zoneinfo/Europe/Berlin", "").file("etc/localtime", "");
        let said = fixture.run::<Timezone>(json!({"zone": "Europe/Berlin"})).expect("linked");
        assert_eq!(said, "/etc/localtime already exists. Replacing.\n");
        let link = std::fs::read_link(fixture.tree().join("etc/localtime")).expect("a link");
        assert_eq!(link.to_str(), Some("../usr/share/zoneinfo/Europe/Berlin"));
        Fixture::new().run::<Timezone>(json!({"zone": "Europe/Atlantis"})).expect_err("it is checked");
    }

    #[test]
    fn trees_equal_the_reference() {
        for zone in ["Europe/Berlin", "UTC", "Europe/Atlantis", ""] {
            let options = json!({"zone": zone});
            side_by_side::<Timezone>(|_| {}, &options);
            side_by_side::<Timezone>(
                |fixture| {
                    fixture.file("etc/localtime", "");
                },
                &options,
            );
        }
    }
}
