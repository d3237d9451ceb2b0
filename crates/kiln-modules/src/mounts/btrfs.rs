//! `org.osbuild.btrfs`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use kiln_sys::filesystem::MountOption;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{filesystem_mount, host};

/// Mounts a btrfs file system, or a subvolume of it.
///
/// Needs neither the program `mount` nor anything else of the host but a kernel that has the file system. Several
/// subvolumes of one device can be mounted at once, some read-only and some not.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Whether nothing may be written.
    #[serde(default)]
    readonly: bool,
    /// Whether the log tree is left as it is, even if it should be replayed.
    #[serde(default)]
    norecovery: bool,
    /// Path of the subvolume.
    subvol: Option<String>,
    /// Compression of what is written: `zlib`, `lzo` or `zstd`, with an optional level, as `zstd:1`.
    compress: Option<String>,
}

impl Options {
    fn for_kernel(self) -> Vec<MountOption> {
        let mut options = Vec::new();
        if self.norecovery {
            // `norecovery` is only an alias, and only of newer kernels.
            options.push(MountOption::value("rescue", "nologreplay"));
        }
        options.extend(self.subvol.map(|path| MountOption::value("subvol", path)));
        options.extend(self.compress.map(|kind| MountOption::value("compress", kind)));
        options
    }
}

pub(crate) struct Btrfs;

impl Mount for Btrfs {
    fn name(&self) -> &'static str {
        "org.osbuild.btrfs"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            required_members: filesystem_mount::REQUIRED,
            ..ModuleSchema::of::<Options>()
        }
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
        let options: Options = host::options(request.options)?;
        filesystem_mount::mount(request, "btrfs", options.readonly, &options.for_kernel())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kiln_api::module::Kind;
    use kiln_sys::command::Run;
    use serde_json::{Value, json};

    use super::*;
    use crate::filesystem_mount::testing::Disk;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::unique_uuid;
    use crate::stages::testing::MkfsBtrfs;

    #[test]
    fn schema() {
        Agreement::of(Kind::Mount, "org.osbuild.btrfs", Btrfs.schema())
            .accepts([
                json!({}),
                json!({"readonly": true, "norecovery": true, "subvol": "root", "compress": "zstd:1"}),
            ])
            .refuses([json!({"readonly": "true"}), json!({"subvol": 5}), json!({"umask": "077"})]);
        filesystem_mount::testing::check_required(&Btrfs);
    }

    #[test]
    fn root_subvolumes_and_compression_are_as_asked() {
        let disk = Disk::new::<MkfsBtrfs>(128, &json!({"uuid": unique_uuid()}));
        let mounted = disk.mount(&Btrfs, "/", &Value::Null).expect("mount");
        for name in ["root", "home"] {
            Run::new("btrfs")
                .args(["subvolume", "create"])
                .arg(disk.root.join(name))
                .output()
                .expect("create");
        }
        mounted.unmount().expect("unmount");

        let options = json!({"subvol": "root", "compress": "zstd:1"});
        let root = disk.mount(&Btrfs, "/", &options).expect("mount");
        // Nested, and of the same device; `norecovery` asks for read-only.
        let home = disk.mount(&Btrfs, "/home", &json!({"subvol": "home", "readonly": true})).expect("mount");
        fs::write(disk.root.join("zeros"), vec![b'a'; 8 << 20]).expect("write");
        assert!(fs::write(disk.root.join("home/file"), "").is_err());
        let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        let line = |path: &std::path::Path| {
            let place = format!(" {} ", path.display());
            table.lines().find(|line| line.contains(&place)).expect("mounted").to_owned()
        };
        assert!(
            line(&disk.root).contains(" /root ") && line(&disk.root).contains("compress=zstd:1"),
            "{table}"
        );
        assert!(line(&disk.root.join("home")).contains(" /home "), "{table}");
        home.unmount().expect("unmount");
        root.unmount().expect("unmount");

        let options = json!({"readonly": true, "norecovery": true, "subvol": "root"});
        let mounted = disk.mount(&Btrfs, "/", &options).expect("mount");
        assert_eq!(fs::metadata(disk.root.join("zeros")).expect("there").len(), 8 << 20);
        mounted.unmount().expect("unmount");
        disk.close();
    }

    #[test]
    fn root_refused_options_are_named() {
        let disk = Disk::new::<MkfsBtrfs>(128, &json!({"uuid": unique_uuid()}));
        let message = |options| disk.mount(&Btrfs, "/", &options).err().expect("refused").to_string();
        let compress = message(json!({"compress": "gzip"}));
        assert!(compress.starts_with("btrfs refused the mount option `compress=gzip`: "), "{compress}");
        let subvolume = message(json!({"subvol": "none"}));
        assert!(subvolume.contains("with the options `subvol=none`: "), "{subvolume}");
        disk.close();
    }
}
