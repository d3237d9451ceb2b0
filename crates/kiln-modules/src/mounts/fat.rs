//! `org.osbuild.fat`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use kiln_sys::filesystem::MountOption;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{filesystem_mount, host};

/// Mounts a FAT file system, as that of an EFI system partition.
///
/// Needs neither the program `mount` nor anything else of the host but a kernel that has the file system (`vfat`). FAT
/// knows neither owners nor modes; what all files are shown with is said by the options.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Whether nothing may be written.
    #[serde(default)]
    readonly: bool,
    /// The user that all files belong to; root if nothing is said.
    uid: Option<i64>,
    /// The group that all files belong to; root's if nothing is said.
    gid: Option<i64>,
    /// The permissions that no file has: three octal digits, as `077`.
    #[schemars(extend("pattern" = "^[0-7][0-7][0-7]$"))]
    umask: Option<String>,
    /// How names of eight and three characters are shown and stored.
    shortname: Option<ShortName>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ShortName {
    /// Shown in lower case; a long name is stored beside one that is not all upper case.
    Lower,
    /// Shown as it is; a long name is stored beside one that is not all upper case.
    Win95,
    /// Shown as it is; a long name is stored beside one that is of mixed case.
    Winnt,
    /// Shown in the case that is noted beside it; a long name is stored beside one that is not all upper case.
    Mixed,
}

impl ShortName {
    const fn name(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Win95 => "win95",
            Self::Winnt => "winnt",
            Self::Mixed => "mixed",
        }
    }
}

impl Options {
    fn for_kernel(&self) -> Vec<MountOption> {
        let values = [
            ("uid", self.uid.map(|id| id.to_string())),
            ("gid", self.gid.map(|id| id.to_string())),
            ("umask", self.umask.clone()),
            ("shortname", self.shortname.map(|kind| kind.name().to_owned())),
        ];
        values.into_iter().filter_map(|(name, value)| Some(MountOption::value(name, value?))).collect()
    }
}

pub(crate) struct Fat;

impl Mount for Fat {
    fn name(&self) -> &'static str {
        "org.osbuild.fat"
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
        filesystem_mount::mount(request, "vfat", options.readonly, &options.for_kernel())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use kiln_api::module::Kind;
    use serde_json::{Value, json};

    use super::*;
    use crate::filesystem_mount::testing::{Disk, check_required};
    use crate::schema_agreement::Agreement;
    use crate::stages::testing::MkfsFat;

    #[test]
    fn schema() {
        Agreement::of(Kind::Mount, "org.osbuild.fat", Fat.schema())
            .accepts([
                json!({}),
                json!({"readonly": true, "uid": 1, "gid": 5, "umask": "077", "shortname": "winnt"}),
            ])
            .refuses([
                json!({"umask": "0077"}),
                json!({"umask": "778"}),
                json!({"umask": 77}),
                json!({"uid": "root"}),
                json!({"shortname": "upper"}),
                json!({"norecovery": true}),
            ]);
        check_required(&Fat);
    }

    #[test]
    fn options_are_the_kernels() {
        let cases = [
            (json!({"readonly": true}), vec![]),
            (json!({"uid": 0, "umask": "027"}), vec![("uid", "0"), ("umask", "027")]),
            (json!({"shortname": "mixed", "gid": 5}), vec![("gid", "5"), ("shortname", "mixed")]),
        ];
        for (value, expected) in cases {
            let options: Options = serde_json::from_value(value).expect("valid");
            let expected: Vec<_> =
                expected.into_iter().map(|(name, value)| MountOption::value(name, value)).collect();
            assert_eq!(options.for_kernel(), expected);
        }
    }

    /// Where the kernel has FAT there is nothing to see.
    #[test]
    fn root_a_kernel_without_fat_is_told_apart_from_a_damaged_file_system() {
        let disk = Disk::new::<MkfsFat>(16, &json!({"volid": "7B7795E7"}));
        if let Err(error) = disk.mount(&Fat, "/", &json!({})) {
            assert_eq!(
                error.to_string(),
                "the kernel has no file system `vfat`: load its module (`modprobe vfat`) or use a kernel that was \
                 built with it"
            );
            let known = fs::read_to_string("/proc/filesystems").expect("readable");
            assert!(!known.lines().any(|line| line.trim() == "vfat"), "{known}");
        }
        disk.close();
    }

    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_files_are_shown_with_the_owner_and_the_permissions_of_the_options() {
        let disk = Disk::new::<MkfsFat>(16, &json!({"volid": "7B7795E7"}));
        for (options, expected) in [
            (Value::Null, (0, 0, 0o755)),
            (json!({"uid": 1, "gid": 5, "umask": "027"}), (1, 5, 0o750)),
            (json!({"umask": "077"}), (0, 0, 0o700)),
            (json!({"gid": 65534, "umask": "000"}), (0, 65534, 0o777)),
        ] {
            let mounted = disk.mount(&Fat, "/", &options).expect("mount");
            fs::write(disk.root.join("file"), "content").expect("write");
            let file = fs::metadata(disk.root.join("file")).expect("there");
            assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), expected, "{options}");
            mounted.unmount().expect("unmount");
            assert!(!disk.root.join("file").exists());
        }
        let mounted = disk.mount(&Fat, "/boot/efi", &json!({"readonly": true})).expect("mount");
        let boot = disk.root.join("boot/efi");
        assert_eq!(mounted.path(), Some(boot.as_path()));
        assert_eq!(fs::read_to_string(boot.join("file")).expect("read"), "content");
        let error = fs::write(boot.join("other"), "").expect_err("read-only");
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        mounted.unmount().expect("unmount");
        disk.close();
    }

    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_short_names_are_shown_and_stored_as_the_options_say() {
        // How names of eight and three characters are shown that were stored in upper, lower and mixed case.
        for (kind, expected) in [
            ("lower", ["Mixed", "lower", "upper"]),
            ("win95", ["LOWER", "Mixed", "UPPER"]),
            ("winnt", ["Mixed", "UPPER", "lower"]),
            ("mixed", ["Mixed", "UPPER", "lower"]),
        ] {
            let disk = Disk::new::<MkfsFat>(16, &json!({"volid": "7B7795E7"}));
            // What is stored is what Windows NT stores: the case beside the name, where that is enough.
            let mounted = disk.mount(&Fat, "/", &json!({"shortname": "winnt"})).expect("mount");
            for name in ["UPPER", "lower", "Mixed"] {
                fs::write(disk.root.join(name), name).expect("write");
            }
            mounted.unmount().expect("unmount");
            let mounted = disk.mount(&Fat, "/", &json!({"shortname": kind})).expect("mount");
            let mut names: Vec<_> = fs::read_dir(&disk.root)
                .expect("a directory")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
                .collect();
            names.sort();
            assert_eq!(names, expected, "{kind}");
            mounted.unmount().expect("unmount");
            disk.close();
        }
    }

    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_what_the_kernel_refuses_is_named() {
        let disk = Disk::new::<MkfsFat>(16, &json!({"volid": "7B7795E7"}));
        let message = |options: Value| disk.mount(&Fat, "/", &options).err().expect("refused").to_string();
        for (options, refused) in [(json!({"uid": -2}), "uid=-2"), (json!({"gid": -7}), "gid=-7")] {
            let error = message(options);
            // An older kernel refuses all of them together.
            let (newer, older) = (
                format!("vfat refused the mount option `{refused}`: "),
                format!("cannot mount `{}` as vfat with the options `{refused}`: ", disk.node.display()),
            );
            assert!(error.starts_with(&newer) || error.starts_with(&older), "{error}");
        }
        disk.close();
        let disk = Disk::holding(json!({}), |image| fs::write(image, vec![0; 1 << 20]));
        let error = disk.mount(&Fat, "/", &json!({"umask": "022"})).err().expect("nothing in it").to_string();
        let expected =
            format!("cannot mount `{}` as vfat with the options `umask=022`: ", disk.node.display());
        assert!(error.starts_with(&expected), "{error}");
        disk.close();
    }
}
