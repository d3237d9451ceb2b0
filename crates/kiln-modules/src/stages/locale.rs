//! `org.osbuild.locale`

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::firstboot;

/// Sets the language of the system.
///
/// Replaces `/etc/locale.conf`; the build root's `systemd-firstboot` checks the language and writes it as `LANG`.
/// The locale itself must be in the tree or be generated there by other means.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// A locale, as `C.UTF-8` or `en_US.UTF-8`.
    language: String,
}

pub(crate) struct Locale;

impl Stage for Locale {
    const NAME: &'static str = "org.osbuild.locale";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        firstboot::set(context, "/etc/locale.conf", "locale", &options.language)
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
        Agreement::stage::<Locale>().accepts([json!({"language": "x"}), json!({"language": ""})]).refuses([
            json!({}),
            json!({"language": 1}),
            json!({"language": "x", "more": 1}),
        ]);
        Agreement::stage::<Locale>().member("inputs").refuses([json!({})]);
    }

    #[test]
    fn the_language_is_written() {
        let fixture = Fixture::new();
        fixture.file("etc/locale.conf", "LANG=C\n");
        let said = fixture.run::<Locale>(json!({"language": "en_US.UTF-8"})).expect("written");
        assert_eq!(said, "/etc/locale.conf already exists. Replacing.\n");
        let written = std::fs::read_to_string(fixture.tree().join("etc/locale.conf")).expect("written");
        assert_eq!(written, "LANG=en_US.UTF-8\n");
        Fixture::new().run::<Locale>(json!({"language": "no/locale"})).expect_err("it is checked");
    }

    #[test]
    fn trees_equal_the_reference() {
        for language in ["en_US.UTF-8", "C.UTF-8", "no/locale", ""] {
            let options = json!({"language": language});
            side_by_side::<Locale>(|_| {}, &options);
            side_by_side::<Locale>(
                |fixture| {
                    fixture.file("etc/locale.conf", "LANG=C\n");
                },
                &options,
            );
        }
    }
}
