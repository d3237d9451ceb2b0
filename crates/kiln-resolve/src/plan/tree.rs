//! The image's tree: its packages, then the customizations in an order in which each finds what it needs.

use serde_json::{Map, Value, json};

use super::sources::Sources;
use super::{esp, files, ids, kernel, packages, stage, tree_of, users};
use crate::ResolveError;
use crate::apt::Record;
use crate::definition::{Definition, FileSystem};

pub(super) fn stages(
    definition: &Definition,
    image: &[Record],
    sources: &mut Sources,
) -> Result<Vec<Value>, ResolveError> {
    let customizations = &definition.customizations;
    let disk = definition.outputs().iter().any(|output| output.is_disk());
    let mut stages = vec![packages::install(image, sources)];
    if let Some(hostname) = &customizations.hostname {
        stages.push(stage("org.osbuild.hostname", json!({ "hostname": hostname })));
    }
    if let Some(language) = &customizations.language {
        stages.push(stage("org.osbuild.locale", json!({ "language": language.value })));
    }
    if let Some(zone) = &customizations.timezone {
        stages.push(stage("org.osbuild.timezone", json!({ "zone": zone })));
    }
    stages.extend(users::stages(definition)?);
    if disk {
        // The boot loader loads the rest of itself from the image.
        let boot = definition.kiln.boot;
        let mut directories = vec!["/boot/grub"];
        directories.extend(boot.has_uefi().then_some(esp::MOUNT_POINT));
        let directories = directories.into_iter();
        let paths: Vec<_> =
            directories.map(|path| json!({ "path": path, "parents": true, "exist_ok": true })).collect();
        stages.push(stage("org.osbuild.mkdir", json!({ "paths": paths })));
        let platforms = [(boot.has_bios(), "i386-pc"), (boot.has_uefi(), esp::PLATFORM)];
        let paths: Vec<_> = platforms
            .iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, platform)| {
                json!({ "from": format!("input://build/usr/lib/grub/{platform}"), "to": "tree:///boot/grub/" })
            })
            .collect();
        stages.push(json!({
            "type": "org.osbuild.copy",
            "inputs": { "build": tree_of("build") },
            "options": { "paths": paths },
        }));
    }
    stages.extend(files::stages(definition, disk, sources));
    if disk {
        let root = ids::root(definition);
        // The checkers of the other two are no-ops by design.
        let pass = if definition.kiln.root == FileSystem::Ext4 { 1 } else { 0 };
        let kind = definition.kiln.root.name();
        let mut filesystems = vec![
            json!({ "uuid": root, "path": "/", "vfs_type": kind, "options": "defaults", "passno": pass }),
        ];
        if definition.kiln.boot.has_uefi() {
            filesystems.push(json!({
                "uuid": ids::esp(definition), "path": esp::MOUNT_POINT, "vfs_type": "vfat",
                "options": "umask=0077",
            }));
        }
        if definition.kiln.swap_size.is_some() {
            filesystems.push(json!({
                "uuid": ids::uuid(definition, "swap space"), "path": "none", "vfs_type": "swap",
                "options": "defaults",
            }));
        }
        stages.push(stage("org.osbuild.fstab", json!({ "filesystems": filesystems })));
        stages.push(stage(
            "org.osbuild.kernel-cmdline",
            json!({ "kernel_opts": kernel::command_line(definition) }),
        ));
        // Empty, not "uninitialized": on a first boot systemd would undo which units are enabled.
        stages.push(stage("org.osbuild.machine-id", json!({ "first-boot": "no" })));
    }
    stages.extend(services(definition));
    Ok(stages)
}

fn services(definition: &Definition) -> Option<Value> {
    let customizations = &definition.customizations;
    let mut options = Map::new();
    let lists = [
        ("enabled_services", &customizations.enabled),
        ("disabled_services", &customizations.disabled),
        ("masked_services", &customizations.masked),
    ];
    for (name, units) in lists {
        if !units.is_empty() {
            options.insert(name.to_owned(), json!(units));
        }
    }
    (!options.is_empty()).then(|| stage("org.osbuild.systemd", Value::Object(options)))
}
