//! `org.osbuild.ddi`

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use kiln_sys::bind::MountedTree;
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::filesystem_mount::{self, make_mount_point, mount_error};
use crate::host;

const PROGRAM: &str = "systemd-dissect";

/// Mounts all partitions of a disk image where their types in the partition table say (discoverable disk image).
///
/// Needs `systemd-dissect` on the host, which finds, checks, decrypts and mounts the partitions, and a device whose
/// partitions the kernel may look for: a loop device with `partscan`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Whether file systems that are marked so grow to the size of their partitions. Yes if nothing is said.
    growfs: Option<bool>,
    /// Whether nothing may be written.
    #[serde(rename = "read-only")]
    read_only: Option<bool>,
    /// Whether file systems are checked first. Yes if nothing is said.
    fsck: Option<bool>,
    /// What is told of blocks that are not used any more.
    discard: Option<Discard>,
    /// Which partitions may be there, and how they must be protected (`systemd.image-policy(7)`).
    #[serde(rename = "image-policy")]
    image_policy: Option<String>,
    /// The labels of partitions that are looked at (`systemd.image-filter(7)`).
    #[serde(rename = "image-filter")]
    image_filter: Option<String>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Discard {
    /// Nobody.
    Disabled,
    /// Loop devices.
    Loop,
    /// All but encrypted devices.
    All,
    /// All, also encrypted ones: who sees the image sees what is in use.
    Crypto,
}

impl Discard {
    const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Loop => "loop",
            Self::All => "all",
            Self::Crypto => "crypto",
        }
    }
}

impl Options {
    fn arguments(&self) -> Vec<&str> {
        let mut arguments = vec!["--mount"];
        if self.growfs == Some(false) {
            arguments.extend(["--growfs", "no"]);
        }
        if self.read_only == Some(true) {
            arguments.push("--read-only");
        }
        if self.fsck == Some(false) {
            arguments.extend(["--fsck", "no"]);
        }
        for (option, value) in [
            ("--discard", self.discard.map(Discard::name)),
            ("--image-policy", self.image_policy.as_deref()),
            ("--image-filter", self.image_filter.as_deref()),
        ] {
            // An empty text is none, as in osbuild.
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                arguments.extend([option, value]);
            }
        }
        arguments
    }
}

pub(crate) struct Ddi;

impl Mount for Ddi {
    fn name(&self) -> &'static str {
        "org.osbuild.ddi"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            required_members: filesystem_mount::REQUIRED,
            refused_members: &["partition"],
            ..ModuleSchema::of::<Options>()
        }
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
        mount(request, PROGRAM)
    }
}

fn mount(request: &MountRequest<'_>, program: &str) -> Result<Box<dyn Mounted>, ModuleError> {
    let options: Options = host::options(request.options)?;
    let source = request.source.ok_or_else(|| ModuleError::option("source", "the mount needs a device"))?;
    let target = make_mount_point(request)?;
    let dissect = Run::new(program).args(options.arguments()).arg(source).arg(&target);
    match MountedTree::made(&target, || dissect.output().map(drop)) {
        Ok(tree) => Ok(Box::new(Dissected(tree))),
        Err(error) if error.is_not_found() => Err(ModuleError::invalid(format!(
            "this machine has no `{program}`, which the mount needs: install Debian's or Fedora's `systemd-container`"
        ))),
        Err(error) => Err(error.into()),
    }
}

struct Dissected(MountedTree);

impl Mounted for Dissected {
    fn path(&self) -> Option<&Path> {
        Some(self.0.target())
    }

    fn unmount(self: Box<Self>) -> Result<(), ModuleError> {
        self.0.unmount().map_err(mount_error)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;

    use kiln_api::module::Kind;
    use kiln_testkit::host::{SYSTEMD_DISSECT, provided};
    use serde_json::json;

    use super::*;
    use crate::filesystem_mount::testing::{Disk, check_required};
    use crate::schema_agreement::Agreement;

    #[test]
    fn schema() {
        Agreement::of(Kind::Mount, "org.osbuild.ddi", Ddi.schema())
            .accepts([
                json!({}),
                json!({"growfs": false, "read-only": true, "fsck": false, "discard": "crypto"}),
                json!({"image-policy": "root=verity", "image-filter": "root=x", "discard": "disabled"}),
            ])
            .refuses([
                json!({"discard": "none"}),
                json!({"discard": null}),
                json!({"growfs": "no"}),
                json!({"readonly": true}),
                json!({"image-policy": 1}),
            ]);
        check_required(&Ddi);
    }

    #[test]
    fn options_are_the_programs() {
        let cases = [
            (json!({}), "--mount"),
            (json!({"growfs": true, "read-only": false, "fsck": true, "image-policy": ""}), "--mount"),
            (
                json!({"growfs": false, "read-only": true, "fsck": false, "discard": "loop"}),
                "--mount --growfs no --read-only --fsck no --discard loop",
            ),
            (
                json!({"image-policy": "root=any", "image-filter": "root=x"}),
                "--mount --image-policy root=any --image-filter root=x",
            ),
        ];
        for (value, expected) in cases {
            let options: Options = serde_json::from_value(value).expect("valid");
            assert_eq!(options.arguments().join(" "), expected);
        }
    }

    /// Types of partitions: a root file system of this machine's kind, and an extended boot partition.
    const ROOT: &str = if cfg!(target_arch = "aarch64") {
        "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"
    } else {
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
    };
    const BOOT: &str = "BC13C2FF-59E6-4262-A352-B275FD6F7172";

    fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<()> {
        Run::new(program).args(arguments).input(input).output().map(drop).map_err(io::Error::other)
    }

    /// Two partitions with file systems.
    fn make(image: &Path) -> io::Result<()> {
        fs::File::create(image)?.set_len(40 << 20)?;
        let image = image.display().to_string();
        let table = format!("label: gpt\nsize=16M,type={ROOT}\nsize=16M,type={BOOT}\n");
        run("sfdisk", &["-q", &image], &table)?;
        let scratch = tempfile::tempdir()?;
        fs::create_dir_all(scratch.path().join("usr"))?;
        fs::create_dir_all(scratch.path().join("boot"))?;
        let tree = scratch.path().display().to_string();
        run("mkfs.ext4", &["-q", "-E", "offset=1048576", "-d", &tree, &image, "16m"], "")?;
        run("mkfs.ext4", &["-q", "-E", "offset=17825792", &image, "16m"], "")
    }

    #[test]
    fn root_partitions_are_where_their_types_say() {
        if !provided("mounting partitions", &[SYSTEMD_DISSECT]) {
            return;
        }
        let disk = Disk::holding(json!({"partscan": true}), make);
        let mounted = disk.mount(&Ddi, "/image", &json!({"fsck": false, "growfs": false})).expect("mounted");
        let at = disk.root.join("image");
        assert_eq!(mounted.path(), Some(at.as_path()));
        fs::write(at.join("usr/file"), "one").expect("write");
        fs::write(at.join("boot/file"), "other").expect("write");
        mounted.unmount().expect("unmounted");
        assert_eq!(fs::read_dir(&at).expect("a directory").count(), 0);

        let mounted = disk.mount(&Ddi, "/image", &json!({"read-only": true})).expect("mounted");
        assert_eq!(fs::read_to_string(at.join("usr/file")).expect("there"), "one");
        assert_eq!(fs::read_to_string(at.join("boot/file")).expect("there"), "other");
        let error = fs::write(at.join("boot/file"), "").expect_err("read-only");
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        drop(mounted);
        assert_eq!(fs::read_dir(&at).expect("a directory").count(), 0);
        disk.close();
    }

    #[test]
    fn root_what_is_no_image_is_refused_and_nothing_stays_mounted() {
        if !provided("mounting partitions", &[SYSTEMD_DISSECT]) {
            return;
        }
        let disk =
            Disk::holding(json!({"partscan": true}), |image| fs::File::create(image)?.set_len(4 << 20));
        let error = disk.mount(&Ddi, "/", &json!({})).err().expect("refused").to_string();
        assert!(error.starts_with("`systemd-dissect` failed with "), "{error}");
        disk.close();
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let root = tempfile::tempdir().expect("tempdir");
        let request = MountRequest {
            source: Some(Path::new("/dev/null")),
            target: Some("/"),
            root: root.path(),
            tree: root.path(),
            options: &json!({}),
        };
        let error = mount(&request, "/none/systemd-dissect").err().expect("refused").to_string();
        assert_eq!(
            error,
            "this machine has no `/none/systemd-dissect`, which the mount needs: install Debian's or Fedora's \
             `systemd-container`"
        );
    }
}
