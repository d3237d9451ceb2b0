//! The files that an image gets beside those of its packages: the definition's own, and what the boot needs.

use serde_json::{Map, Value, json};

use super::sources::Sources;
use super::{kernel, layout, stage, systemd_boot};
use crate::definition::{Bootloader, Definition, Inode, Owner};

/// The mode of a file that says nothing.
const FILE_MODE: u32 = 0o644;

pub(super) struct File<'a> {
    pub(super) path: &'a str,
    pub(super) mode: u32,
    pub(super) user: Option<&'a Owner>,
    pub(super) group: Option<&'a Owner>,
    pub(super) data: String,
}

/// The stages that make directories and files and set their modes and owners.
pub(super) fn stages(definition: &Definition, disk: bool, sources: &mut Sources) -> Vec<Value> {
    let directories = &definition.customizations.directories;
    let files = files(definition, disk);
    let mut stages = Vec::new();
    let mut paths: Vec<Value> = directories
        .iter()
        .map(|directory| {
            let path = &directory.path.value;
            json!({ "path": path, "parents": directory.ensure_parents, "exist_ok": true })
        })
        .collect();
    let mut parents: Vec<&str> = files
        .iter()
        .filter_map(|file| Some(file.path.rsplit_once('/')?.0))
        .filter(|path| !path.is_empty())
        .collect();
    parents.sort_unstable();
    parents.dedup();
    paths.extend(parents.iter().map(|path| json!({ "path": path, "parents": true, "exist_ok": true })));
    if !paths.is_empty() {
        stages.push(stage("org.osbuild.mkdir", json!({ "paths": paths })));
    }
    if !files.is_empty() {
        stages.push(copy(&files, sources));
    }
    let mut modes = Map::new();
    let mut owners = Map::new();
    for directory in directories {
        if let Some(mode) = directory.mode {
            modes.insert(directory.path.value.clone(), json!({ "mode": format!("{mode:04o}") }));
        }
        own(&mut owners, &directory.path.value, directory.user.as_ref(), directory.group.as_ref());
    }
    for file in &files {
        modes.insert(file.path.to_owned(), json!({ "mode": format!("{:04o}", file.mode) }));
        own(&mut owners, file.path, file.user, file.group);
    }
    // Owners first: a change of owner takes the set-id bits away.
    if !owners.is_empty() {
        stages.push(stage("org.osbuild.chown", json!({ "items": owners })));
    }
    if !modes.is_empty() {
        stages.push(stage("org.osbuild.chmod", json!({ "items": modes })));
    }
    stages
}

/// All files; where the definition has one of the same path, it is the definition's.
fn files(definition: &Definition, disk: bool) -> Vec<File<'_>> {
    let own = &definition.customizations.files;
    let mut files: Vec<File<'_>> = own.iter().map(from_inode).collect();
    let mut add = |path: &'static str, data: String| {
        if !own.iter().any(|file| file.path.value == path) {
            files.push(File { path, mode: FILE_MODE, user: None, group: None, data });
        }
    };
    if let Some(hostname) = &definition.customizations.hostname {
        let short = hostname.split('.').next().unwrap_or(hostname);
        let names = if short == hostname { short.to_owned() } else { format!("{hostname} {short}") };
        add("/etc/hosts", format!("127.0.0.1 localhost\n127.0.1.1 {names}\n::1 localhost ip6-localhost\n"));
    }
    if let Some(language) = &definition.customizations.language {
        // Debian's login reads this one, systemd /etc/locale.conf.
        add("/etc/default/locale", format!("LANG={}\n", language.value));
    }
    if disk {
        match definition.kiln.bootloader {
            Bootloader::Grub => add("/boot/grub/grub.cfg", grub(definition)),
            Bootloader::SystemdBoot => add("/etc/kernel/entry-token", format!("{}\n", systemd_boot::TOKEN)),
            Bootloader::Uki => {}
        }
    }
    files
}

fn from_inode(inode: &Inode) -> File<'_> {
    File {
        path: &inode.path.value,
        mode: inode.mode.unwrap_or(FILE_MODE),
        user: inode.user.as_ref(),
        group: inode.group.as_ref(),
        data: inode.data.clone().unwrap_or_default(),
    }
}

/// GRUB's menu: one entry, on the screen and on the serial line. The kernel's package keeps both links up to date, in
/// `/boot` if that has a file system of its own.
fn grub(definition: &Definition) -> String {
    let top = layout::grub(definition).map(|grub| grub.top).unwrap_or_default();
    format!(
        "set timeout=1\nserial --unit=0 --speed=115200\nterminal_input console serial\n\
         terminal_output console serial\nmenuentry \"{}\" {{\n  linux {top}/vmlinuz {}\n  initrd {top}/initrd.img\n}}\n",
        kernel::title(definition),
        kernel::command_line(definition),
    )
}

pub(super) fn copy(files: &[File<'_>], sources: &mut Sources) -> Value {
    let mut references = Vec::new();
    let mut paths = Vec::new();
    for file in files {
        let checksum = sources.text(&file.data);
        // A path that is a link, /etc/resolv.conf for one, is replaced and not followed.
        paths.push(json!({
            "from": format!("input://files/{checksum}"),
            "to": format!("tree://{}", file.path),
            "remove_destination": true,
        }));
        references.push(checksum);
    }
    references.sort_unstable();
    references.dedup();
    json!({
        "type": "org.osbuild.copy",
        "inputs": {
            "files": { "type": "org.osbuild.files", "origin": "org.osbuild.source", "references": references },
        },
        "options": { "paths": paths },
    })
}

fn own(owners: &mut Map<String, Value>, path: &str, user: Option<&Owner>, group: Option<&Owner>) {
    let value = |owner: &Owner| match owner {
        Owner::Name(name) => json!(name),
        Owner::Number(number) => json!(number),
    };
    let mut item = Map::new();
    item.extend(user.map(|user| ("user".to_owned(), value(user))));
    item.extend(group.map(|group| ("group".to_owned(), value(group))));
    if !item.is_empty() {
        owners.insert(path.to_owned(), Value::Object(item));
    }
}
