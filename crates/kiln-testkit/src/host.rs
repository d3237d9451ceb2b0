//! What the host must have: programs, the packages that bring them, and how they get there.
//!
//! A need is a program and its Debian package. [`provide`] sees to it that all are there: as root on a system with
//! `apt-get` by installing what is missing and nothing else, otherwise by an error that says exactly what to type.
//! Tests ask [`provided`], which skips loudly on a developer's machine and never in CI.

mod apt;

use std::io;
use std::path::{Path, PathBuf};

use kiln_sys::command::CommandError;

pub use apt::Apt;

/// A program (or a file, by its absolute path) that is needed, and the package that brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The program's name, or the absolute path of a file.
    pub program: &'static str,
    /// The name of the Debian package.
    pub package: &'static str,
}

impl Need {
    const fn new(program: &'static str, package: &'static str) -> Self {
        Self { program, package }
    }
}

/// The emulator that boots images.
pub const QEMU: Need = Need::new("qemu-system-x86_64", "qemu-system-x86");
/// The server of directories that virtual machines share with the host; Debian 12 has it with the emulator.
pub const VIRTIOFSD: Need = Need::new("/usr/lib/qemu/virtiofsd", "qemu-system-common");
/// Mounts disk images.
pub const SYSTEMD_DISSECT: Need = Need::new("systemd-dissect", "systemd-container");
/// Firmware of virtual machines that boot by UEFI.
pub const OVMF: Need = Need::new("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf");
/// The converter of disk images.
pub const QEMU_IMG: Need = Need::new("qemu-img", "qemu-utils");

/// What `cargo xtask demo` needs: the tools that make the image come from the build root, not from the host.
pub const DEMO: &[Need] = &[QEMU];

/// Not needed by Kiln: what stages see of a build root is compared with what they see under bubblewrap.
pub const BWRAP: Need = Need::new("bwrap", "bubblewrap");

/// Reads graphs.
pub const DOT: Need = Need::new("dot", "graphviz");
/// A shell whose completions are checked.
pub const FISH: Need = Need::new("fish", "fish");
/// Reads manual pages.
pub const GROFF: Need = Need::new("groff", "groff-base");
/// Reads JSON in the shell.
pub const JQ: Need = Need::new("jq", "jq");
/// Modules are written in it.
pub const PYTHON: Need = Need::new("python3", "python3");
/// Sets up network devices.
pub const IP: Need = Need::new("ip", "iproute2");
/// Runs the reference's own tests: needed where `KILN_REFERENCE` names a checkout, not otherwise.
pub const PYTEST: Need = Need::new("pytest-3", "python3-pytest");
/// Reads FAT file systems.
pub const MTOOLS: Need = Need::new("mcopy", "mtools");
/// Reads and writes partition tables.
pub const SFDISK: Need = Need::new("sfdisk", "fdisk");
/// Reads pictures.
pub const XMLLINT: Need = Need::new("xmllint", "libxml2-utils");
/// Makes and reads discs.
pub const XORRISO: Need = Need::new("xorriso", "xorriso");
/// A shell whose completions are checked.
pub const ZSH: Need = Need::new("zsh", "zsh");

/// The EFI program that kernels are put into.
pub const EFI_STUB: Need = Need::new("/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "systemd-boot-efi");

/// GRUB's modules for BIOS.
pub const GRUB_PC: Need = Need::new("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin");
const GRUB_EFI: Need = Need::new("/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi", "grub-efi-amd64-bin");
const GRUB_SIGNED: Need =
    Need::new("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "grub-efi-amd64-signed");
const SHIM: Need = Need::new("/usr/lib/shim/shimx64.efi", "shim-unsigned");
const OBJCOPY: Need = Need::new("objcopy", "binutils");
const OBJDUMP: Need = Need::new("objdump", "binutils");

/// PE images, by their absolute paths, and what reads and writes them besides Kiln.
pub const PE_IMAGES: [Need; 6] = [EFI_STUB, GRUB_EFI, GRUB_SIGNED, SHIM, OBJCOPY, OBJDUMP];

/// Binds encrypted devices to policies.
pub const CLEVIS_LUKS: Need = Need::new("clevis-luks-bind", "clevis-luks");
/// Formats encrypted devices.
pub const CRYPTSETUP: Need = Need::new("cryptsetup", "cryptsetup-bin");
/// Makes volume groups.
pub const LVM: Need = Need::new("lvm", "lvm2");
/// Hashes devices.
pub const VERITYSETUP: Need = Need::new("veritysetup", "cryptsetup-bin");

/// What the tests of the workspace need, by program.
pub const TESTS: &[Need] = &[
    Need::new("/usr/lib/ISOLINUX/isolinux.bin", "isolinux"),
    GRUB_PC,
    GRUB_SIGNED,
    GRUB_EFI,
    VIRTIOFSD,
    SHIM,
    EFI_STUB,
    Need::new("/usr/lib/systemd/boot/efi/systemd-bootx64.efi", "systemd-boot-efi"),
    OVMF,
    Need::new("/usr/share/grub/unicode.pf2", "grub-common"),
    Need::new("/usr/share/zoneinfo/Europe/Berlin", "tzdata"),
    Need::new("blkid", "util-linux"),
    Need::new("bootctl", "systemd-boot"),
    BWRAP,
    Need::new("bzip2", "bzip2"),
    Need::new("checkisomd5", "isomd5sum"),
    CLEVIS_LUKS,
    Need::new("cpio", "cpio"),
    CRYPTSETUP,
    Need::new("dmsetup", "dmsetup"),
    crate::registry::REGISTRY,
    DOT,
    Need::new("dpkg-deb", "dpkg"),
    FISH,
    Need::new("fuse-overlayfs", "fuse-overlayfs"),
    Need::new("gpg", "gpg"),
    Need::new("gpg-agent", "gpg-agent"),
    GROFF,
    Need::new("grub-mkimage", "grub-common"),
    Need::new("gzip", "gzip"),
    JQ,
    Need::new("losetup", "mount"),
    LVM,
    MTOOLS,
    Need::new("mkfs.btrfs", "btrfs-progs"),
    Need::new("mkfs.erofs", "erofs-utils"),
    Need::new("mkfs.ext4", "e2fsprogs"),
    Need::new("mkfs.fat", "dosfstools"),
    Need::new("mkfs.xfs", "xfsprogs"),
    Need::new("mkhomedir_helper", "libpam-modules-bin"),
    Need::new("mksquashfs", "squashfs-tools"),
    Need::new("mkswap", "util-linux"),
    OBJCOPY,
    OBJDUMP,
    Need::new("ostree", "ostree"),
    Need::new("parted", "parted"),
    PYTHON,
    QEMU_IMG,
    QEMU,
    Need::new("setfattr", "attr"),
    SFDISK,
    Need::new("sgdisk", "gdisk"),
    crate::registry::SKOPEO,
    SYSTEMD_DISSECT,
    Need::new("systemd-firstboot", "systemd"),
    Need::new("systemd-repart", "systemd"),
    Need::new("tar", "tar"),
    Need::new("umoci", "umoci"),
    Need::new("useradd", "passwd"),
    VERITYSETUP,
    XMLLINT,
    XORRISO,
    Need::new("xz", "xz-utils"),
    Need::new("zip", "zip"),
    ZSH,
    Need::new("zstd", "zstd"),
];

/// What `cargo xtask bench` needs besides: the programs Kiln is compared with.
pub const BENCH: &[Need] = &[
    BWRAP,
    Need::new("curl", "curl"),
    Need::new("dpkg-scanpackages", "dpkg-dev"),
    Need::new("gunzip", "gzip"),
    Need::new("mkfs.ext4", "e2fsprogs"),
    Need::new("mmdebstrap", "mmdebstrap"),
    Need::new("nginx", "nginx-light"),
    Need::new("openssl", "openssl"),
    PYTHON,
    QEMU_IMG,
    SFDISK,
];

/// Why the host cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Something is missing, and this user or system cannot install it.
    #[error("missing: {}; install with (as root): `{command}`", programs.join(", "))]
    Missing {
        /// The programs.
        programs: Vec<String>,
        /// What to type.
        command: String,
    },
    /// The package manager failed.
    #[error("cannot install {}; try by hand: `{command}`", packages.join(", "))]
    Install {
        /// The packages.
        packages: Vec<String>,
        /// What to type.
        command: String,
        /// What went wrong.
        source: CommandError,
    },
    /// A file cannot be made.
    #[error("cannot write to `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The packages were installed, and still a program is not there.
    #[error("`{program}` is missing although `{package}` is installed")]
    NotThere {
        /// The program.
        program: &'static str,
        /// The package that should have brought it.
        package: &'static str,
    },
}

/// Sees to it that all needs are met; returns the packages that were installed for that.
pub fn provide(needs: &[Need]) -> Result<Vec<String>, HostError> {
    let absent = missing(needs);
    if absent.is_empty() {
        return Ok(Vec::new());
    }
    let mut packages: Vec<String> = absent.iter().map(|need| need.package.to_owned()).collect();
    packages.sort();
    packages.dedup();
    if !is_root() || find("apt-get").is_none() {
        let programs = absent.iter().map(|need| format!("`{}`", need.program)).collect();
        return Err(HostError::Missing { programs, command: apt::command(&packages) });
    }
    Apt::of_host().install(&packages)?;
    match missing(needs).first() {
        None => Ok(packages),
        Some(&Need { program, package }) => Err(HostError::NotThere { program, package }),
    }
}

/// Tells a test whether its needs are met.
///
/// If not, the test is to return: this has said that it is skipped and why. In CI (`CI` is set and not empty)
/// nothing may be skipped, and this panics.
pub fn provided(what: &str, needs: &[Need]) -> bool {
    let absent: Vec<_> = missing(needs).iter().map(|need| need.program).collect();
    if absent.is_empty() {
        return true;
    }
    skip(&format!("{what} needs {}", absent.join(", ")));
    false
}

/// The path of a program that something is tested with; without it that is said, and is a failure in CI.
pub fn provided_program(what: &str, need: Need) -> Option<PathBuf> {
    provided(what, &[need]).then(|| find(need.program)).flatten()
}

/// The checkout of the reference that `KILN_REFERENCE` names. Without one the test says that it did less: CI has none.
pub fn reference(what: &str) -> Option<PathBuf> {
    let checkout = std::env::var_os("KILN_REFERENCE").filter(|value| !value.is_empty()).map(PathBuf::from);
    if checkout.is_none() {
        #[expect(clippy::print_stderr, reason = "the test runner shows it beside the test")]
        {
            eprintln!("SKIPPED: KILN_REFERENCE is not set: {what} is not compared with the reference");
        }
    }
    checkout
}

/// Says that a test is skipped, and why; panics in CI, where nothing may be skipped.
pub fn skip(reason: &str) {
    let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!ci, "a test would be skipped in CI: {reason}");
    #[expect(clippy::print_stderr, reason = "the test runner shows it beside the test")]
    {
        eprintln!("SKIPPED: {reason}");
    }
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where a program is: on the search path, or where system programs are on any path.
pub fn find(program: &str) -> Option<PathBuf> {
    let file = Path::new(program);
    if file.is_absolute() {
        return file.exists().then(|| file.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn missing(needs: &[Need]) -> Vec<Need> {
    needs.iter().filter(|need| find(need.program).is_none()).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_sorted_and_each_is_listed_once() {
        for needs in [DEMO, TESTS, BENCH] {
            assert!(needs.is_sorted_by(|a, b| a.program < b.program || a.package < b.package), "{needs:?}");
        }
    }

    #[test]
    fn what_is_there_is_not_installed() {
        assert_eq!(provide(&[Need::new("sh", "kiln-no-such-package")]).expect("sh is there"), [""; 0]);
    }
}
