//! The kernels of an image, and what they are told.
//!
//! Every boot loader has the same kernels with the same command line from here.

use std::cmp::Ordering;

use super::{ids, layout};
use crate::apt::Record;
use crate::definition::Definition;

/// The versions of the kernels among an image's packages, the newest first: as in `/boot/vmlinuz-VERSION` and
/// `/lib/modules/VERSION`.
///
/// Debian's package of a kernel has the version in its name. `linux-image-cloud-amd64` only depends on one;
/// debugging symbols, and the unsigned kernels that the signed ones are made of, have endings.
pub(super) fn versions(image: &[Record]) -> Vec<String> {
    let mut versions: Vec<String> = image
        .iter()
        .filter_map(|record| record.name.strip_prefix("linux-image-"))
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && !rest.ends_with("-dbg"))
        .map(|rest| rest.strip_suffix("-unsigned").unwrap_or(rest).to_owned())
        .collect();
    versions.sort_by(|one, other| compare(other, one));
    versions.dedup();
    versions
}

/// Compares versions, numbers in them as numbers.
fn compare(one: &str, other: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(u64, String)> {
        text.split(['.', '-', '+', '~'])
            .map(|part| (part.parse().unwrap_or_default(), part.to_owned()))
            .collect()
    };
    parts(one).cmp(&parts(other))
}

/// The path of a kernel in the tree.
pub(super) fn file(version: &str) -> String {
    format!("boot/vmlinuz-{version}")
}

/// The path of a kernel's first file system in the tree.
pub(super) fn initramfs(version: &str) -> String {
    format!("boot/initrd.img-{version}")
}

/// What menus call the system.
pub(super) fn title(definition: &Definition) -> String {
    definition.name.replace(['"', '\\', '$'], "-")
}

/// The command line: the root device, then the options.
pub(super) fn command_line(definition: &Definition) -> String {
    format!("root={} {}", root_device(definition), options(definition))
}

/// The root device as the kernel's command line has it.
pub(super) fn root_device(definition: &Definition) -> String {
    match layout::root_volume(definition) {
        // By this name the initial RAM disk knows which volume group it has to activate.
        Some((group, volume)) => {
            format!("/dev/mapper/{}-{}", group.replace('-', "--"), volume.replace('-', "--"))
        }
        None => format!("UUID={}", ids::root(definition)),
    }
}

/// The command line without the root device.
pub(super) fn options(definition: &Definition) -> String {
    let subvolume = layout::root_subvolume(definition).map(|name| format!("rootflags=subvol={name} "));
    let subvolume = subvolume.unwrap_or_default();
    format!("{subvolume}ro {}", own_options(definition))
}

/// The part of the command line that is the same whatever the root is.
pub(super) fn own_options(definition: &Definition) -> String {
    let own = definition.customizations.kernel_append.as_deref().unwrap_or_default().trim();
    // The last console is the one that the init system talks to.
    let options = format!("console=tty0 console=ttyS0,115200n8 {own}");
    options.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn kernels_are_known_by_their_packages() {
        let record = |name: &str| Record {
            name: name.to_owned(),
            version: "1".to_owned(),
            url: String::new(),
            sha256: String::new(),
            size: 0,
            installed: 0,
            release: PathBuf::new(),
        };
        let names = [
            "linux-base",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-30-cloud-amd64-unsigned",
            "linux-image-6.1.0-30-cloud-amd64-dbg",
            "linux-image-6.12.5-amd64",
            "linux-image-amd64",
            "linux-image-cloud-amd64",
        ];
        let expected = ["6.12.5-amd64", "6.1.0-30-cloud-amd64", "6.1.0-9-cloud-amd64"];
        assert_eq!(versions(&names.map(record)), expected);
    }
}
