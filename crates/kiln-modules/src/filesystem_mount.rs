//! What the mounts of file systems have in common: the mount point below the stage's mount directory, and the
//! translation of errors.
//!
//! A mount point may lie in a file system that the stage before has filled, so it is looked up as if the mount directory
//! were the root: no symbolic link leads to the host.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::location::normalise;
use kiln_api::mount::{MountRequest, Mounted};
use kiln_sys::filesystem::{MountError, MountOption, MountPlan, MountedFileSystem};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;

/// What the description of a file system's mount cannot do without.
pub(crate) const REQUIRED: &[&str] = &["source", "target"];

/// Mounts the request's device as this kind of file system.
pub(crate) fn mount(
    request: &MountRequest<'_>,
    kind: &str,
    read_only: bool,
    options: &[MountOption],
) -> Result<Box<dyn Mounted>, ModuleError> {
    let source = request.source.ok_or_else(|| ModuleError::option("source", "the mount needs a device"))?;
    let target =
        request.target.ok_or_else(|| ModuleError::option("target", "the mount needs a mount point"))?;
    let failed =
        |source: io::Error| ModuleError::Io { action: "make the mount point", path: target.into(), source };
    let target = mount_point(request.root, target).map_err(failed)?;
    let plan = MountPlan { kind, source, target: &target, read_only, options };
    let mounted = MountedFileSystem::mount(&plan).map_err(mount_error)?;
    Ok(Box::new(FileSystem { mounted }))
}

fn mount_error(error: MountError) -> ModuleError {
    match error {
        MountError::Io { action, path, source } => ModuleError::Io { action, path, source },
        error => ModuleError::invalid(error.to_string()),
    }
}

struct FileSystem {
    mounted: MountedFileSystem,
}

impl Mounted for FileSystem {
    fn path(&self) -> Option<&Path> {
        Some(self.mounted.target())
    }

    fn unmount(self: Box<Self>) -> Result<(), ModuleError> {
        self.mounted.unmount().map_err(mount_error)
    }
}

/// Makes the directory of a mount below the root, and returns where it really is.
fn mount_point(root: &Path, target: &str) -> io::Result<PathBuf> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(root, flags, Mode::empty())?;
    let find = |path: &Path| openat2(&top, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let mut path = PathBuf::from(".");
    let mut directory = find(&path)?;
    for component in normalise(Path::new(target)).components() {
        let Component::Normal(name) = component else { continue };
        path.push(name);
        directory = match find(&path) {
            Err(Errno::NOENT) => {
                mkdirat(directory.as_fd(), name, Mode::from_raw_mode(0o755))?;
                find(&path)?
            }
            found => found?,
        };
    }
    real_path(&directory)
}

fn real_path(directory: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// Devices with file systems, for the tests of mounts.
#[cfg(test)]
pub(crate) mod testing {
    use std::fs::{self, File};
    use std::path::PathBuf;

    use kiln_api::ModuleError;
    use kiln_api::device::{DeviceRequest, OpenDevice};
    use kiln_api::module::Kind;
    use kiln_api::mount::{Mount, MountRequest, Mounted};
    use kiln_api::stage::Stage;
    use serde_json::{Value, json};

    use crate::MODULES;
    use crate::schema_agreement::Agreement;
    use crate::stage_test;

    /// A formatted loop device and a directory to mount it in.
    pub(crate) struct Disk {
        _directory: tempfile::TempDir,
        pub(crate) image: PathBuf,
        pub(crate) root: PathBuf,
        pub(crate) node: PathBuf,
        device: Option<Box<dyn OpenDevice>>,
    }

    impl Disk {
        pub(crate) fn new<Format: Stage>(mebibytes: u64, options: &Value) -> Self {
            // Whoever copies the host's mounts would keep the file system busy.
            kiln_sys::chroot::private_mounts().expect("root");
            let directory = tempfile::tempdir().expect("tempdir");
            let [tree, dev, root] = ["tree", "dev", "root"].map(|name| {
                let path = directory.path().join(name);
                fs::create_dir(&path).expect("create");
                path
            });
            let image = tree.join("disk.img");
            File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).expect("create");
            let loopback = MODULES.device("org.osbuild.loopback").expect("native");
            let request = DeviceRequest {
                dev: &dev,
                parent: None,
                tree: &tree,
                options: &json!({"filename": "disk.img"}),
            };
            let device = loopback.open(&request).expect("open");
            let node = dev.join(&device.reply().path);
            stage_test::run_on::<Format>(&node, options).expect("format");
            // A temporary directory may forbid device nodes; the host's own is as good.
            let host = PathBuf::from("/dev").join(&device.reply().path);
            let node = if host.exists() { host } else { node };
            Self { _directory: directory, image, root, node, device: Some(device) }
        }

        pub(crate) fn mount(
            &self,
            mount: &dyn Mount,
            target: &str,
            options: &Value,
        ) -> Result<Box<dyn Mounted>, ModuleError> {
            mount.mount(&MountRequest {
                source: Some(&self.node),
                target: Some(target),
                root: &self.root,
                tree: &self.root,
                options,
            })
        }

        pub(crate) fn close(mut self) {
            self.device.take().expect("open").close().expect("close");
            assert_eq!(stage_test::attached(&self.image), Vec::<String>::new());
        }
    }

    /// A description without device or mount point is refused, here and there.
    pub(crate) fn check_required(mount: &dyn Mount) {
        let (name, required) = (mount.name(), super::REQUIRED);
        assert_eq!(mount.schema().required_members, required);
        for missing in required {
            let mut around = json!({"name": "m", "type": name, "source": "d", "target": "/"});
            around.as_object_mut().expect("an object").shift_remove(*missing);
            let agreement = Agreement::of(Kind::Mount, name, mount.schema());
            agreement.around(around).refuses([json!({})]);
        }
    }

    /// What both ext4 and XFS can do.
    pub(crate) fn check_journalling<Format: Stage>(mount: &dyn Mount, mebibytes: u64) {
        let disk = Disk::new::<Format>(mebibytes, &json!({"uuid": stage_test::unique_uuid()}));
        let mounted = disk.mount(mount, "/", &Value::Null).expect("mount");
        assert_eq!(mounted.path(), Some(disk.root.as_path()));
        fs::write(disk.root.join("file"), "content").expect("write");
        mounted.unmount().expect("unmount");
        assert!(!disk.root.join("file").exists());
        for options in [json!({"readonly": true}), json!({"readonly": true, "norecovery": true})] {
            let mounted = disk.mount(mount, "/boot", &options).expect("mount");
            assert_eq!(fs::read_to_string(disk.root.join("boot/file")).expect("read"), "content");
            let error = fs::write(disk.root.join("boot/other"), "").expect_err("read-only");
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{options}");
            mounted.unmount().expect("unmount");
        }
        disk.close();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn mount_points_are_made_below_the_root() {
        let directory = tempfile::tempdir().expect("tempdir");
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("usr/boot")).expect("create");
        symlink("/usr/boot", root.join("boot")).expect("link");
        symlink("../../../..", root.join("up")).expect("link");
        for (target, expected) in
            [("/", ""), ("/boot/efi", "usr/boot/efi"), ("a/b", "a/b"), ("/../x", "x"), ("/up/y", "y")]
        {
            let found = mount_point(&root, target).expect(target);
            assert_eq!(found, if expected.is_empty() { root.clone() } else { root.join(expected) });
            assert!(found.is_dir());
        }
        assert!(!directory.path().join("x").exists() && !directory.path().join("y").exists());
    }

    #[test]
    fn a_mount_without_device_or_target_says_so() {
        let options = serde_json::Value::Null;
        let root = Path::new("/nonexistent");
        let request = |source, target| MountRequest { source, target, root, tree: root, options: &options };
        let message = |request| mount(&request, "ext4", false, &[]).err().expect("refused").to_string();
        assert_eq!(message(request(None, Some("/"))), "invalid option `source`: the mount needs a device");
        let without_target = request(Some(Path::new("/dev/null")), None);
        assert_eq!(message(without_target), "invalid option `target`: the mount needs a mount point");
    }
}
