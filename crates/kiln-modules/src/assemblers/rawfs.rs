//! `org.osbuild.rawfs`
//!
//! The device is made here, inside the build root, where the kernel takes it away with the assembler however that ends.

use std::fs::{File, OpenOptions};
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::stage::{DeviceArgument, Stage, StageContext};
use kiln_sys::command::Run;
use kiln_sys::filesystem::{MountError, MountPlan, MountedFileSystem};
use kiln_sys::loop_device::{LoopDevice, LoopError, LoopOptions};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, json};

use crate::stages::formats::{MkfsBtrfs, MkfsExt4, MkfsXfs};
use crate::support::root::Root;

/// Copies the tree into a file system that is a file.
///
/// The file is as long as asked for, but takes only the room that its content needs. A tree that does not fit fails. The
/// file system is made by the build root's `mkfs.ext4`, `mkfs.xfs` or `mkfs.btrfs`, as by the stages of these names.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The name of the file.
    filename: String,
    /// UUID of the file system.
    #[schemars(regex(pattern = "^[0-9A-Za-z]{8}(-[0-9A-Za-z]{4}){3}-[0-9A-Za-z]{12}$"))]
    root_fs_uuid: String,
    /// Size of the file in bytes.
    size: i64,
    /// The kind of file system.
    #[serde(default)]
    fs_type: FileSystem,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FileSystem {
    #[default]
    Ext4,
    Xfs,
    Btrfs,
}

pub(crate) struct RawFs;

impl Stage for RawFs {
    const NAME: &'static str = "org.osbuild.rawfs";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let path = Root::open(context.tree())?.resolve_parent(&options.filename)?;
        let size = u64::try_from(options.size)
            .map_err(|_| ModuleError::option("size", format!("`{}` is negative", options.size)))?;
        File::create_new(&path)
            .and_then(|file| file.set_len(size))
            .map_err(ModuleError::io("create", &path))?;
        options.fs_type.make(&path, &options.root_fs_uuid, context)?;
        let nodes = context.arguments.paths.devices.clone();
        fill(&path, options.fs_type, super::source(context)?, &nodes)
    }
}

impl FileSystem {
    /// The kernel's name.
    const fn kind(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Makes an empty one of it in a file.
    fn make(self, path: &Path, uuid: &str, context: &StageContext) -> Result<(), ModuleError> {
        let mut arguments = context.arguments.clone();
        let device = DeviceArgument { path: path.to_owned(), data: Map::new() };
        arguments.devices.insert("device".to_owned(), device);
        let mut context =
            StageContext::new(arguments, context.metadata_path.clone(), Box::new(std::io::stdout()));
        let options = json!({"uuid": uuid});
        match self {
            Self::Ext4 => format::<MkfsExt4>(options, &mut context),
            Self::Xfs => format::<MkfsXfs>(options, &mut context),
            Self::Btrfs => format::<MkfsBtrfs>(options, &mut context),
        }
    }
}

fn format<S: Stage>(options: serde_json::Value, context: &mut StageContext) -> Result<(), ModuleError> {
    let options = serde_json::from_value(options)
        .map_err(|error| ModuleError::option("root_fs_uuid", error.to_string()))?;
    S::run(options, context)
}

/// Copies a tree into the file system in a file.
fn fill(image: &Path, file_system: FileSystem, tree: &Path, nodes: &Path) -> Result<(), ModuleError> {
    let target = tempfile::Builder::new().prefix("rawfs-").tempdir_in("/tmp");
    let target = target.map_err(ModuleError::io("create a directory in", "/tmp"))?;
    let open = || OpenOptions::new().read(true).write(true).open(image);
    let (device, ()) =
        LoopDevice::attach(image, open, &LoopOptions::default(), nodes, |_| Ok::<_, LoopError>(()))
            .map_err(loop_error)?;
    let plan = MountPlan {
        kind: file_system.kind(),
        source: device.path(),
        target: target.path(),
        read_only: false,
        options: &[],
    };
    let mounted = MountedFileSystem::mount(&plan).map_err(mount_error)?;
    let copied = Run::new("cp").arg("-a").arg("--").arg(tree.join(".")).arg(target.path()).run();
    // Whatever failed first is told; all of it is taken away.
    let unmounted = mounted.unmount().map_err(mount_error);
    let closed = device.close().map_err(loop_error);
    copied?;
    unmounted.and(closed)
}

pub(super) fn mount_error(error: MountError) -> ModuleError {
    match error {
        MountError::Io { action, path, source } => ModuleError::Io { action, path, source },
        error => ModuleError::invalid(error.to_string()),
    }
}

pub(super) fn loop_error(error: LoopError) -> ModuleError {
    match error {
        LoopError::Io { action, path, source } => ModuleError::Io { action, path, source },
        error => ModuleError::invalid(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
    use crate::stage_test::{UUID, attached, attribute, output, unique_uuid};

    #[test]
    fn schema_agrees() {
        Agreement::assembler::<RawFs>()
            .accepts([
                json!({"filename": "a", "root_fs_uuid": UUID, "size": 1}),
                json!({"filename": "a", "root_fs_uuid": UUID, "size": -1, "fs_type": "btrfs"}),
            ])
            .refuses([
                json!({"filename": "a", "root_fs_uuid": UUID}),
                json!({"filename": "a", "root_fs_uuid": "x", "size": 1}),
                json!({"filename": "a", "root_fs_uuid": UUID, "size": "1G"}),
                json!({"filename": "a", "root_fs_uuid": UUID, "size": 1, "fs_type": "vfat"}),
            ]);
    }

    fn fixture() -> Fixture {
        // Whoever copies the host's mounts would keep what is mounted here busy.
        kiln_sys::chroot::private_mounts().expect("root");
        let mut fixture = Fixture::new();
        fixture.input("tree", &[("etc/file", "content\n"), ("a", "one\n")]);
        fixture
    }

    #[test]
    fn root_the_image_has_the_tree() {
        for (kind, mebibytes) in [("ext4", 32), ("btrfs", 128), ("xfs", 320)] {
            let fixture = fixture();
            let uuid = unique_uuid();
            let options = json!({"filename": "disk.img", "root_fs_uuid": uuid, "size": mebibytes << 20, "fs_type": kind});
            fixture.run::<RawFs>(options).expect(kind);
            let image = fixture.tree().join("disk.img");
            assert_eq!(image.metadata().expect("there").len(), mebibytes << 20);
            assert_eq!(attribute(&image, "TYPE"), kind);
            assert_eq!(attribute(&image, "UUID"), uuid);
            assert_eq!(attached(&image), [""; 0], "{kind}");
            if kind == "ext4" {
                output("e2fsck", &["-f", "-n"], &image);
                assert_eq!(output("debugfs", &["-R", "cat /etc/file"], &image), "content\n");
            }
        }
    }

    #[test]
    fn root_what_does_not_fit_fails_and_leaves_nothing() {
        let mut fixture = fixture();
        let large = "x".repeat(8 << 20);
        fixture.input("large", &[]);
        std::fs::write(fixture.tree().parent().expect("a parent").join("inputs/tree/large"), large)
            .expect("written");
        let options = json!({"filename": "disk.img", "root_fs_uuid": UUID, "size": 4 << 20});
        let error = fixture.run::<RawFs>(options).expect_err("too small").to_string();
        assert!(error.contains("`cp` failed") && error.contains("No space left"), "{error}");
        assert_eq!(attached(&fixture.tree().join("disk.img")), [""; 0]);
        let error = fixture
            .run::<RawFs>(json!({"filename": "b.img", "root_fs_uuid": UUID, "size": -1}))
            .expect_err("negative");
        assert_eq!(error.to_string(), "invalid option `size`: `-1` is negative");
    }
}
