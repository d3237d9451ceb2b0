//! `org.osbuild.container-deploy`

mod mounted;

use std::fs;
use std::io;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::location::normalise;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use self::mounted::{Image, MountedImage, Tools};
use crate::support::root::Root;

/// Copies what is in a container image to the tree.
///
/// The input `images` is one image. It is mounted by `podman` of the build root; an image that is not in a storage of
/// containers is copied into one first, by `skopeo`, which is taken away with the build root.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Paths in the tree that are removed again, with all that is below them.
    #[schemars(length(min = 1))]
    exclude: Option<Vec<String>>,
    /// Without effect.
    #[serde(rename = "remove-signatures")]
    #[expect(dead_code, reason = "accepted, as by the reference, which does not use it either")]
    remove_signatures: Option<bool>,
}

pub(crate) struct ContainerDeploy;

impl Stage for ContainerDeploy {
    const NAME: &'static str = "org.osbuild.container-deploy";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let inputs = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["images"],
            "properties": {"images": {"type": "object"}},
        });
        ModuleSchema { inputs: Some(inputs), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        deploy(&options, context, &Tools::default())
    }
}

fn deploy(options: &Options, context: &StageContext, tools: &Tools) -> Result<(), ModuleError> {
    let image = Image::of_input(context)?;
    let tree = Root::open(context.tree())?;
    let mounted = MountedImage::mount(&image, tools)?;
    let copied = Run::new("cp").args(["-a", "--"]).arg(mounted.path().join(".")).arg(context.tree()).run();
    // Whatever failed first is told.
    let unmounted = mounted.unmount();
    copied?;
    unmounted?;
    options.exclude.iter().flatten().try_for_each(|path| remove(&tree, path))
}

/// Removes a file, or a directory with all that is in it, if it is there.
fn remove(tree: &Root, path: &str) -> Result<(), ModuleError> {
    let normal = normalise(Path::new(path));
    let Some(parent) = normal.parent() else {
        return Err(ModuleError::option("exclude", format!("`{path}` is the tree itself")));
    };
    if !tree.is_directory(parent) {
        return Ok(());
    }
    let path = tree.resolve_parent(&normal)?;
    let removed = match path.symlink_metadata() {
        Ok(status) if status.is_dir() => fs::remove_dir_all(&path),
        Ok(_) => fs::remove_file(&path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(ModuleError::io("remove", &path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<ContainerDeploy>()
            .accepts([json!({}), json!({"exclude": ["etc"], "remove-signatures": true})])
            .refuses([json!({"exclude": []}), json!({"exclude": [1]}), json!({"images": []})]);
        Agreement::stage::<ContainerDeploy>()
            .around(json!({"options": {}}))
            .member("inputs")
            .accepts([json!({"images": {"type": "org.osbuild.containers"}})])
            .refuses([json!({}), json!({"images": {}, "manifest-lists": {}})]);
    }

    const ID: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    /// Stand-ins for `podman` and `skopeo`, which write down how they are called: what they do to this machine's
    /// storage of containers only a build root keeps away. `cli` and shadow tests run the real ones.
    struct World {
        directory: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let world = Self { directory: tempfile::tempdir().expect("a directory") };
            for name in ["tree", "input/storage/overlay", "image/etc/sub", "image/usr"] {
                fs::create_dir_all(world.path(name)).expect("made");
            }
            fs::write(world.path("image/usr/file"), "content").expect("written");
            fs::write(world.path("image/etc/sub/file"), "content").expect("written");
            let image = world.path("image");
            let image = image.display();
            world.program("podman", &format!("case \"$*\" in *\"image mount \"*) echo {image};; esac"));
            world.program("skopeo", "test -e \"${2#*:}\"");
            world
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn program(&self, name: &str, does: &str) {
            let (path, calls) = (self.path(name), self.path("calls"));
            let script = format!("#!/bin/sh\necho {name} \"$@\" >>{}\n{does}\n", calls.display());
            fs::write(&path, script).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }

        /// The calls so far, without what names this place.
        fn calls(&self) -> Vec<String> {
            let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
            let plain = |line: &str| {
                let words = line.split(' ').map(|word| match word.split_once(":/") {
                    Some((form, path)) if path.ends_with("/image") => format!("{form}:IMAGE"),
                    _ => word.replace(self.directory.path().to_str().expect("UTF-8"), "WORLD"),
                });
                words.collect::<Vec<_>>().join(" ")
            };
            text.lines().map(plain).collect()
        }

        fn deploy(&self, key: &str, about: &Value, options: Value) -> Result<(), ModuleError> {
            let images = json!({"path": self.path("input"), "data": {"archives": {key: about}}});
            let context =
                stage_test::context(&json!({"tree": self.path("tree"), "inputs": {"images": images}}));
            let tools = Tools {
                podman: self.path("podman"),
                skopeo: self.path("skopeo"),
                storage: self.path("storage"),
                empty_storage: self.path("empty"),
            };
            deploy(&serde_json::from_value(options).expect("valid"), &context, &tools)
        }
    }

    #[test]
    fn an_image_is_copied_to_a_storage_and_mounted() {
        for (key, format) in [(ID, "dir"), ("image.tar", "oci-archive")] {
            let world = World::new();
            fs::create_dir(world.path("input").join(key)).expect("made");
            let options = json!({"exclude": ["etc/sub", "/usr/none", "none/none"]});
            world.deploy(key, &json!({"format": format, "name": "a"}), options).expect("deployed");
            assert_eq!(
                world.calls(),
                [
                    &format!("skopeo copy {format}:IMAGE containers-storage:tmp-container-mount"),
                    "podman image mount tmp-container-mount",
                    "podman image umount tmp-container-mount",
                    "podman rmi tmp-container-mount",
                ]
            );
            assert_eq!(fs::read_to_string(world.path("tree/usr/file")).expect("copied"), "content");
            assert!(world.path("tree/etc").is_dir() && !world.path("tree/etc/sub").exists());
        }
    }

    #[test]
    fn root_an_image_of_a_storage_is_mounted_where_it_is() {
        kiln_sys::chroot::private_mounts().expect("root");
        let id = ID.strip_prefix("sha256:").expect("an id");
        for (driver, options) in [
            (json!({}), "--root=WORLD/empty --imagestore=WORLD/storage"),
            (json!({"driver": "vfs"}), "--imagestore=WORLD/storage"),
        ] {
            let world = World::new();
            let about = json!({"format": "containers-storage", "name": "a", "storage": driver});
            world.deploy(ID, &about, json!({})).expect("deployed");
            assert_eq!(
                world.calls(),
                [format!("podman {options} image mount {id}"), format!("podman {options} image umount {id}")]
            );
            assert!(world.path("tree/etc/sub/file").is_file());
            let mounts = fs::read_to_string("/proc/thread-self/mounts").expect("mounts");
            assert!(!mounts.contains(world.directory.path().to_str().expect("UTF-8")), "{mounts}");
        }
    }

    #[test]
    fn what_was_begun_is_undone_when_something_fails() {
        let world = World::new();
        fs::create_dir(world.path("input").join(ID)).expect("made");
        let about = json!({"format": "dir", "name": "a"});
        world.program("podman", "case \"$*\" in \"image mount \"*) echo no room >&2; exit 125;; esac");
        let error = world.deploy(ID, &about, json!({})).expect_err("not mounted").to_string();
        assert!(error.ends_with("failed with exit status 125: no room"), "{error}");
        assert_eq!(world.calls().last().map(String::as_str), Some("podman rmi tmp-container-mount"));
        // What is mounted is nowhere.
        let world = World::new();
        fs::create_dir(world.path("input").join(ID)).expect("made");
        fs::remove_dir_all(world.path("image")).expect("removed");
        let error = world.deploy(ID, &about, json!({})).expect_err("not copied").to_string();
        assert!(error.starts_with("`cp` failed with exit status 1"), "{error}");
        let expected = ["podman image umount tmp-container-mount", "podman rmi tmp-container-mount"];
        assert_eq!(world.calls()[2..], expected);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let world = World::new();
        let cases = [
            (json!({"name": "a"}), "has no format"),
            (json!({"format": "docker-archive", "name": "a"}), "unknown format `docker-archive`"),
        ];
        for (about, expected) in cases {
            let error = world.deploy(ID, &about, json!({})).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let context = |archives: Value| {
            stage_test::context(
                &json!({"inputs": {"images": {"path": "/x", "data": {"archives": archives}}}}),
            )
        };
        let error = Image::of_input(&context(json!({"a": {}, "b": {}}))).expect_err("two").to_string();
        assert_eq!(error, "invalid option `inputs.images`: must be one image, but has 2");
        assert!(world.calls().is_empty());
    }

    #[test]
    fn removal_stays_in_the_tree() {
        let world = World::new();
        let tree = world.path("tree");
        symlink(world.path("image"), tree.join("link")).expect("linked");
        let root = Root::open(&tree).expect("a tree");
        remove(&root, "link/etc").expect("nothing there");
        remove(&root, "/../link").expect("removed");
        assert!(world.path("image/etc").is_dir() && tree.join("link").symlink_metadata().is_err());
        for path in ["/", "", ".."] {
            let error = remove(&root, path).expect_err("the tree").to_string();
            assert!(error.contains("is the tree itself"), "{error}");
        }
    }
}
