//! `org.osbuild.bind`
//!
//! Both ends are locations, `mount://NAME` and `tree://NAME`, with a name that is not a mount's: it is that of a file or
//! directory in the mount directory or the tree. Nothing means the directory itself.

use std::os::fd::OwnedFd;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use kiln_sys::bind::BindMount;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::filesystem_mount::{mount_error, mount_target, open_place};
use crate::host;

/// Shows what is mounted for the stage in its tree: what it writes there is in the file systems then.
///
/// `target` is `tree://`, the tree, or `tree://NAME`, an existing file or directory in it. What is mounted below the
/// source is shown too. Needs neither the program `mount` nor anything else of the host.
#[derive(Deserialize, JsonSchema)]
struct Options {
    /// What is shown: `mount://`, the directory of all mount points, or `mount://NAME`, a file or directory in it; or
    /// `tree://NAME`, in the tree.
    source: Value,
}

pub(crate) struct Bind;

impl Mount for Bind {
    fn name(&self) -> &'static str {
        "org.osbuild.bind"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            required_members: &["target"],
            refused_members: &["source", "partition"],
            target_pattern: Some("^tree://"),
            ..ModuleSchema::of::<Options>()
        }
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
        let target = mount_target(request)?;
        let Options { source } = host::options(request.options)?;
        let Value::String(source) = source else {
            return Err(ModuleError::option("source", "must be a text: `mount://`"));
        };
        let source = open("source", &source, request)?;
        let target = open("target", target, request)?;
        Ok(Box::new(Bound(BindMount::mount(source, target).map_err(mount_error)?)))
    }
}

/// Opens the file or directory of a location.
fn open(option: &str, location: &str, request: &MountRequest<'_>) -> Result<OwnedFd, ModuleError> {
    let (root, name) = place(option, location, request)?;
    open_place(root, name).map_err(ModuleError::io("open", root.join(name)))
}

/// The directory that a location starts from, and the name in it.
fn place<'a>(
    option: &str,
    location: &'a str,
    request: &MountRequest<'a>,
) -> Result<(&'a Path, &'a str), ModuleError> {
    let refuse = |reason: String| Err(ModuleError::option(option, reason));
    let (root, rest) = match location.split_once("://") {
        Some(("tree", rest)) => (request.tree, rest),
        Some(("mount", rest)) => (request.root, rest),
        _ => return refuse(format!("`{location}` must start with `tree://` or `mount://`")),
    };
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !path.trim_matches('/').is_empty() {
        return refuse(format!("`{location}` must end after one name: osbuild ignores what follows"));
    }
    Ok((root, name))
}

struct Bound(BindMount);

impl Mounted for Bound {
    /// None: it is in the tree, not below the root of the mounts.
    fn path(&self) -> Option<&Path> {
        None
    }

    fn unmount(self: Box<Self>) -> Result<(), ModuleError> {
        self.0.unmount().map_err(mount_error)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use kiln_api::module::Kind;
    use serde_json::json;

    use super::*;
    use crate::filesystem_mount::testing::Disk;
    use crate::mounts::ext4::Ext4;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::unique_uuid;
    use crate::stages::testing::MkfsExt4;

    fn bind(
        root: &Path,
        tree: &Path,
        source: &Value,
        target: Option<&str>,
    ) -> Result<Box<dyn Mounted>, ModuleError> {
        Bind.mount(&MountRequest { source: None, target, root, tree, options: &json!({"source": source}) })
    }

    #[test]
    fn schema() {
        let agreement = || Agreement::of(Kind::Mount, "org.osbuild.bind", Bind.schema());
        let around = json!({"name": "m", "type": "org.osbuild.bind", "target": "tree://"});
        // Whether the source makes sense is not in the reference's schema either.
        agreement()
            .around(around.clone())
            .accepts([json!({"source": "mount://"}), json!({"source": 1, "more": true})])
            .refuses([json!({}), json!({"target": "tree://"})]);
        agreement()
            .around(around)
            .member("target")
            .accepts([json!("tree://"), json!("tree://boot")])
            .refuses([json!("mount://"), json!("/"), json!("")]);
        for member in ["source", "partition"] {
            let mut around = json!({"name": "m", "type": "org.osbuild.bind", "target": "tree://"});
            around[member] = json!(if member == "source" { json!("d") } else { json!(1) });
            agreement().around(around).refuses([json!({"source": "mount://"})]);
        }
        let untargeted = json!({"name": "m", "type": "org.osbuild.bind"});
        agreement().around(untargeted).refuses([json!({"source": "mount://"})]);
    }

    #[test]
    fn root_all_that_is_mounted_is_shown_in_the_tree() {
        let [disk, inner] = [16, 16].map(|size| Disk::new::<MkfsExt4>(size, &json!({"uuid": unique_uuid()})));
        let tree = tempfile::tempdir().expect("tempdir");
        let tree = tree.path();
        fs::write(tree.join("own"), "").expect("write");
        let outer_mount = disk.mount(&Ext4, "/", &json!({})).expect("mount");
        let request = MountRequest {
            source: Some(&inner.node),
            target: Some("/boot"),
            root: &disk.root,
            tree,
            options: &json!({}),
        };
        let inner_mount = Ext4.mount(&request).expect("mount");

        let bound = bind(&disk.root, tree, &json!("mount://"), Some("tree://")).expect("bind");
        assert_eq!(bound.path(), None);
        assert!(!tree.join("own").exists());
        for file in ["file", "boot/file"] {
            fs::write(tree.join(file), file).expect("write");
        }
        bound.unmount().expect("unmount");
        assert!(tree.join("own").exists() && !tree.join("file").exists());
        for file in ["file", "boot/file"] {
            assert_eq!(fs::read_to_string(disk.root.join(file)).expect("in the file system"), file);
        }

        // One name below either; links lead nowhere else.
        fs::create_dir(tree.join("deep")).expect("create");
        symlink("/deep", tree.join("link")).expect("link");
        let bound = bind(&disk.root, tree, &json!("mount://boot/"), Some("tree://link")).expect("bind");
        assert_eq!(fs::read_to_string(tree.join("deep/file")).expect("read"), "boot/file");
        drop(bound);
        assert!(!tree.join("deep/file").exists());

        inner_mount.unmount().expect("nothing else has it");
        outer_mount.unmount().expect("nothing else has it");
        inner.close();
        disk.close();
    }

    #[test]
    fn what_is_wrong_is_said() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path();
        let cases = [
            (json!("mount://"), None, "invalid option `target`: the mount needs a mount point".to_owned()),
            (json!(1), Some("tree://"), "invalid option `source`: must be a text: `mount://`".to_owned()),
            (
                json!("/boot"),
                Some("tree://"),
                "invalid option `source`: `/boot` must start with `tree://` or `mount://`".to_owned(),
            ),
            (
                json!("mount://boot/efi"),
                Some("tree://"),
                "invalid option `source`: `mount://boot/efi` must end after one name: osbuild ignores what \
                 follows"
                    .to_owned(),
            ),
            (
                json!("mount://none"),
                Some("tree://"),
                format!(
                    "cannot open `{}`: No such file or directory (os error 2)",
                    path.join("none").display()
                ),
            ),
        ];
        for (source, target, expected) in cases {
            let error = bind(path, path, &source, target).err().expect("refused");
            assert_eq!(error.to_string(), expected);
        }
    }
}
