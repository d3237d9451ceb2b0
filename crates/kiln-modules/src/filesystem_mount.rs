//! What mounts have in common: the mount point below the stage's mount directory, and the translation of errors.
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
    let target = make_mount_point(request)?;
    let plan = MountPlan { kind, source, target: &target, read_only, options };
    let mounted = match MountedFileSystem::mount(&plan) {
        // The program `mount` does so too, and manifests have devices that are read-only and mounts that do not say so.
        Err(error) if !read_only && error.is_write_protected() => {
            MountedFileSystem::mount(&MountPlan { read_only: true, ..plan })
        }
        result => result,
    };
    Ok(Box::new(FileSystem { mounted: mounted.map_err(mount_error)? }))
}

/// Makes the directory that the request's mount is at, and returns where it really is.
pub(crate) fn make_mount_point(request: &MountRequest<'_>) -> Result<PathBuf, ModuleError> {
    let target = mount_target(request)?;
    mount_point(request.root, target).map_err(ModuleError::io("make the mount point", target))
}

/// The manifest's `target`.
pub(crate) fn mount_target<'a>(request: &MountRequest<'a>) -> Result<&'a str, ModuleError> {
    request.target.ok_or_else(|| ModuleError::option("target", "the mount needs a mount point"))
}

/// Opens what is at a path below a directory, as a place to mount from or at.
pub(crate) fn open_place(root: &Path, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let path = Path::new(".").join(normalise(Path::new(path)));
    Ok(openat2(&top, &path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?)
}

/// An error of the system as a module's.
pub(crate) fn mount_error(error: MountError) -> ModuleError {
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
    use std::io;
    use std::path::{Path, PathBuf};

    use kiln_api::ModuleError;
    use kiln_api::device::{DeviceRequest, OpenDevice};
    use kiln_api::module::Kind;
    use kiln_api::mount::{Mount, MountRequest, Mounted};
    use kiln_api::stage::Stage;
    use serde_json::{Value, json};

    use crate::MODULES;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
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
            let empty = |image: &Path| File::create(image)?.set_len(mebibytes << 20);
            let disk = Self::holding(json!({}), empty);
            stage_test::run_on::<Format>(&disk.node, options).expect("format");
            disk
        }

        /// A loop device, with these options, over the file that `make` makes.
        pub(crate) fn holding(mut options: Value, make: impl FnOnce(&Path) -> io::Result<()>) -> Self {
            // Whoever copies the host's mounts would keep the file system busy.
            kiln_sys::chroot::private_mounts().expect("root");
            let directory = tempfile::tempdir().expect("tempdir");
            let [tree, dev, root] = ["tree", "dev", "root"].map(|name| {
                let path = directory.path().join(name);
                fs::create_dir(&path).expect("create");
                path
            });
            let image = tree.join("disk.img");
            make(&image).expect("an image");
            options["filename"] = json!("disk.img");
            let loopback = MODULES.device("org.osbuild.loopback").expect("native");
            let request = DeviceRequest { dev: &dev, parent: None, tree: &tree, options: &options };
            let device = loopback.open(&request).expect("open");
            let node = dev.join(&device.reply().path);
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
        for refused in mount.schema().refused_members {
            let mut around = json!({"name": "m", "type": name, "source": "d", "target": "/"});
            around[*refused] = json!(1);
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
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{options}");
            mounted.unmount().expect("unmount");
        }
        disk.close();
    }

    /// What both erofs and squashfs can do: show what the stage of that name has packed.
    pub(crate) fn check_image<Pack: Stage>(mount: &dyn Mount) {
        let mut fixture = Fixture::new();
        fixture.input("tree", &[("file", "content"), ("etc/deep/file", &"line\n".repeat(5000))]);
        fixture.run::<Pack>(json!({"filename": "image"})).expect("packed");
        for read_only in [false, true] {
            // A device without a way to write to it is as good.
            let disk = Disk::holding(json!({"read-only": read_only}), |image| {
                fs::copy(fixture.tree().join("image"), image).map(drop)
            });
            let [first, second] =
                ["/one", "/other"].map(|target| disk.mount(mount, target, &Value::Null).expect("mount"));
            assert_eq!(first.path(), Some(disk.root.join("one").as_path()));
            second.unmount().expect("unmount");
            first.unmount().expect("unmount");
            let mounted = disk.mount(mount, "/usr/share", &json!({})).expect("mount");
            let at = disk.root.join("usr/share");
            assert_eq!(fs::read_to_string(at.join("file")).expect("read"), "content");
            assert_eq!(fs::read(at.join("etc/deep/file")).expect("read").len(), 25_000);
            let error = fs::write(at.join("other"), "").expect_err("read-only");
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
            mounted.unmount().expect("unmount");
            assert!(!at.join("file").exists());
            disk.close();
        }
        let disk = Disk::holding(json!({}), |image| fs::write(image, vec![0; 1 << 20]));
        let error = disk.mount(mount, "/", &Value::Null).err().expect("nothing in it").to_string();
        let kind = mount.name().trim_start_matches("org.osbuild.");
        let expected = format!("cannot mount `{}` as {kind} with the options `ro`: ", disk.node.display());
        assert!(error.starts_with(&expected), "{error}");
        disk.close();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;
    use crate::mounts::ext4::Ext4;
    use crate::stage_test::{self, unique_uuid};
    use crate::stages::testing::MkfsExt4;

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
    fn root_a_device_that_cannot_be_written_to_is_mounted_all_the_same() {
        let disk = testing::Disk::holding(json!({"read-only": true}), |image| {
            fs::File::create(image)?.set_len(16 << 20)?;
            stage_test::run_on::<MkfsExt4>(image, &json!({"uuid": unique_uuid()})).map_err(io::Error::other)
        });
        let mounted = disk.mount(&Ext4, "/", &json!({})).expect("mount");
        assert!(disk.root.join("lost+found").is_dir());
        let error = fs::write(disk.root.join("file"), "").expect_err("read-only");
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        mounted.unmount().expect("unmount");
        disk.close();
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
