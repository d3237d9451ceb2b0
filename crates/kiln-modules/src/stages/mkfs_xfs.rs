//! `org.osbuild.mkfs.xfs`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage_devices::{self, flag};

/// Makes an XFS file system on the device `device`.
///
/// Runs `mkfs.xfs` of the build root.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// UUID of the file system.
    uuid: String,
    /// Label of the file system.
    #[schemars(length(max = 12))]
    label: Option<String>,
    /// Number of allocation groups; zero leaves it to `mkfs.xfs`.
    agcount: Option<i64>,
}

pub(crate) struct MkfsXfs;

impl Stage for MkfsXfs {
    const NAME: &'static str = "org.osbuild.mkfs.xfs";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?;
        let groups = options.agcount.filter(|count| *count != 0).map(|count| format!("agcount={count}"));
        Ok(Run::new("mkfs.xfs")
            .args(["-m".to_owned(), format!("uuid={}", options.uuid)])
            .args(flag("-L", options.label.as_deref()))
            .args(flag("-d", groups.as_deref()))
            .arg(device)
            .run()?)
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
        Agreement::stage::<MkfsXfs>()
            .accepts([json!({"uuid": UUID}), json!({"uuid": UUID, "label": "root", "agcount": 2})])
            .refuses([
                json!({}),
                json!({"uuid": UUID, "label": "thirteen char"}),
                json!({"uuid": UUID, "agcount": "2"}),
            ]);
    }

    #[test]
    fn the_file_system_is_as_asked() {
        let options = json!({"uuid": UUID, "label": "root", "agcount": 2});
        let image = stage_test::run_on_file::<MkfsXfs>(320 << 20, &options).expect("mkfs");
        assert_eq!(attribute(image.path(), "TYPE"), "xfs");
        assert_eq!(attribute(image.path(), "UUID"), UUID);
        assert_eq!(attribute(image.path(), "LABEL"), "root");
        let groups = stage_test::output("xfs_db", &["-r", "-c", "sb 0", "-c", "p agcount"], image.path());
        assert_eq!(groups, "agcount = 2\n");
        stage_test::output("xfs_repair", &["-n", "-f"], image.path());
    }

    #[test]
    fn a_refused_option_is_reported_in_the_words_of_mkfs() {
        let error = stage_test::run_on_file::<MkfsXfs>(320 << 20, &json!({"uuid": UUID, "agcount": -1}))
            .expect_err("refused");
        assert!(error.to_string().starts_with("`mkfs.xfs` failed with exit status 1: "), "{error}");
        assert!(error.to_string().contains("agcount"), "{error}");
    }
}
