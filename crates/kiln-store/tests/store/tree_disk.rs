//! Fresh file systems of every kind that trees live on.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use kiln_sys::command::Run;
use kiln_testkit::host;
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use crate::common::scratch;

/// Files behind file systems are sparse; this is the least that all kinds are content with.
const SIZE: u64 = 320 << 20;

/// The kind of file system.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Btrfs,
    Ext4,
    Overlay,
    Tmpfs,
    Xfs,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Btrfs, Self::Ext4, Self::Overlay, Self::Tmpfs, Self::Xfs];

    pub(crate) const fn shares_blocks(self) -> bool {
        matches!(self, Self::Btrfs | Self::Xfs)
    }
}

/// A mounted file system; dropping it unmounts and forgets it.
pub(crate) struct Disk {
    pub(crate) kind: Kind,
    directory: TempDir,
}

impl Disk {
    /// Makes and mounts a file system; nothing if this machine cannot, which is said then.
    pub(crate) fn new(kind: Kind) -> Option<Self> {
        if !host::is_root() {
            host::skip("mounting needs root");
            return None;
        }
        let disk = Self { kind, directory: scratch() };
        let root = disk.root();
        fs::create_dir(&root).expect("mount point");
        let image = disk.directory.path().join("image");
        let make: &[&str] = match kind {
            Kind::Btrfs => &["mkfs.btrfs", "-q"],
            // As large ones have: attributes must fit into a block.
            Kind::Ext4 => &["mkfs.ext4", "-q", "-F", "-b", "4096"],
            Kind::Xfs => &["mkfs.xfs", "-q", "-m", "reflink=1"],
            Kind::Tmpfs => {
                rustix::mount::mount("kiln-test", &root, "tmpfs", MountFlags::empty(), Some(c"mode=755"))
                    .expect("mount");
                return Some(disk);
            }
            Kind::Overlay => {
                for name in ["lower", "upper", "work"] {
                    fs::create_dir(disk.directory.path().join(name)).expect("directory");
                }
                let at = |name: &str| disk.directory.path().join(name).display().to_string();
                let data =
                    format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
                let data = std::ffi::CString::new(data).expect("no NUL");
                let flags = MountFlags::empty();
                let mounted = rustix::mount::mount("overlay", &root, "overlay", flags, Some(data.as_c_str()));
                if let Err(error) = mounted {
                    host::skip(&format!("no overlay on what temporary files are on: {error}"));
                    return None;
                }
                return Some(disk);
            }
        };
        if !host::provided("a file system of this kind", &[program(make)]) {
            return None;
        }
        File::create(&image).and_then(|file| file.set_len(SIZE)).expect("image");
        let (program, arguments) = make.split_first().expect("a program");
        Run::new(program).args(arguments).arg(&image).output().expect("mkfs");
        Run::new("mount").args(["-o", "loop"]).args([&image, &root]).output().expect("mount");
        Some(disk)
    }

    /// The file system's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Writes everything out, so that blocks have their places.
    pub(crate) fn sync(&self) {
        rustix::fs::syncfs(File::open(self.root()).expect("open")).expect("sync");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let root = self.root();
        if rustix::mount::unmount(&root, UnmountFlags::NOFOLLOW).is_err() {
            // Not mounted, or still in use because the test fails.
            let _ = rustix::mount::unmount(&root, UnmountFlags::DETACH);
        }
    }
}

fn program(make: &[&str]) -> host::Need {
    let wanted = make.first().copied().unwrap_or_default();
    let known = host::TESTS.iter().copied();
    let mut found = known.filter(|need| need.program == wanted);
    found.next().expect("a program that the tests need is in the list")
}

/// Whether a directory is on its own, with nothing mounted from elsewhere: its device number is its parent's.
pub(crate) fn device(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).expect("metadata").dev()
}
