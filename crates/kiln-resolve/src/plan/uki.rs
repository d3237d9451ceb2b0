//! The EFI system partition with a unified kernel image, which the firmware starts itself: `/EFI/BOOT/BOOTX64.EFI`.
//!
//! There it needs no boot loader and no menu, which `systemd-boot` is for: the image has one kernel, the newest, and nothing
//! is between it and the firmware. `/EFI/Linux`, where boot loaders look for such images, stays free for what the running
//! system puts there.

use serde_json::{Value, json};

use super::{esp, kernel, stage};
use crate::ResolveError;
use crate::apt::Record;
use crate::definition::Definition;

/// What the build root needs: the stub, and `objcopy`.
pub(super) const PACKAGES: [&str; 2] = ["binutils", "systemd-boot-efi"];

/// The stages that make the partition's content.
pub(super) fn stages(definition: &Definition, image: &[Record]) -> Result<Vec<Value>, ResolveError> {
    let versions = kernel::versions(image);
    let version = versions.first().ok_or(ResolveError::NoKernel)?;
    let input = |file: &str| {
        json!({
            "type": "org.osbuild.files",
            "origin": "org.osbuild.pipeline",
            "references": { "name:tree": { "file": file } },
        })
    };
    let words = kernel::command_line(definition);
    let words: Vec<&str> = words.split_whitespace().collect();
    Ok(vec![
        stage("org.osbuild.mkdir", json!({ "paths": [{ "path": "/EFI/BOOT", "parents": true }] })),
        json!({
            "type": "org.osbuild.uki",
            "inputs": {
                "kernel": input(&kernel::file(version)),
                "initrd": input(&kernel::initramfs(version)),
                "osrel": input("usr/lib/os-release"),
            },
            "options": {
                "filename": format!("/EFI/BOOT/{}", esp::DEFAULT_PROGRAM),
                "kernel": { "opts": words },
            },
        }),
    ])
}
