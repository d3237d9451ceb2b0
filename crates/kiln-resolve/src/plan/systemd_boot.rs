//! The EFI system partition with systemd-boot, as `bootctl` and `kernel-install` make it.
//!
//! ```text
//! /EFI/BOOT/BOOTX64.EFI              systemd-boot, where firmware looks on a disk that it does not know
//! /EFI/systemd/systemd-bootx64.efi   the same, where `bootctl` keeps it up to date
//! /loader/loader.conf
//! /loader/entries.srel               says to kernel-install which layout this is
//! /loader/entries/TOKEN-VERSION.conf one for each kernel
//! /TOKEN/VERSION/linux               the kernel
//! /TOKEN/VERSION/initrd.img-VERSION  its first file system
//! ```
//!
//! So the image's own tools go on from there when kernels come and go: the package `systemd-boot` has hooks for that,
//! which find the partition mounted, the token in `/etc/kernel/entry-token` and the command line in
//! `/etc/kernel/cmdline`. The programs come from the image's packages, so that they are what these tools expect.

use serde_json::{Value, json};

use super::sources::Sources;
use super::{esp, kernel, stage, tree_of};
use crate::ResolveError;
use crate::apt::Record;
use crate::definition::{Definition, Release};

/// The package of the image: the tools; it depends on the programs for the firmware.
pub(super) const PACKAGE: &str = "systemd-boot";

/// What entries of this system are called by; the distribution's name, as with `bootctl --entry-token=os-id`.
pub(super) const TOKEN: &str = "debian";

/// Where the image has the programs.
const PROGRAMS: &str = "usr/lib/systemd/boot/efi";

/// What has signed ones, with another ending, from Debian 13 on: where they are, `bootctl`, too, takes those.
#[cfg(target_arch = "aarch64")]
const SIGNED_PACKAGE: &str = "systemd-boot-efi-arm64-signed";
#[cfg(not(target_arch = "aarch64"))]
const SIGNED_PACKAGE: &str = "systemd-boot-efi-amd64-signed";

/// The menu is shown for a second, as GRUB's is; without an entry of that name the newest of any other is taken.
const LOADER: &str = "timeout 1\nconsole-mode keep\ndefault debian-*\n";

/// The stages that make the partition's content.
pub(super) fn stages(
    definition: &Definition,
    release: &Release,
    image: &[Record],
    sources: &mut Sources,
) -> Result<Vec<Value>, ResolveError> {
    let versions = kernel::versions(image);
    if versions.is_empty() {
        return Err(ResolveError::NoKernel);
    }
    let mut directories = ["/EFI/BOOT", "/EFI/systemd", "/loader/entries"].map(str::to_owned).to_vec();
    let program = esp::SYSTEMD_BOOT;
    let ending = if image.iter().any(|record| record.name == SIGNED_PACKAGE) { ".signed" } else { "" };
    let mut tree: Vec<Value> =
        [format!("EFI/BOOT/{}", esp::DEFAULT_PROGRAM), format!("EFI/systemd/{program}")]
            .map(|target| from("tree", &format!("{PROGRAMS}/{program}{ending}"), &target))
            .to_vec();
    let mut references = Vec::new();
    let mut files = Vec::new();
    let mut file = |text: &str, target: &str| {
        let checksum = sources.text(text);
        files.push(from("files", &checksum, target));
        references.push(checksum);
    };
    file(LOADER, "loader/loader.conf");
    file("type1\n", "loader/entries.srel");
    for version in &versions {
        let directory = format!("{TOKEN}/{version}");
        directories.push(format!("/{directory}"));
        tree.push(from("tree", &kernel::file(version), &format!("{directory}/linux")));
        let initramfs = kernel::initramfs(version);
        let name = initramfs.rsplit('/').next().unwrap_or_default();
        tree.push(from("tree", &initramfs, &format!("{directory}/{name}")));
        file(&entry(definition, release, version, name), &format!("loader/entries/{TOKEN}-{version}.conf"));
    }
    references.sort_unstable();
    let directories: Vec<Value> =
        directories.iter().map(|path| json!({ "path": path, "parents": true, "exist_ok": true })).collect();
    tree.append(&mut files);
    Ok(vec![
        stage("org.osbuild.mkdir", json!({ "paths": directories })),
        json!({
            "type": "org.osbuild.copy",
            "inputs": {
                "tree": tree_of("tree"),
                "files": { "type": "org.osbuild.files", "origin": "org.osbuild.source", "references": references },
            },
            "options": { "paths": tree },
        }),
    ])
}

fn from(input: &str, source: &str, target: &str) -> Value {
    json!({ "from": format!("input://{input}/{source}"), "to": format!("tree:///{target}") })
}

/// An entry of the menu, to the byte as Debian 12's `kernel-install` writes it; others say the same in other words.
fn entry(definition: &Definition, release: &Release, version: &str, initramfs: &str) -> String {
    format!(
        "title      Debian GNU/Linux {} ({})\nversion    {version}\nsort-key   debian\noptions    {}\n\
         linux      /{TOKEN}/{version}/linux\ninitrd     /{TOKEN}/{version}/{initramfs}\n",
        release.number,
        release.codename,
        kernel::command_line(definition),
    )
}
