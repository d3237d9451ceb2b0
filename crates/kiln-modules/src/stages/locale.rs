//! `org.osbuild.locale`

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::firstboot;
use crate::support::root::Root;

/// Where the language is set, and where Debian's `systemd-firstboot` sets it.
const FILE: &str = "/etc/locale.conf";
const DEBIAN_FILE: &str = "/etc/default/locale";

/// Sets the language of the system.
///
/// Replaces `/etc/locale.conf`, or `/etc/default/locale` with a build root of Debian or Ubuntu; the build root's
/// `systemd-firstboot` checks the language and writes it as `LANG`.
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
        let set = |context: &mut StageContext| firstboot::set(context, FILE, "locale", &options.language);
        let tree = Root::open(context.tree())?;
        let debian_file = tree.exists(DEBIAN_FILE);
        set(context)?;
        // The first file is gone by now, and it is not what this `systemd-firstboot` writes: it has kept the other one,
        // which a package may have made, and set nothing. The reference leaves it at that.
        if debian_file && !options.language.is_empty() && !tree.exists(FILE) && tree.remove(DEBIAN_FILE)? {
            context.say(format_args!("{DEBIAN_FILE} already exists. Replacing."));
            set(context)?;
        }
        Ok(())
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

    /// The file that this machine's `systemd-firstboot` writes.
    fn written() -> &'static str {
        let fixture = Fixture::new();
        fixture.run::<Locale>(json!({"language": "C.UTF-8"})).expect("written");
        [FILE, DEBIAN_FILE]
            .into_iter()
            .find(|file| fixture.tree().join(file.trim_start_matches('/')).exists())
            .expect("one of the two is written")
    }

    #[test]
    fn the_language_is_written() {
        let file = written();
        let fixture = Fixture::new();
        fixture.file(file.trim_start_matches('/'), "LANG=C\n");
        let said = fixture.run::<Locale>(json!({"language": "en_US.UTF-8"})).expect("written");
        assert_eq!(said, format!("{file} already exists. Replacing.\n"));
        let path = fixture.tree().join(file.trim_start_matches('/'));
        assert_eq!(std::fs::read_to_string(path).expect("written"), "LANG=en_US.UTF-8\n");
        Fixture::new().run::<Locale>(json!({"language": "no/locale"})).expect_err("it is checked");
    }

    #[test]
    fn the_usual_file_goes_in_any_case() {
        let fixture = Fixture::new();
        fixture.file("etc/locale.conf", "LANG=C\n");
        let said = fixture.run::<Locale>(json!({"language": "en_US.UTF-8"})).expect("written");
        assert_eq!(said, "/etc/locale.conf already exists. Replacing.\n");
        let left = std::fs::read_to_string(fixture.tree().join("etc/locale.conf")).unwrap_or_default();
        assert!(!left.contains("LANG=C\n"), "{left}");
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
