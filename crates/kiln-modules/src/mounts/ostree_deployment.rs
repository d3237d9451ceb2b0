//! `org.osbuild.ostree.deployment`
//!
//! ```text
//! TREE           the deployment's root directory
//! TREE/sysroot   what TREE was
//! TREE/var       what TREE/ostree/deploy/OSNAME/var was
//! TREE/boot      what TREE/boot was
//! ```
//!
//! What was mounted below TREE before is not seen: TREE is bound to itself first, without it. All four are cloned
//! before the first one is attached, so each is what the file system has there and not what is mounted over it.

use std::os::fd::OwnedFd;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use kiln_sys::bind::{BindMount, DetachedMount};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::filesystem_mount::{mount_error, open_place};
use crate::host;
use crate::support::ostree::Deployment;

/// Shows an OSTree deployment in the tree as if the system that it is were running.
///
/// The deployment's root directory takes the place of the tree's; what was there is at `/sysroot`, the state root's
/// `var` at `/var`, and `/boot` at `/boot`. Needs nothing of the host, but its `ostree` for refs that are not the name of
/// a branch in the tree's repository.
#[derive(Deserialize, JsonSchema)]
struct Options {
    /// Which tree: `tree`, that of the stage, or `mount`, what mounts before this one have at `/`. The tree of the stage
    /// if nothing is said.
    #[serde(default)]
    #[schemars(extend("pattern" = "^(mount|tree)$"))]
    source: Option<String>,
    /// Which deployment: `osname`, `ref` and `serial`, or the `default`, the only one there is.
    deployment: Deployment,
}

pub(crate) struct OstreeDeployment;

impl Mount for OstreeDeployment {
    fn name(&self) -> &'static str {
        "org.osbuild.ostree.deployment"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            refused_members: &["source", "target", "partition"],
            ..ModuleSchema::of::<Options>()
        }
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
        if request.options.is_null() {
            return Err(ModuleError::option("deployment", "which one is to be shown must be said"));
        }
        let options: Options = host::options(request.options)?;
        let tree = match options.source.as_deref() {
            Some("mount") => request.root,
            _ => request.tree,
        };
        let found = options.deployment.find(tree)?;
        let place = |path: &Path| open(tree, &path.display().to_string());
        let clone = |path: &Path| DetachedMount::alone(place(path)?).map_err(mount_error);
        let own = Path::new("");
        let bare = clone(own)?.attach(place(own)?).map_err(mount_error)?;
        let [root, sysroot, var, boot] =
            [&found.root, own, &found.state_root.join("var"), Path::new("boot")].map(clone);
        let deployment = root?.attach(place(own)?).map_err(mount_error)?;
        for (source, target) in [(sysroot, "sysroot"), (var, "var"), (boot, "boot")] {
            // Looked up in the deployment. What is mounted in it goes with it.
            std::mem::forget(source?.attach(open(tree, target)?).map_err(mount_error)?);
        }
        Ok(Box::new(Shown { deployment, bare }))
    }
}

fn open(tree: &Path, path: &str) -> Result<OwnedFd, ModuleError> {
    open_place(tree, path).map_err(ModuleError::io("open", tree.join(path)))
}

/// Dropped in this order.
struct Shown {
    deployment: BindMount,
    bare: BindMount,
}

impl Mounted for Shown {
    /// None: it is the tree, or what is mounted already.
    fn path(&self) -> Option<&Path> {
        None
    }

    fn unmount(self: Box<Self>) -> Result<(), ModuleError> {
        let Self { deployment, bare } = *self;
        deployment.unmount().and_then(|()| bare.unmount()).map_err(mount_error)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kiln_api::module::Kind;
    use serde_json::{Value, json};

    use super::*;
    use crate::filesystem_mount::testing::Disk;
    use crate::mounts::ext4::Ext4;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::unique_uuid;
    use crate::stages::testing::MkfsExt4;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn schema() {
        let deployment = |value: Value| json!({"deployment": value});
        let named = json!({"osname": "os", "ref": "a/b"});
        let name = OstreeDeployment.name();
        let agreement = |around| Agreement::of(Kind::Mount, name, OstreeDeployment.schema()).around(around);
        agreement(json!({"name": "m", "type": name}))
            .accepts([
                deployment(named.clone()),
                deployment(json!({"default": true})),
                deployment(json!({"osname": "os", "ref": "a/b", "serial": 1, "default": false})),
                json!({"deployment": named, "source": "mount"}),
                json!({"deployment": named, "source": "tree", "more": 1}),
            ])
            .refuses([
                json!({}),
                deployment(json!({"osname": "os"})),
                deployment(json!({"default": true, "serial": 0})),
                deployment(json!({"osname": "os", "ref": "a", "more": 1})),
                json!({"deployment": named, "source": "device"}),
            ]);
        for member in ["source", "target"] {
            let mut around = json!({"name": "m", "type": name});
            around[member] = json!("x");
            agreement(around).refuses([deployment(json!({"default": true}))]);
        }
    }

    /// A tree with a deployment, as far as it is looked at.
    fn fill(tree: &Path) {
        for path in ["boot", "ostree/repo/refs/heads/os", "ostree/deploy/os/var"] {
            fs::create_dir_all(tree.join(path)).expect("directories");
        }
        let root = tree.join(format!("ostree/deploy/os/deploy/{COMMIT}.0"));
        for path in ["boot", "etc", "sysroot", "var"] {
            fs::create_dir_all(root.join(path)).expect("directories");
        }
        fs::write(tree.join("ostree/repo/refs/heads/os/stable"), COMMIT).expect("a ref");
        fs::write(tree.join("boot/kernel"), "").expect("write");
        fs::write(tree.join("ostree/deploy/os/var/log"), "").expect("write");
        fs::write(root.join("etc/hostname"), "deployed").expect("write");
    }

    fn mount(root: &Path, tree: &Path, options: &Value) -> Result<Box<dyn Mounted>, ModuleError> {
        // Of this thread only: the mounts must not reach anybody else's.
        kiln_sys::chroot::private_mounts().expect("root");
        OstreeDeployment.mount(&MountRequest { source: None, target: None, root, tree, options })
    }

    fn check(at: &Path) {
        assert_eq!(fs::read_to_string(at.join("etc/hostname")).expect("the deployment's"), "deployed");
        assert!(at.join("boot/kernel").exists() && at.join("var/log").exists());
        assert!(at.join("sysroot/ostree/repo").is_dir() && !at.join("ostree").exists());
        fs::write(at.join("var/new"), "written").expect("write");
    }

    #[test]
    fn root_the_tree_looks_like_the_running_system() {
        let directory = tempfile::tempdir().expect("tempdir");
        let tree = directory.path();
        fill(tree);
        let options = [
            json!({"deployment": {"default": true}}),
            json!({"deployment": {"osname": "os", "ref": "os/stable", "serial": 0}, "source": "tree"}),
            json!({"deployment": {"osname": "os", "ref": COMMIT}}),
        ];
        for options in options {
            let mounted = mount(Path::new("/nonexistent"), tree, &options).expect("mounted");
            assert_eq!(mounted.path(), None);
            check(tree);
            mounted.unmount().expect("unmounted");
            assert!(!tree.join("etc").exists() && tree.join("ostree/deploy/os/var/new").exists());
        }
        drop(mount(tree, tree, &json!({"deployment": {"default": true}})).expect("mounted"));
        assert!(!tree.join("etc").exists());
    }

    #[test]
    fn root_a_file_system_looks_like_the_running_system() {
        let [disk, boot] = [16, 16].map(|size| Disk::new::<MkfsExt4>(size, &json!({"uuid": unique_uuid()})));
        let outer = disk.mount(&Ext4, "/", &json!({})).expect("mount");
        fill(&disk.root);
        let request = MountRequest {
            source: Some(&boot.node),
            target: Some("/boot"),
            root: &disk.root,
            tree: &disk.root,
            options: &json!({}),
        };
        let inner = Ext4.mount(&request).expect("mount");
        assert!(!disk.root.join("boot/kernel").exists());
        let options = json!({"deployment": {"default": true}, "source": "mount"});
        let mounted = mount(&disk.root, Path::new("/nonexistent"), &options).expect("mounted");
        check(&disk.root);
        mounted.unmount().expect("unmounted");
        inner.unmount().expect("nothing else has it");
        outer.unmount().expect("nothing else has it");
        disk.close();
        boot.close();
    }

    #[test]
    fn root_what_is_missing_is_named_and_nothing_stays_mounted() {
        let directory = tempfile::tempdir().expect("tempdir");
        let tree = directory.path();
        let options = json!({"deployment": {"default": true}});
        let message = |options: &Value| mount(tree, tree, options).err().expect("refused").to_string();
        let none = format!("there is no deployment below `{}`", tree.join("ostree/deploy").display());
        assert_eq!(message(&options), none);
        fill(tree);
        for missing in ["boot", "ostree/deploy/os/var"] {
            fs::rename(tree.join(missing), tree.join("away")).expect("rename");
            let expected =
                format!("cannot open `{}`: No such file or directory", tree.join(missing).display());
            assert!(message(&options).starts_with(&expected), "{}", message(&options));
            fs::rename(tree.join("away"), tree.join(missing)).expect("rename");
        }
        fs::remove_dir(tree.join(format!("ostree/deploy/os/deploy/{COMMIT}.0/sysroot"))).expect("remove");
        let expected = format!("cannot open `{}`", tree.join("sysroot").display());
        assert!(message(&options).starts_with(&expected), "{}", message(&options));
        assert!(tree.join("ostree").is_dir(), "nothing is mounted");
        let expected = "invalid option `deployment`: which one is to be shown must be said";
        assert_eq!(message(&Value::Null), expected);
    }
}
