//! `org.osbuild.systemd-repart.create`

use std::ffi::OsString;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::root::Root;

/// Where the nodes of loop devices appear when the kernel makes them.
const DEVICES: &str = "/dev";

/// Makes a disk image whose partitions are defined by files in a tree.
///
/// Runs `systemd-repart` of the build root with the input `root-tree` as its root: it reads the definitions below
/// `/usr/lib/repart.d` and `/etc/repart.d` there, and copies files from there into partitions. The image is a new file.
/// For partitions with file systems `systemd-repart` may want loop devices, and is given the kernel's own `/dev`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Path of the image in the tree.
    path: String,
    /// Size of the image, as `10G`, or `auto`.
    size: String,
    /// What UUIDs are derived from: a UUID, or `random`.
    #[serde(default = "random")]
    seed: String,
    /// Size of a sector in bytes.
    #[serde(rename = "sector-size")]
    sector_size: Option<i64>,
    /// Whether partitions that are erased by a reset to factory settings are left for the first start.
    #[serde(rename = "defer-partitions-factory-reset", default)]
    defer_partitions_factory_reset: bool,
    /// Whether each partition becomes a file of its own, too.
    #[serde(default)]
    split: bool,
}

fn random() -> String {
    "random".to_owned()
}

impl Options {
    fn arguments(&self, root: &Path, target: &Path) -> Vec<OsString> {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let mut arguments = words(&["--empty", "create", "--size", &self.size, "--root"]);
        arguments.push(root.into());
        arguments.extend(words(&["--seed", &self.seed]));
        arguments.push(target.into());
        if let Some(size) = self.sector_size.filter(|size| *size != 0) {
            arguments.extend(words(&["--sector-size", &size.to_string()]));
        }
        if self.defer_partitions_factory_reset {
            arguments.extend(words(&["--defer-partitions-factory-reset", "yes"]));
        }
        if self.split {
            arguments.extend(words(&["--split", "yes"]));
        }
        arguments
    }
}

pub(crate) struct SystemdRepartCreate;

impl Stage for SystemdRepartCreate {
    const NAME: &'static str = "org.osbuild.systemd-repart.create";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let inputs = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["root-tree"],
            "properties": {"root-tree": {"type": "object"}},
        });
        ModuleSchema { inputs: Some(inputs), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let root = context.arguments.inputs.get("root-tree");
        let root = root.ok_or_else(|| ModuleError::invalid("the stage has no input `root-tree`"))?;
        let target = Root::open(context.tree())?.resolve_parent(&options.path)?;
        let devices = Devices::mount(Path::new(DEVICES))?;
        let made = Run::new("systemd-repart").args(options.arguments(&root.path, &target)).run();
        // Whatever failed first is told.
        let unmounted = devices.unmount();
        made?;
        unmounted
    }
}

/// The kernel's device nodes over those of the build root.
struct Devices<'a> {
    target: &'a Path,
    is_mounted: bool,
}

impl<'a> Devices<'a> {
    fn mount(target: &'a Path) -> Result<Self, ModuleError> {
        match rustix::mount::mount("devtmpfs", target, "devtmpfs", MountFlags::empty(), None) {
            Ok(()) => Ok(Self { target, is_mounted: true }),
            // Not allowed in a user namespace, where there are no loop devices either: definitions that need none do.
            // And where they are the kernel's already, they cannot be mounted over themselves.
            Err(Errno::PERM | Errno::BUSY) => Ok(Self { target, is_mounted: false }),
            Err(errno) => Err(ModuleError::io("mount devtmpfs on", target)(errno.into())),
        }
    }

    fn unmount(self) -> Result<(), ModuleError> {
        if self.is_mounted {
            rustix::mount::unmount(self.target, UnmountFlags::empty())
                .map_err(|errno| ModuleError::io("unmount", self.target)(errno.into()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode};
    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
    use crate::stage_test::{UUID, attached, output};

    fn everything() -> Value {
        json!({"path": "/disk.img", "size": "64M", "seed": UUID, "sector-size": 4096,
               "defer-partitions-factory-reset": true, "split": true})
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<SystemdRepartCreate>()
            .accepts([json!({"path": "a", "size": "auto"}), everything()])
            .refuses([
                json!({"path": "a"}),
                json!({"path": "a", "size": 64}),
                json!({"path": "a", "size": "64M", "sector-size": "512"}),
                json!({"path": "a", "size": "64M", "split": "yes"}),
                json!({"path": "a", "size": "64M", "empty": "create"}),
            ]);
        Agreement::stage::<SystemdRepartCreate>()
            .around(json!({"options": {"path": "a", "size": "1G"}}))
            .member("inputs")
            .accepts([json!({"root-tree": {"type": "org.osbuild.tree"}})])
            .refuses([json!({}), json!({"root-tree": {}, "other": {}})]);
    }

    #[test]
    fn options_become_arguments() {
        let words = |options: Value| {
            let options: Options = serde_json::from_value(options).expect("valid");
            let arguments = options.arguments(Path::new("/r"), Path::new("/t/a"));
            arguments.join(" ".as_ref()).into_string().expect("UTF-8")
        };
        assert_eq!(
            words(json!({"path": "a", "size": "1G", "sector-size": 0})),
            "--empty create --size 1G --root /r --seed random /t/a"
        );
        assert_eq!(
            words(everything()),
            format!(
                "--empty create --size 64M --root /r --seed {UUID} /t/a --sector-size 4096 \
                 --defer-partitions-factory-reset yes --split yes"
            )
        );
    }

    /// A `/dev` as in a build root, which nobody else sees.
    fn own_devices() {
        kiln_sys::chroot::private_mounts().expect("root");
        rustix::mount::mount("none", DEVICES, "tmpfs", MountFlags::empty(), None).expect("root");
        let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
        rustix::fs::mknodat(CWD, "/dev/null", kind, mode, rustix::fs::makedev(1, 3)).expect("root");
    }

    fn fixture() -> Fixture {
        own_devices();
        let mut fixture = Fixture::new();
        fixture.input(
            "root-tree",
            &[
                ("usr/lib/repart.d/10-esp.conf", "[Partition]\nType=esp\nSizeMinBytes=8M\nSizeMaxBytes=8M\n"),
                (
                    "usr/lib/repart.d/20-root.conf",
                    "[Partition]\nType=root\nFormat=ext4\nCopyFiles=/etc:/etc\nSizeMinBytes=32M\n",
                ),
                ("etc/file", "content\n"),
            ],
        );
        fixture
    }

    /// What is in the partition table, but for the name of the image.
    fn table(image: &Path) -> Value {
        let text = output("sfdisk", &["--json"], image).replace(image.to_str().expect("UTF-8"), "IMAGE");
        serde_json::from_str(&text).expect("JSON")
    }

    #[test]
    fn root_partitions_are_as_defined() {
        let fixture = fixture();
        let options = json!({"path": "disk.img", "size": "64M", "seed": UUID});
        let before = std::fs::read_to_string("/proc/thread-self/mounts").expect("mounts");
        fixture.run::<SystemdRepartCreate>(options.clone()).expect("made");
        assert_eq!(std::fs::read_to_string("/proc/thread-self/mounts").expect("mounts"), before);
        let image = fixture.tree().join("disk.img");
        assert_eq!(attached(&image), [""; 0]);
        let ours = table(&image);
        let partitions = ours["partitiontable"]["partitions"].as_array().expect("partitions");
        assert_eq!(partitions.len(), 2);
        let [start, size] = ["start", "size"].map(|name| partitions[1][name].as_u64().expect(name) * 512);
        let bytes = std::fs::read(&image).expect("read");
        let part = fixture.tree().join("part");
        std::fs::write(&part, &bytes[start as usize..(start + size) as usize]).expect("written");
        assert_eq!(output("debugfs", &["-R", "cat /etc/file"], &part), "content\n");
        let there = self::fixture();
        let Some((succeeded, said)) = there.run_reference(SystemdRepartCreate::NAME, options) else { return };
        assert!(succeeded, "{said}");
        assert_eq!(table(&there.tree().join("disk.img")), ours);
    }

    #[test]
    fn root_what_fails_leaves_nothing_mounted() {
        let fixture = fixture();
        let before = std::fs::read_to_string("/proc/thread-self/mounts").expect("mounts");
        let options = json!({"path": "disk.img", "size": "much"});
        let error = fixture.run::<SystemdRepartCreate>(options).expect_err("no size").to_string();
        assert!(error.starts_with("`systemd-repart` failed with exit status 1"), "{error}");
        assert_eq!(std::fs::read_to_string("/proc/thread-self/mounts").expect("mounts"), before);
        let error = fixture.run::<SystemdRepartCreate>(json!({"path": "no/disk.img", "size": "64M"}));
        assert!(error.expect_err("no directory").to_string().contains("cannot find"));
    }
}
