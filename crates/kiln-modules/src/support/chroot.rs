//! Running a program of the tree in the tree, with `/proc`, `/dev` and `/sys` as programs expect them.

use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::stage::StageContext;
use kiln_sys::command::Run;
use rustix::mount::{MountFlags, UnmountFlags};

use super::root::Root;

/// A tree in which the kernel's file systems are mounted; dropping it unmounts them.
pub(crate) struct Chroot {
    tree: PathBuf,
    mounted: Vec<PathBuf>,
}

impl Chroot {
    /// Mounts the file systems. Missing mount points are made, and stay.
    pub(crate) fn enter(context: &mut StageContext) -> Result<Self, ModuleError> {
        let tree = context.tree().to_owned();
        let root = Root::open(&tree)?;
        let mut chroot = Self { tree, mounted: Vec::new() };
        for name in ["/proc", "/dev", "/sys"] {
            if !root.exists(name) {
                context.say(format_args!("Making missing chroot directory: {name}"));
                root.make_directories(name)?;
            }
            let target = root.resolve(name)?;
            mount(name, &target).map_err(|errno| ModuleError::io("mount on", &target)(errno.into()))?;
            chroot.mounted.push(target);
        }
        Ok(chroot)
    }

    /// Begins a command that runs a program of the tree.
    pub(crate) fn command(&self, program: &str) -> Run {
        Run::new("chroot").arg(&self.tree).arg(program)
    }
}

impl Drop for Chroot {
    fn drop(&mut self) {
        for target in self.mounted.iter().rev() {
            // Lazily, as something may still run in the tree; the sandbox ends soon, and its mounts with it.
            let _ = rustix::mount::unmount(target, UnmountFlags::DETACH);
        }
    }
}

fn mount(name: &str, target: &Path) -> rustix::io::Result<()> {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    match name {
        "/proc" => rustix::mount::mount("proc", target, "proc", quiet | MountFlags::NODEV, None),
        "/sys" => rustix::mount::mount("sysfs", target, "sysfs", quiet | MountFlags::NODEV, None),
        _ => {
            let flags = quiet | MountFlags::STRICTATIME;
            rustix::mount::mount("devtmpfs", target, "devtmpfs", flags, Some(c"mode=0755"))
                // Not allowed in a user namespace; the build root's own devices do then.
                .or_else(|_| rustix::mount::mount_bind("/dev", target))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn root_what_is_mounted_is_unmounted() {
        let directory = tempfile::tempdir().expect("a directory");
        let arguments = json!({
            "tree": directory.path(),
            "paths": {"devices": "/dev", "inputs": "/", "mounts": "/"},
            "meta": {"id": "0"},
        });
        let arguments = serde_json::from_value(arguments).expect("valid arguments");
        let mut context = StageContext::new(arguments, PathBuf::new(), Box::new(std::io::sink()));
        let chroot = Chroot::enter(&mut context).expect("root");
        assert!(directory.path().join("proc/self").exists());
        assert!(directory.path().join("dev/null").exists());
        assert!(directory.path().join("sys/kernel").exists());
        drop(chroot);
        for name in ["proc", "dev", "sys"] {
            let entries = std::fs::read_dir(directory.path().join(name)).expect("it stays").count();
            assert_eq!(entries, 0, "{name}");
        }
    }
}
