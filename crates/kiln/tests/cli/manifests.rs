//! Manifests of native stages, put together by the tests.

use base64::Engine as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The name of content: its checksum.
pub(crate) fn checksum(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A manifest of pipelines and no sources.
pub(crate) fn manifest(pipelines: &[Value]) -> Value {
    json!({"version": "2", "pipelines": pipelines, "sources": {}})
}

/// A pipeline that builds with the host's tools.
pub(crate) fn pipeline(name: &str, stages: &[Value]) -> Value {
    json!({"name": name, "stages": stages})
}

/// A small manifest that builds, downloads nothing and is different for every `name`.
pub(crate) fn good(name: &str) -> Value {
    manifest(&[pipeline("tree", &[mkdir(&[&format!("/{name}")])])])
}

pub(crate) fn noop() -> Value {
    json!({"type": "org.osbuild.noop"})
}

pub(crate) fn mkdir(paths: &[&str]) -> Value {
    let paths: Vec<Value> = paths.iter().map(|path| json!({"path": path})).collect();
    json!({"type": "org.osbuild.mkdir", "options": {"paths": paths}})
}

/// A stage that copies files of a source into the tree: checksums and paths.
pub(crate) fn copy_files(files: &[(&str, &str)]) -> Value {
    let mut references = Map::new();
    let mut paths = Vec::new();
    for (checksum, path) in files {
        references.insert((*checksum).to_owned(), json!({}));
        paths.push(json!({"from": format!("input://files/{checksum}"), "to": format!("tree://{path}")}));
    }
    json!({
        "type": "org.osbuild.copy",
        "inputs": {"files": {
            "type": "org.osbuild.files", "origin": "org.osbuild.source", "references": references,
        }},
        "options": {"paths": paths},
    })
}

/// A manifest whose pipeline `tree` copies one download to `/file`.
pub(crate) fn download(checksum: &str, url: &str) -> Value {
    let mut manifest = manifest(&[pipeline("tree", &[copy_files(&[(checksum, "/file")])])]);
    add_url(&mut manifest, checksum, url);
    manifest
}

pub(crate) fn add_url(manifest: &mut Value, checksum: &str, url: &str) {
    manifest["sources"]["org.osbuild.curl"]["items"][checksum] = json!({"url": url});
}

/// Adds inline content and returns its checksum.
pub(crate) fn add_inline(manifest: &mut Value, content: &[u8]) -> String {
    let checksum = checksum(content);
    let data = base64::engine::general_purpose::STANDARD.encode(content);
    manifest["sources"]["org.osbuild.inline"]["items"][&checksum] =
        json!({"encoding": "base64", "data": data});
    checksum
}

/// A loop device of the file `disk.img`.
fn disk_device() -> Value {
    json!({"device": {"type": "org.osbuild.loopback", "options": {"filename": "disk.img"}}})
}

pub(crate) fn truncate(size: &str) -> Value {
    json!({"type": "org.osbuild.truncate", "options": {"filename": "disk.img", "size": size}})
}

/// An ext4 file system in `disk.img`.
pub(crate) fn mkfs() -> Value {
    json!({
        "type": "org.osbuild.mkfs.ext4",
        "options": {"uuid": "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a11", "label": "root"},
        "devices": disk_device(),
    })
}

/// Copies the tree of a pipeline into the file system in `disk.img`.
pub(crate) fn copy_tree_to_disk(of: &str) -> Value {
    json!({
        "type": "org.osbuild.copy",
        "inputs": {"tree": {
            "type": "org.osbuild.tree", "origin": "org.osbuild.pipeline",
            "references": [format!("name:{of}")],
        }},
        "options": {"paths": [{"from": "input://tree/", "to": "mount://root/"}]},
        "devices": disk_device(),
        "mounts": [{"name": "root", "type": "org.osbuild.ext4", "source": "device", "target": "/"}],
    })
}

/// A manifest that uses loop devices and mounts: `image` has a disk image with the content of `tree`.
pub(crate) fn disk(name: &str, size: &str) -> Value {
    manifest(&[
        pipeline("tree", &[mkdir(&[&format!("/{name}"), "/etc"])]),
        pipeline("image", &[truncate(size), mkfs(), copy_tree_to_disk("tree")]),
    ])
}

/// A manifest whose pipeline `tree` builds with a build root of the test's own making: a shell, and `script` as
/// `systemd-firstboot`, which the only stage runs.
///
/// So a test decides what a stage's tools do, however long that takes.
pub(crate) fn scripted(script: &str) -> Value {
    let mut result = manifest(&[]);
    let script = add_inline(&mut result, format!("#!/usr/bin/sh\n{script}").as_bytes());
    let mut files = vec![(script, "/usr/bin/systemd-firstboot".to_owned())];
    for program in ["/usr/bin/dash", "/usr/bin/sleep"] {
        files.push((add_host_file(&mut result, program), program.to_owned()));
        for library in libraries(program) {
            let name = library.file_name().expect("a name").to_string_lossy().into_owned();
            let checksum = add_host_file(&mut result, &library.display().to_string());
            // The loader is where programs say it is; it looks for libraries in `/usr/lib`.
            let place = if name.starts_with("ld-") { "lib64" } else { "lib" };
            files.push((checksum, format!("/usr/{place}/{name}")));
        }
    }
    files.sort();
    files.dedup();
    let files: Vec<(&str, &str)> = files.iter().map(|(sum, path)| (sum.as_str(), path.as_str())).collect();
    let paths = ["/usr", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/sbin", "/boot", "/etc"];
    let link = json!({"type": "org.osbuild.ln", "options": {"paths": [
        {"link_name": "tree:///usr/bin/sh", "target": "dash", "symbolic": true},
    ]}});
    let modes: Map<String, Value> =
        files.iter().map(|(_, path)| ((*path).to_owned(), json!({"mode": "0755"}))).collect();
    let executable = json!({"type": "org.osbuild.chmod", "options": {"items": modes}});
    result["pipelines"] = json!([
        {
            "name": "build", "runner": "org.osbuild.linux",
            "stages": [mkdir(&paths), copy_files(&files), link, executable],
        },
        {
            "name": "tree", "build": "name:build",
            "stages": [{"type": "org.osbuild.hostname", "options": {"hostname": "kiln"}}],
        },
    ]);
    result
}

/// Adds a file of the host as a download and returns its checksum.
fn add_host_file(manifest: &mut Value, path: &str) -> String {
    let checksum = checksum(&std::fs::read(path).expect("a file of the host"));
    add_url(manifest, &checksum, &format!("file://{path}"));
    checksum
}

/// The libraries of a program, as the loader itself lists them: by the names under which it looks for them.
pub(crate) fn libraries(program: &str) -> Vec<std::path::PathBuf> {
    let output = std::process::Command::new("ldd").arg(program).output().expect("ldd");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.split_whitespace().filter(|word| word.starts_with('/')).map(Into::into).collect()
}
