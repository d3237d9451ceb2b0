//! An image of a container, mounted: its content as a directory.
//!
//! Images come in three forms: `dir` and `oci-archive` are copied into the build root's storage of containers; one in the
//! host's storage (`containers-storage`) is mounted from there, where only the storage's own driver can.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::stage::StageContext;
use kiln_sys::command::Run;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde_json::Value;

/// The name of the copied image, in a storage that has no others.
const NAME: &str = "tmp-container-mount";

/// The driver of a storage that tells none.
const DRIVER: &str = "overlay";

/// What works with storages of containers, and where they are.
pub(super) struct Tools {
    pub(super) podman: PathBuf,
    pub(super) skopeo: PathBuf,
    /// Where the host's storage becomes visible.
    pub(super) storage: PathBuf,
    /// Where there is nothing yet.
    pub(super) empty_storage: PathBuf,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            podman: "podman".into(),
            skopeo: "skopeo".into(),
            storage: "/run/osbuild/containers/storage".into(),
            empty_storage: "/run/osbuild/containers/storage2".into(),
        }
    }
}

/// An image as an input hands it over.
#[derive(Debug)]
pub(super) struct Image {
    path: PathBuf,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// A file or directory that `skopeo` reads, with its name of the form.
    Transport(&'static str),
    /// In the host's storage: the image's id, and whether the storage is a stack of directories.
    Storage { id: String, is_overlay: bool },
}

impl Image {
    /// The one image of the input `images`.
    pub(super) fn of_input(context: &StageContext) -> Result<Self, ModuleError> {
        let refuse = |reason: String| ModuleError::option("inputs.images", reason);
        let input = context.arguments.inputs.get("images").ok_or_else(|| refuse("is missing".to_owned()))?;
        let archives: Vec<_> =
            input.data.get("archives").and_then(Value::as_object).into_iter().flatten().collect();
        let [(key, about)] = archives.as_slice() else {
            return Err(refuse(format!("must be one image, but has {}", archives.len())));
        };
        let path = |name: &str| input.path.join(name);
        match about.get("format").and_then(Value::as_str) {
            Some("dir") => Ok(Self { path: path(key), form: Form::Transport("dir") }),
            Some("oci-archive") => Ok(Self { path: path(key), form: Form::Transport("oci-archive") }),
            Some("containers-storage") => {
                let driver = about.pointer("/storage/driver").and_then(Value::as_str).unwrap_or(DRIVER);
                let id = key.split_once(':').map_or(key.as_str(), |(_, id)| id).to_owned();
                let form = Form::Storage { id, is_overlay: driver == DRIVER };
                Ok(Self { path: path("storage"), form })
            }
            Some(other) => Err(refuse(format!("`{key}` has the unknown format `{other}`"))),
            None => Err(refuse(format!("`{key}` has no format"))),
        }
    }
}

/// A mounted image.
pub(super) struct MountedImage<'a> {
    tools: &'a Tools,
    options: Vec<OsString>,
    name: String,
    path: PathBuf,
    guards: Guards<'a>,
}

/// What is undone after the image is unmounted.
enum Guards<'a> {
    Copy(Copied<'a>),
    Storage(Storage<'a>),
}

impl<'a> MountedImage<'a> {
    pub(super) fn mount(image: &Image, tools: &'a Tools) -> Result<Self, ModuleError> {
        let (name, options, guards) = match &image.form {
            Form::Transport(form) => {
                let copied = Copied::copy(form, &image.path, tools)?;
                (NAME.to_owned(), Vec::new(), Guards::Copy(copied))
            }
            Form::Storage { id, is_overlay } => {
                let storage = Storage::show(&image.path, tools, *is_overlay)?;
                (id.clone(), storage.options(), Guards::Storage(storage))
            }
        };
        let told = Run::new(&tools.podman).args(&options).args(["image", "mount", &name]).output();
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                // Best effort: what failed first is told.
                let _ = guards.undo();
                return Err(error.into());
            }
        };
        let path = String::from_utf8_lossy(&told).trim().into();
        Ok(Self { tools, options, name, path, guards })
    }

    /// The directory with the image's content.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts the image, and takes away what was made for it.
    pub(super) fn unmount(self) -> Result<(), ModuleError> {
        let run = Run::new(&self.tools.podman).args(&self.options).args(["image", "umount", &self.name]);
        // Standard output is the stage's own: what the program has to say is not asked for.
        let unmounted = run.output();
        let undone = self.guards.undo();
        unmounted?;
        undone
    }
}

impl Guards<'_> {
    fn undo(self) -> Result<(), ModuleError> {
        match self {
            Self::Copy(copied) => copied.remove(),
            Self::Storage(storage) => storage.hide(),
        }
    }
}

/// An image in the build root's storage.
struct Copied<'a> {
    tools: &'a Tools,
}

impl<'a> Copied<'a> {
    fn copy(form: &str, image: &Path, tools: &'a Tools) -> Result<Self, ModuleError> {
        let scratch =
            tempfile::tempdir().map_err(ModuleError::io("make a directory in", std::env::temp_dir()))?;
        // A colon would end the name, and ids have one.
        let link = scratch.path().join("image");
        symlink(image, &link).map_err(ModuleError::io("create symbolic link", &link))?;
        // Where `skopeo` puts what is too large for memory.
        fs::create_dir_all("/var/tmp").map_err(ModuleError::io("create directory", "/var/tmp"))?;
        let source = format!("{form}:{}", link.display());
        Run::new(&tools.skopeo).args(["copy", &source, &format!("containers-storage:{NAME}")]).run()?;
        Ok(Self { tools })
    }

    fn remove(self) -> Result<(), ModuleError> {
        Run::new(&self.tools.podman).args(["rmi", NAME]).output()?;
        Ok(())
    }
}

/// The host's storage, where `podman` looks for it.
struct Storage<'a> {
    tools: &'a Tools,
    is_overlay: bool,
}

impl<'a> Storage<'a> {
    fn show(source: &Path, tools: &'a Tools, is_overlay: bool) -> Result<Self, ModuleError> {
        let target = &tools.storage;
        fs::create_dir_all(target).map_err(ModuleError::io("create directory", target))?;
        let failed = |errno: rustix::io::Errno| ModuleError::io("mount on", target)(errno.into());
        rustix::mount::mount_bind_recursive(source, target).map_err(failed)?;
        let storage = Self { tools, is_overlay };
        // Even to read an image, the tools write to its storage.
        let writable = rustix::mount::mount_remount(target, MountFlags::BIND, "")
            .and_then(|()| rustix::mount::mount_change(target, MountPropagationFlags::PRIVATE));
        match writable {
            Ok(()) => Ok(storage),
            Err(errno) => {
                let _ = storage.hide();
                Err(failed(errno))
            }
        }
    }

    /// The options for `podman`. Only a storage of the driver `overlay` can be there besides another one, which is
    /// empty: then the host's may be on a file system that no layers can be put upon.
    fn options(&self) -> Vec<OsString> {
        let option = |name: &str, path: &Path| {
            let mut option = OsString::from(name);
            option.push(path);
            option
        };
        let root = self.is_overlay.then(|| option("--root=", &self.tools.empty_storage));
        root.into_iter().chain([option("--imagestore=", &self.tools.storage)]).collect()
    }

    fn hide(self) -> Result<(), ModuleError> {
        let target = &self.tools.storage;
        if self.is_overlay {
            // The tools may have mounted it; if not, there is nothing to unmount.
            let _ =
                rustix::mount::unmount(target.join("overlay"), UnmountFlags::FORCE | UnmountFlags::DETACH);
        }
        rustix::mount::unmount(target, UnmountFlags::DETACH)
            .map_err(|errno| ModuleError::io("unmount", target)(errno.into()))
    }
}
