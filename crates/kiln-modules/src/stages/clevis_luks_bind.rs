//! `org.osbuild.clevis.luks-bind`

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage_devices;

/// Where shells look for descriptors; some pins are scripts that do.
const DESCRIPTORS: &str = "/dev/fd";

/// Binds the LUKS container on the device `device` to a policy: whatever satisfies it opens the container.
///
/// Runs `clevis` of the build root, which reads the passphrase from its standard input.
// No `Debug`: the passphrase is in it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Passphrase that opens the container now.
    passphrase: String,
    /// Pin, as `tpm2`, `tang` or `sss`.
    pin: String,
    /// Policy of the pin, as JSON in a text.
    policy: String,
}

impl Options {
    fn command(&self, device: &Path) -> Run {
        Run::new("clevis")
            .args(["luks", "bind", "-k-", "-y", "-f", "-d"])
            .arg(device)
            .args([&self.pin, &self.policy])
    }
}

pub(crate) struct ClevisLuksBind;

impl Stage for ClevisLuksBind {
    const NAME: &'static str = "org.osbuild.clevis.luks-bind";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?;
        link_descriptors(Path::new(DESCRIPTORS))?;
        Ok(options.command(device).input(options.passphrase).run()?)
    }
}

/// The build root's `/dev` is a fresh one, without the link that systems have.
fn link_descriptors(path: &Path) -> Result<(), ModuleError> {
    match symlink("/proc/self/fd", path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(ModuleError::io("create link", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kiln_testkit::host::{self, Need};
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::{self, UUID};
    use crate::stages::testing::Luks2Format;

    const NEEDS: [Need; 2] = [host::CRYPTSETUP, host::CLEVIS_LUKS];

    #[test]
    fn schema() {
        Agreement::stage::<ClevisLuksBind>()
            .accepts([json!({"passphrase": "secret", "pin": "null", "policy": "{}"})])
            .refuses([
                json!({"passphrase": "secret", "pin": "null"}),
                json!({"pin": "null", "policy": "{}"}),
            ]);
    }

    #[test]
    fn the_command_is_that_of_the_reference() {
        let options = json!({"passphrase": "secret", "pin": "tpm2", "policy": "{\"pcr_ids\": \"7\"}"});
        let options: Options = serde_json::from_value(options).expect("valid");
        let words =
            ["clevis", "luks", "bind", "-k-", "-y", "-f", "-d", "/dev/loop7", "tpm2", "{\"pcr_ids\": \"7\"}"];
        assert_eq!(options.command(Path::new("/dev/loop7")).words(), words);
    }

    #[test]
    fn the_link_is_made_where_there_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let link = directory.path().join("fd");
        for _ in 0..2 {
            link_descriptors(&link).expect("linked");
            assert_eq!(fs::read_link(&link).expect("a link"), Path::new("/proc/self/fd"));
        }
        let error =
            link_descriptors(&directory.path().join("none/fd")).expect_err("no directory").to_string();
        assert!(error.starts_with("cannot create link `"), "{error}");
    }

    /// The pin `null` hides nothing and needs nothing else.
    #[test]
    fn containers_are_bound() {
        if !host::provided("clevis", &NEEDS) {
            return;
        }
        let options =
            json!({"passphrase": "secret", "uuid": UUID, "pbkdf": {"method": "pbkdf2", "iterations": 1000}});
        let image = stage_test::run_on_file::<Luks2Format>(32 << 20, &options).expect("cryptsetup");
        let bind = |passphrase: &str, pin: &str| {
            let options = json!({"passphrase": passphrase, "pin": pin, "policy": "{}"});
            stage_test::run_on::<ClevisLuksBind>(image.path(), &options)
        };
        let error = bind("not the secret", "null").expect_err("a wrong passphrase").to_string();
        assert!(
            error.starts_with("`clevis` failed with exit status 1") && !error.contains("not the secret"),
            "{error}"
        );
        bind("secret", "null").expect("bound");
        let text = stage_test::output("cryptsetup", &["luksDump"], image.path());
        assert!(text.contains("0: clevis") && text.contains("1: luks2"), "{text}");
    }
}
