//! `org.osbuild.noop`

use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::filesystem_mount;

/// Mounts nothing: makes an empty directory where the mount point would be.
///
/// Any options are accepted, and none is looked at.
#[derive(Deserialize, JsonSchema)]
struct Options {}

pub(crate) struct Noop;

impl Mount for Noop {
    fn name(&self) -> &'static str {
        "org.osbuild.noop"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            required_members: filesystem_mount::REQUIRED,
            ..ModuleSchema::of::<Options>()
        }
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
        Ok(Box::new(Directory(filesystem_mount::make_mount_point(request)?)))
    }
}

struct Directory(PathBuf);

impl Mounted for Directory {
    fn path(&self) -> Option<&Path> {
        Some(&self.0)
    }

    fn unmount(self: Box<Self>) -> Result<(), ModuleError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kiln_api::module::Kind;
    use serde_json::json;

    use super::*;
    use crate::filesystem_mount::testing::check_required;
    use crate::schema_agreement::Agreement;

    #[test]
    fn schema() {
        Agreement::of(Kind::Mount, "org.osbuild.noop", Noop.schema())
            .accepts([json!({}), json!({"anything": [1, {}]})])
            .refuses([json!([]), json!("x")]);
        check_required(&Noop);
    }

    #[test]
    fn a_directory_is_made_and_stays_empty() {
        let root = tempfile::tempdir().expect("tempdir");
        let options = json!({"any": 1});
        let request = |target| MountRequest {
            source: Some(Path::new("/dev/null")),
            target,
            root: root.path(),
            tree: root.path(),
            options: &options,
        };
        for (target, expected) in [("/", ""), ("/n/m", "n/m"), ("/n/m", "n/m"), ("//../x", "x")] {
            let mounted = Noop.mount(&request(Some(target))).expect(target);
            let path = mounted.path().expect("a path").to_owned();
            assert_eq!(path, root.path().join(expected).components().collect::<PathBuf>());
            assert!(path.is_dir(), "{target}");
            mounted.unmount().expect("nothing to do");
        }
        let error = Noop.mount(&request(None)).err().expect("no target").to_string();
        assert_eq!(error, "invalid option `target`: the mount needs a mount point");
    }
}
