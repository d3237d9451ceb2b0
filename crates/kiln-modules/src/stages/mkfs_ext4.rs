//! `org.osbuild.mkfs.ext4`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage_devices::{self, flag};

/// Makes an ext4 file system on the device `device`.
///
/// Runs `mkfs.ext4` of the build root. Features that are not mentioned are left to its configuration. The seed of
/// the directory hash is derived from the file system's UUID, where `mkfs.ext4` would take a random one: equal
/// options give equal directories.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// UUID of the file system.
    uuid: String,
    /// Label of the file system.
    #[schemars(length(max = 16))]
    label: Option<String>,
    /// Whether inode tables and journal are initialised by the kernel when the file system is first mounted, instead
    /// of now.
    lazy_init: Option<bool>,
    /// Whether the seed of the metadata checksums is stored, so that the UUID can be changed while mounted.
    metadata_csum_seed: Option<bool>,
    /// Whether orphaned inodes are kept in a file.
    orphan_file: Option<bool>,
    /// Whether files can be protected with fs-verity.
    verity: Option<bool>,
}

impl Options {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-U".to_owned(), self.uuid.clone()];
        arguments.extend(flag("-L", self.label.as_deref()));
        // One `-E` with all of them: of several, mkfs.ext4 only heeds the last.
        let mut extended = Vec::new();
        if let Some(lazy) = self.lazy_init.map(u8::from) {
            extended.push(format!("lazy_itable_init={lazy},lazy_journal_init={lazy}"));
        }
        if is_uuid(&self.uuid) {
            extended.push(format!("hash_seed={}", self.uuid));
        }
        if !extended.is_empty() {
            arguments.extend(["-E".to_owned(), extended.join(",")]);
        }
        let features = [
            ("verity", self.verity),
            ("orphan_file", self.orphan_file),
            ("metadata_csum_seed", self.metadata_csum_seed),
        ];
        for (feature, wanted) in features {
            if let Some(wanted) = wanted {
                let sign = if wanted { "" } else { "^" };
                arguments.extend(["-O".to_owned(), format!("{sign}{feature}")]);
            }
        }
        arguments
    }
}

/// Whether the text is a UUID, and not one of the words that mkfs.ext4 takes instead (`random`, `time`, `clear`).
fn is_uuid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.concat().bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(crate) struct MkfsExt4;

impl Stage for MkfsExt4 {
    const NAME: &'static str = "org.osbuild.mkfs.ext4";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?;
        Ok(Run::new("mkfs.ext4").args(options.arguments()).arg(device).run()?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::{self, UUID, attribute};

    #[test]
    fn schema() {
        Agreement::stage::<MkfsExt4>()
            .accepts([
                json!({"uuid": UUID}),
                json!({"uuid": UUID, "label": "root", "lazy_init": true, "verity": false,
                       "metadata_csum_seed": true, "orphan_file": false}),
            ])
            .refuses([
                json!({}),
                json!({"uuid": UUID, "label": "seventeen letters"}),
                json!({"uuid": UUID, "lazy_init": 1}),
                json!({"uuid": UUID, "sparse_super": true}),
            ]);
        Agreement::stage::<MkfsExt4>()
            .around(json!({"options": {"uuid": UUID}}))
            .member("devices")
            .accepts([json!({"device": {"type": "org.osbuild.loopback"}, "other": {}})])
            .refuses([json!({}), json!({"disk": {}})]);
    }

    #[test]
    fn arguments_follow_the_options() {
        let arguments = |options| {
            serde_json::from_value::<Options>(options).expect("valid options").arguments().join(" ")
        };
        let all = json!({"uuid": "random", "label": "", "lazy_init": false, "verity": true, "orphan_file": false,
                         "metadata_csum_seed": true});
        assert_eq!(
            arguments(all),
            "-U random -E lazy_itable_init=0,lazy_journal_init=0 -O verity -O ^orphan_file -O metadata_csum_seed"
        );
        let some = json!({"uuid": UUID, "label": "root"});
        assert_eq!(arguments(some), format!("-U {UUID} -L root -E hash_seed={UUID}"));
    }

    #[test]
    fn the_file_system_is_as_asked_and_its_neighbours_are_untouched() {
        let options = json!({"uuid": UUID, "label": "root", "verity": true, "orphan_file": false, "lazy_init": false,
                             "metadata_csum_seed": true});
        let image = stage_test::run_on_file::<MkfsExt4>(16 << 20, &options).expect("mkfs");
        assert_eq!(attribute(image.path(), "TYPE"), "ext4");
        assert_eq!(attribute(image.path(), "UUID"), UUID);
        assert_eq!(attribute(image.path(), "LABEL"), "root");
        let dump = stage_test::output("dumpe2fs", &["-h"], image.path());
        for expected in [" verity", " metadata_csum_seed", &format!("Directory Hash Seed:      {UUID}")] {
            assert!(dump.contains(expected), "{expected}: {dump}");
        }
        assert!(!dump.contains("orphan_file"), "{dump}");
        stage_test::output("e2fsck", &["-f", "-n"], image.path());
    }

    #[test]
    fn a_device_that_is_too_small_is_reported_in_the_words_of_mkfs() {
        let error = stage_test::run_on_file::<MkfsExt4>(4096, &json!({"uuid": UUID})).expect_err("too small");
        let message = error.to_string();
        assert!(message.starts_with("`mkfs.ext4` failed with exit status 1: "), "{message}");
        assert!(message.contains("Not enough space"), "{message}");
    }

    #[test]
    fn without_a_device_the_stage_says_what_it_needs() {
        let mut context = stage_test::context(&json!({"options": {"uuid": UUID}}));
        let error =
            MkfsExt4::run(serde_json::from_value(json!({"uuid": UUID})).expect("valid"), &mut context)
                .expect_err("no device");
        assert_eq!(error.to_string(), "invalid option `devices`: the stage needs a device named `device`");
    }
}
