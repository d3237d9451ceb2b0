//! Kernels that can be booted: where they are.

use std::fs;
use std::path::{Path, PathBuf};

use super::{ESSENTIAL, GuestError, ModuleTree};

/// Where a system's modules are.
const MODULES: [&str; 2] = ["usr/lib/modules", "lib/modules"];

/// A kernel and its modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, as `6.1.0-40-cloud-amd64`.
    pub release: String,
    /// The file that is booted.
    pub image: PathBuf,
    /// The directory of its modules.
    pub modules: PathBuf,
}

impl Kernel {
    /// Finds a kernel in one of several systems, given by their root directories; a package that was unpacked is one, too. The first
    /// system that has any wins, and in it the newest kernel that can be used.
    pub fn find(systems: &[&Path]) -> Result<Self, GuestError> {
        let mut unusable = None;
        for system in systems {
            for kernel in Self::all(system) {
                match kernel.tree() {
                    Ok(_) => return Ok(kernel),
                    Err(error) => unusable = unusable.or(Some(error)),
                }
            }
        }
        let looked = || systems.iter().map(|path| path.to_path_buf()).collect();
        Err(unusable.unwrap_or_else(|| GuestError::NoKernel { looked: looked() }))
    }

    /// Its modules, if it has those that a guest needs.
    pub(super) fn tree(&self) -> Result<ModuleTree, GuestError> {
        let tree =
            ModuleTree::read(&self.modules).map_err(GuestError::io("read modules in", &self.modules))?;
        match tree.order(ESSENTIAL) {
            Ok(_) => Ok(tree),
            Err(error) => Err(GuestError::no_module(&self.release, &error)),
        }
    }

    /// All kernels of a system, the newest first.
    fn all(system: &Path) -> Vec<Self> {
        let mut kernels = Vec::new();
        for modules in MODULES.map(|modules| system.join(modules)) {
            let entries = fs::read_dir(&modules).into_iter().flatten().filter_map(Result::ok);
            for entry in entries {
                let Ok(release) = entry.file_name().into_string() else { continue };
                let modules = entry.path();
                // Fedora has it with the modules, Debian in /boot.
                let images =
                    [modules.join("vmlinuz"), system.join("boot").join(format!("vmlinuz-{release}"))];
                if let Some(image) = images.into_iter().find(|image| image.is_file()) {
                    kernels.push(Self { release, image, modules });
                }
            }
        }
        kernels.sort_by_cached_key(|kernel| std::cmp::Reverse(parts(&kernel.release)));
        // Where `lib` leads to `usr/lib` each is found twice.
        kernels.dedup_by(|a, b| a.release == b.release);
        kernels
    }
}

/// A release as what it is sorted by: numbers by their values.
fn parts(release: &str) -> Vec<(u64, String)> {
    let mut parts: Vec<(u64, String)> = Vec::new();
    for part in release.split(|character: char| !character.is_ascii_alphanumeric()) {
        let digits = part.find(|character: char| !character.is_ascii_digit()).unwrap_or(part.len());
        let (number, rest) = part.split_at(digits);
        parts.push((number.parse().unwrap_or(0), rest.to_owned()));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(root: &Path, release: &str, image: &str, modules: &[&str]) {
        let directory = root.join("usr/lib/modules").join(release);
        fs::create_dir_all(&directory).expect("created");
        let text: String = modules.iter().map(|name| format!("kernel/{name}.ko:\n")).collect();
        fs::write(directory.join("modules.dep"), text).expect("written");
        let image = root.join(image);
        fs::create_dir_all(image.parent().expect("a directory")).expect("created");
        fs::write(image, "").expect("written");
    }

    #[test]
    fn the_newest_kernel_that_can_be_used_is_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let (empty, system) = (directory.path().join("empty"), directory.path().join("system"));
        let found = || Kernel::find(&[&empty, &system]);
        let error = found().expect_err("nothing is there");
        assert_eq!(
            error.to_string(),
            format!(
                "there is no kernel for a virtual machine below `{}`, `{}`",
                empty.display(),
                system.display()
            )
        );
        install(&system, "6.12.1", "boot/vmlinuz-6.12.1", &["virtiofs"]);
        let error = found().expect_err("modules are missing").to_string();
        assert_eq!(error, "the kernel 6.12.1 cannot be used: it has no module `virtio_pci`");
        for (release, image) in [
            ("6.1.0-9-cloud", "boot/vmlinuz-6.1.0-9-cloud"),
            ("6.1.0-10-cloud", "usr/lib/modules/6.1.0-10-cloud/vmlinuz"),
            ("6.1.0-8-cloud", "boot/vmlinuz-6.1.0-8-cloud"),
        ] {
            install(&system, release, image, ESSENTIAL);
        }
        fs::create_dir_all(system.join("usr/lib/modules/6.13.0")).expect("modules without a kernel");
        std::os::unix::fs::symlink("usr/lib", system.join("lib")).expect("a link");
        let kernel = found().expect("a kernel");
        assert_eq!(kernel.release, "6.1.0-10-cloud");
        assert_eq!(kernel.image, system.join("usr/lib/modules/6.1.0-10-cloud/vmlinuz"));
    }
}
