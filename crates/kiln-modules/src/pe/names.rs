//! The numbers of the format that have names: machines, subsystems, flags, data directories, sections of unified
//! kernel images. The names are those of the PE format's specification, shortened to words.

/// Bits and what they are called.
type Bits = [(u32, &'static str)];

const MACHINES: [(u16, &str); 11] = [
    (0x014c, "i386"),
    (0x01c0, "arm"),
    (0x01c2, "thumb"),
    (0x01c4, "arm-nt"),
    (0x0200, "ia64"),
    (0x0ebc, "efi-byte-code"),
    (0x5032, "riscv32"),
    (0x5064, "riscv64"),
    (0x6264, "loongarch64"),
    (0x8664, "x86-64"),
    (0xaa64, "aarch64"),
];

const SUBSYSTEMS: [(u16, &str); 9] = [
    (1, "native"),
    (2, "Windows graphical"),
    (3, "Windows console"),
    (7, "POSIX console"),
    (9, "Windows CE"),
    (10, "EFI application"),
    (11, "EFI boot service driver"),
    (12, "EFI runtime driver"),
    (13, "EFI ROM"),
];

pub(super) const CHARACTERISTICS: &Bits = &[
    (0x0001, "relocations-stripped"),
    (0x0002, "executable"),
    (0x0004, "line-numbers-stripped"),
    (0x0008, "local-symbols-stripped"),
    (0x0010, "aggressive-trim"),
    (0x0020, "large-address-aware"),
    (0x0080, "bytes-reversed-low"),
    (0x0100, "32-bit"),
    (0x0200, "debug-stripped"),
    (0x0400, "removable-run-from-swap"),
    (0x0800, "net-run-from-swap"),
    (0x1000, "system"),
    (0x2000, "dll"),
    (0x4000, "single-processor"),
    (0x8000, "bytes-reversed-high"),
];

pub(super) const DLL_CHARACTERISTICS: &Bits = &[
    (0x0020, "high-entropy-addresses"),
    (0x0040, "dynamic-base"),
    (0x0080, "force-integrity"),
    (0x0100, "nx-compatible"),
    (0x0200, "no-isolation"),
    (0x0400, "no-exception-handlers"),
    (0x0800, "no-bind"),
    (0x1000, "app-container"),
    (0x2000, "wdm-driver"),
    (0x4000, "guard-control-flow"),
    (0x8000, "terminal-server-aware"),
];

pub(super) const SECTION_FLAGS: &Bits = &[
    (0x0000_0008, "no-padding"),
    (0x0000_0020, "code"),
    (0x0000_0040, "data"),
    (0x0000_0080, "zeros"),
    (0x0000_0200, "info"),
    (0x0000_0800, "remove"),
    (0x0000_1000, "comdat"),
    (0x0000_8000, "global-pointer"),
    (0x0100_0000, "more-relocations"),
    (0x0200_0000, "discardable"),
    (0x0400_0000, "not-cached"),
    (0x0800_0000, "not-paged"),
    (0x1000_0000, "shared"),
    (0x2000_0000, "execute"),
    (0x4000_0000, "read"),
    (0x8000_0000, "write"),
];

/// What the data directories hold, by number.
const DIRECTORIES: [&str; 15] = [
    "exports",
    "imports",
    "resources",
    "exceptions",
    "certificates",
    "base relocations",
    "debug",
    "architecture",
    "global pointer",
    "thread-local storage",
    "load configuration",
    "bound imports",
    "import addresses",
    "delayed imports",
    "runtime header",
];

/// The number of the data directory that says where signatures are.
pub(super) const CERTIFICATES: usize = 4;

/// A kind of section that systemd's stub knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UkiSection {
    /// The section's name.
    pub name: &'static str,
    /// What it holds, in a few words.
    pub holds: &'static str,
    /// Whether that is text.
    pub text: bool,
}

/// The sections of unified kernel images and of add-ons to them, by name.
pub const UKI_SECTIONS: [UkiSection; 16] = [
    UkiSection { name: ".cmdline", holds: "kernel command line", text: true },
    UkiSection { name: ".dtb", holds: "device tree", text: false },
    UkiSection { name: ".dtbauto", holds: "device tree for matching hardware", text: false },
    UkiSection { name: ".efifw", holds: "firmware for matching hardware", text: false },
    UkiSection { name: ".hwids", holds: "hardware identifiers", text: false },
    UkiSection { name: ".initrd", holds: "initial RAM disk", text: false },
    UkiSection { name: ".linux", holds: "kernel", text: false },
    UkiSection { name: ".osrel", holds: "os-release of the system", text: true },
    UkiSection { name: ".pcrpkey", holds: "public key for signed PCR values", text: true },
    UkiSection { name: ".pcrsig", holds: "signed PCR values", text: true },
    UkiSection { name: ".profile", holds: "beginning of a profile", text: true },
    UkiSection { name: ".sbat", holds: "generations for revocation", text: true },
    UkiSection { name: ".sdmagic", holds: "version of the boot loader", text: true },
    UkiSection { name: ".splash", holds: "splash screen", text: false },
    UkiSection { name: ".ucode", holds: "microcode", text: false },
    UkiSection { name: ".uname", holds: "version of the kernel", text: true },
];

pub(super) fn machine(number: u16) -> Option<&'static str> {
    MACHINES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

pub(super) fn subsystem(number: u16) -> Option<&'static str> {
    SUBSYSTEMS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

pub(super) fn directory(index: usize) -> Option<&'static str> {
    DIRECTORIES.get(index).copied()
}

/// The names of the bits that are set; those without a name are left out.
pub(super) fn bits(value: u32, names: &'static Bits) -> impl Iterator<Item = &'static str> {
    names.iter().filter(move |(bit, _)| value & bit != 0).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted() {
        assert!(MACHINES.is_sorted() && SUBSYSTEMS.is_sorted());
        assert!(UKI_SECTIONS.is_sorted_by(|a, b| a.name < b.name));
        for table in [CHARACTERISTICS, DLL_CHARACTERISTICS, SECTION_FLAGS] {
            assert!(table.is_sorted() && table.iter().all(|(bit, _)| bit.is_power_of_two()), "{table:?}");
        }
    }
}
