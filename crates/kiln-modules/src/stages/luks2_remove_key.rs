//! `org.osbuild.luks2.remove-key`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage_devices;

/// Removes a passphrase from the LUKS container on the device `device`.
///
/// Runs `cryptsetup` of the build root, which reads the passphrase from its standard input. It may be the last one: what
/// else has been bound to the container (see `org.osbuild.clevis.luks-bind`) is then all that opens it.
// No `Debug`: the passphrase is in it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Passphrase to remove.
    passphrase: String,
}

pub(crate) struct Luks2RemoveKey;

impl Stage for Luks2RemoveKey {
    const NAME: &'static str = "org.osbuild.luks2.remove-key";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?;
        let run = Run::new("cryptsetup").args(["-q", "luksRemoveKey"]).arg(device);
        Ok(run.input(options.passphrase).run()?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kiln_testkit::host;
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::{self, UUID};
    use crate::stages::testing::Luks2Format;

    #[test]
    fn schema() {
        Agreement::stage::<Luks2RemoveKey>()
            .accepts([json!({"passphrase": "secret"})])
            .refuses([json!({}), json!({"passphrase": 1})]);
    }

    fn slots(image: &Path) -> usize {
        stage_test::output("cryptsetup", &["luksDump"], image)
            .lines()
            .filter(|line| line.trim_end().ends_with(": luks2"))
            .count()
    }

    #[test]
    fn one_passphrase_is_removed() {
        if !host::provided("LUKS", &[host::CRYPTSETUP]) {
            return;
        }
        let options =
            json!({"passphrase": "first", "uuid": UUID, "pbkdf": {"method": "pbkdf2", "iterations": 1000}});
        let image = stage_test::run_on_file::<Luks2Format>(32 << 20, &options).expect("cryptsetup");
        let words = ["-q", "luksAddKey", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
        let second = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(second.path(), "second").expect("write");
        let run = Run::new("cryptsetup").args(words).arg(image.path()).arg(second.path());
        run.input("first").run().expect("cryptsetup");
        assert_eq!(slots(image.path()), 2);

        let remove = |passphrase: &str| {
            stage_test::run_on::<Luks2RemoveKey>(image.path(), &json!({"passphrase": passphrase}))
        };
        let error = remove("neither of them").expect_err("no such key").to_string();
        assert!(
            error.starts_with("`cryptsetup` failed with exit status 2") && !error.contains("neither"),
            "{error}"
        );
        remove("first").expect("removed");
        assert_eq!(slots(image.path()), 1);
        remove("second").expect("the last one, too");
        assert_eq!(slots(image.path()), 0);
    }
}
