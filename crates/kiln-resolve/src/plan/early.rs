//! What is in the tree before its packages: they heed it when they are configured, and keep it.
//!
//! | file | who heeds it |
//! |---|---|
//! | `/etc/fstab` | the initial RAM disk has what checks `/usr`, if that has a file system of its own |
//! | `/etc/kernel-img.conf` | links to the newest kernel are where the boot loader reads them, now and after updates |
//! | `/etc/crypttab`, the key, `/etc/cryptsetup-initramfs/conf-hook` | the initial RAM disk opens the encrypted partition |
//! | `/etc/initramfs-tools/conf.d/key` | only root reads an initial RAM disk with a key |
//! | `/etc/initramfs-tools/conf.d/resume` | the initial RAM disk does not wait for the swap space of the machine that made it |
//!
//! So that disk is made once, and made the same way when the running system updates its kernel.

use serde_json::{Value, json};

use super::files::{self, File};
use super::sources::Sources;
use super::{esp, ids, layout, stage};
use crate::definition::{Definition, FileSystem};

/// Where the keys of encrypted devices are.
const KEYS: &str = "/etc/cryptsetup-keys.d";

/// The stages that fill the empty tree of a system that starts, from a disk or not.
pub(super) fn stages(definition: &Definition, disk: bool, sources: &mut Sources) -> Vec<Value> {
    let key = format!("{KEYS}/{}.key", layout::LUKS);
    // Else initramfs-tools looks for swap space in /proc/swaps, which is the building machine's.
    let resume =
        "# For hibernation, write the UUID of this machine's swap space here.\nRESUME=none\n".to_owned();
    let mut texts: Vec<(&str, u32, String)> = vec![("/etc/initramfs-tools/conf.d/resume", 0o644, resume)];
    if disk && layout::grub(definition).is_some_and(|grub| grub.own) {
        texts.push((
            "/etc/kernel-img.conf",
            0o644,
            "# The boot loader reads no other file system.\nlink_in_boot = yes\n".to_owned(),
        ));
    }
    if let Some(encryption) = &definition.kiln.encryption {
        let (name, uuid) = (layout::LUKS, layout::luks_uuid(definition));
        let from = if encryption.key_file { key.as_str() } else { "none" };
        // Without the option it would only be there if this machine had it for its root.
        let table = format!("{name} UUID={uuid} {from} luks,initramfs\n");
        texts.push(("/etc/crypttab", 0o644, table));
        if encryption.key_file {
            texts.push((&key, 0o400, encryption.passphrase.clone()));
            let pattern = format!("KEYFILE_PATTERN=\"{KEYS}/*.key\"\n");
            texts.push(("/etc/cryptsetup-initramfs/conf-hook", 0o644, pattern));
            texts.push(("/etc/initramfs-tools/conf.d/key", 0o644, "UMASK=0077\n".to_owned()));
        }
    }
    let files: Vec<File<'_>> = texts
        .into_iter()
        .map(|(path, mode, data)| File { path, mode, user: None, group: None, data })
        .collect();
    let mut directories = vec!["/etc"];
    directories.extend(files.iter().filter_map(|file| Some(file.path.rsplit_once('/')?.0)));
    directories.dedup();
    let directories: Vec<Value> = directories
        .into_iter()
        .map(|path| {
            let mode = if path == KEYS { 0o700 } else { 0o755 };
            json!({ "path": path, "mode": mode, "parents": true, "exist_ok": true })
        })
        .collect();
    let mut stages = vec![stage("org.osbuild.mkdir", json!({ "paths": directories }))];
    stages.push(files::copy(&files, sources));
    let modes =
        files.iter().map(|file| (file.path.to_owned(), json!({ "mode": format!("{:04o}", file.mode) })));
    let modes: serde_json::Map<_, _> = modes.collect();
    stages.push(stage("org.osbuild.chmod", json!({ "items": modes })));
    stages.extend(disk.then(|| table(definition)));
    stages
}

/// The stage that writes `/etc/fstab`.
fn table(definition: &Definition) -> Value {
    let parts = layout::parts(definition);
    let mut lines: Vec<Value> = layout::mounts(definition, &parts)
        .iter()
        .map(|mount| {
            let options = match &mount.subvolume {
                Some(name) => format!("defaults,subvol={name}"),
                None => "defaults".to_owned(),
            };
            // The checkers of the other two are no-ops by design; the root file system comes first.
            let pass = match (mount.kind, mount.mountpoint.as_str()) {
                (FileSystem::Ext4, "/") => 1,
                (FileSystem::Ext4, _) => 2,
                _ => 0,
            };
            json!({
                "uuid": mount.uuid, "path": mount.mountpoint, "vfs_type": mount.kind.name(), "options": options,
                "passno": pass,
            })
        })
        .collect();
    if definition.kiln.boot.has_uefi() {
        lines.push(json!({
            "uuid": ids::esp(definition), "path": esp::MOUNT_POINT, "vfs_type": "vfat", "options": "umask=0077",
        }));
    }
    lines.extend(
        layout::swaps(definition, &parts).iter().map(
            |swap| json!({ "uuid": swap.uuid, "path": "none", "vfs_type": "swap", "options": "defaults" }),
        ),
    );
    stage("org.osbuild.fstab", json!({ "filesystems": lines }))
}
