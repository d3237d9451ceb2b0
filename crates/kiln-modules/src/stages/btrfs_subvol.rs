//! `org.osbuild.btrfs.subvol`

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::location::normalise;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::btrfs;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;

/// Makes subvolumes in a mounted btrfs.
///
/// Needs no program of the build root.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The subvolumes, in the order in which they are made.
    subvolumes: Option<Vec<Subvolume>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Subvolume {
    /// Path below the directory of the stage's mounts: that of a file system which is mounted at `/` starts there. What is
    /// missing of the directories on the way is made.
    name: String,
}

impl Subvolume {
    fn make(&self, root: &Root, option: &str) -> Result<(), ModuleError> {
        let refuse = |reason: String| ModuleError::option(option, reason);
        let path = normalise(Path::new(&self.name));
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refuse("must name something below the mounts".to_owned()));
        };
        root.make_directories(parent)?;
        let parent: File = root.read(parent)?;
        let failed = || ModuleError::io("create subvolume", root.shown(&path));
        if !btrfs::is_btrfs(&parent).map_err(failed())? {
            let shown = root.shown(&path);
            return Err(refuse(format!("`{}` is not on a btrfs: mount one for the stage", shown.display())));
        }
        let name = CString::new(name.as_bytes()).map_err(|error| failed()(error.into()))?;
        btrfs::create_subvolume(parent, &name).map_err(failed())
    }
}

pub(crate) struct BtrfsSubvol;

impl Stage for BtrfsSubvol {
    const NAME: &'static str = "org.osbuild.btrfs.subvol";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let root = Root::open(&context.arguments.paths.mounts)?;
        for (index, subvolume) in options.subvolumes.iter().flatten().enumerate() {
            subvolume.make(&root, &format!("subvolumes[{index}].name"))?;
            context.say(format_args!("Create subvolume '{}'", root.shown(&subvolume.name).display()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use kiln_sys::command::Run;
    use serde_json::{Value, json};

    use super::*;
    use crate::filesystem_mount::testing::Disk;
    use crate::mounts::btrfs::Btrfs;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::{self, unique_uuid};
    use crate::stages::testing::MkfsBtrfs;

    fn run(mounts: &Path, names: &[&str]) -> Result<(), ModuleError> {
        let paths = json!({"devices": "/dev", "inputs": "/nonexistent", "mounts": mounts});
        let mut context = stage_test::context(&json!({"paths": paths}));
        let subvolumes: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
        let options = serde_json::from_value(json!({"subvolumes": subvolumes})).expect("valid");
        BtrfsSubvol::run(options, &mut context)
    }

    #[test]
    fn schema() {
        Agreement::stage::<BtrfsSubvol>()
            .accepts([json!({}), json!({"subvolumes": [{"name": "/root"}, {"name": "home"}]})])
            .refuses([
                json!({"subvolumes": [{}]}),
                json!({"subvolumes": [{"name": "a", "quota": 1}]}),
                json!({"subvolumes": {"name": "a"}}),
            ]);
    }

    /// The `btrfs` of this machine is too old for the reference's stage, so what it makes is compared with what the
    /// stage makes.
    #[test]
    fn root_subvolumes_are_made_as_the_program_makes_them() {
        let disk = Disk::new::<MkfsBtrfs>(128, &json!({"uuid": unique_uuid()}));
        let mounted = disk.mount(&Btrfs, "/", &Value::Null).expect("mount");
        run(&disk.root, &["/root", "home", "/var/lib//machines/", "root/srv"]).expect("made");
        Run::new("btrfs").args(["subvolume", "create"]).arg(disk.root.join("other")).output().expect("made");
        let about = |name: &str| {
            let status = fs::metadata(disk.root.join(name)).expect("there");
            (status.ino(), status.mode(), status.uid(), status.gid())
        };
        for name in ["root", "home", "var/lib/machines", "root/srv"] {
            assert_eq!(about(name), about("other"), "{name}");
        }
        assert_ne!(about("var/lib").0, 256, "a plain directory");
        let listed = stage_test::output("btrfs", &["subvolume", "list"], &disk.root);
        let mut paths: Vec<_> = listed.lines().filter_map(|line| line.split(" path ").nth(1)).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["home", "other", "root", "root/srv", "var/lib/machines"]);

        // Links mean what they mean in the file system.
        symlink("/home", disk.root.join("link")).expect("link");
        run(&disk.root, &["link/user"]).expect("made");
        assert_eq!(about("home/user"), about("other"));

        let error = run(&disk.root, &["new", "home"]).expect_err("it is there").to_string();
        let path = disk.root.join("home");
        assert_eq!(error, format!("cannot create subvolume `{}`: File exists (os error 17)", path.display()));
        mounted.unmount().expect("unmount");
        disk.close();
    }

    #[test]
    fn what_is_wrong_is_said() {
        // `/proc` is nowhere a btrfs.
        let error = run(Path::new("/proc"), &["new"]).expect_err("no btrfs").to_string();
        assert_eq!(
            error,
            "invalid option `subvolumes[0].name`: `/proc/new` is not on a btrfs: mount one for the stage"
        );
        let error = run(Path::new("/proc"), &["/.."]).expect_err("no name").to_string();
        assert_eq!(error, "invalid option `subvolumes[0].name`: must name something below the mounts");
    }
}
