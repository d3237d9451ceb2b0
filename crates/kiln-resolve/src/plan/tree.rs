//! The image's tree: what its packages have to find when they are configured, the packages, then the customizations in an order in which each finds what it needs.

use serde_json::{Map, Value, json};

use super::sources::Sources;
use super::{early, esp, files, kernel, layout, packages, stage, tree_of, users};
use crate::ResolveError;
use crate::apt::Record;
use crate::definition::Definition;

pub(super) fn stages(
    definition: &Definition,
    image: &[Record],
    sources: &mut Sources,
) -> Result<Vec<Value>, ResolveError> {
    let customizations = &definition.customizations;
    let disk = definition.outputs().iter().any(|output| output.is_disk());
    let starts = definition.outputs().iter().any(|output| output.starts());
    let mut stages = if starts { early::stages(definition, disk, sources) } else { Vec::new() };
    stages.push(packages::install(image, sources));
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
        stages.extend(mount_points(definition));
    }
    stages.extend(files::stages(definition, disk, sources));
    if disk {
        stages.push(stage(
            "org.osbuild.kernel-cmdline",
            json!({ "kernel_opts": kernel::command_line(definition) }),
        ));
    }
    if starts {
        // Empty, not "uninitialized": on a first boot systemd would undo which units are enabled.
        stages.push(stage("org.osbuild.machine-id", json!({ "first-boot": "no" })));
    }
    stages.extend(services(definition));
    Ok(stages)
}

/// What a disk needs in the tree: where its file systems are mounted, and the rest of GRUB, which loads it from there.
fn mount_points(definition: &Definition) -> Vec<Value> {
    let boot = definition.kiln.boot;
    let grub = !definition.kiln.kernels_on_esp();
    let mounts = layout::mounts(definition, &layout::parts(definition));
    let mounts = mounts.iter().map(|mount| mount.mountpoint.as_str()).filter(|path| *path != "/");
    let directories =
        mounts.chain(grub.then_some("/boot/grub")).chain(boot.has_uefi().then_some(esp::MOUNT_POINT));
    let paths: Vec<_> =
        directories.map(|path| json!({ "path": path, "parents": true, "exist_ok": true })).collect();
    let mut stages = vec![stage("org.osbuild.mkdir", json!({ "paths": paths }))];
    let platforms = [(boot.has_bios(), "i386-pc"), (boot.has_uefi(), esp::PLATFORM)];
    let paths: Vec<_> = platforms
        .iter()
        .filter(|(wanted, _)| *wanted && grub)
        .map(|(_, platform)| {
            json!({ "from": format!("input://build/usr/lib/grub/{platform}"), "to": "tree:///boot/grub/" })
        })
        .collect();
    if !paths.is_empty() {
        stages.push(json!({
            "type": "org.osbuild.copy",
            "inputs": { "build": tree_of("build") },
            "options": { "paths": paths },
        }));
    }
    stages
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
