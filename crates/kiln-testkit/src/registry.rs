//! A registry of container images on the loopback interface, Debian's `docker-registry`, and images to put into it.
//!
//! What it has is kept in a directory: a registry that was dropped can be started again, with TLS for example, or on the
//! port that it had.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kiln_sys::command::die_with_parent;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::host::Need;

/// What a registry needs.
pub const REGISTRY: Need = Need { program: "docker-registry", package: "docker-registry" };
/// What fetches images and puts them there.
pub const SKOPEO: Need = Need { program: "skopeo", package: "skopeo" };

/// The architecture of this machine, as images name it.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// A running registry; dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    address: String,
}

/// An image of one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The checksum of its configuration.
    pub id: String,
    /// The digest of its manifest.
    pub manifest: String,
    /// The digests of its layers.
    pub layers: Vec<String>,
}

/// Images and their index, in a directory of the form that the OCI describes.
#[derive(Debug)]
pub struct Layout {
    directory: PathBuf,
    /// The images, in the order they were given in.
    pub images: Vec<Image>,
    /// The digest of their index.
    pub index: String,
}

/// The checksum of content, as images name it.
pub fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

impl Registry {
    /// Starts a registry that has its content in a directory, for plain HTTP on any port.
    pub fn start(storage: &Path) -> Self {
        Self::start_with(storage, 0, None)
    }

    /// Starts a registry on a port, with the files of a certificate and its key for TLS.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_with(storage: &Path, port: u16, tls: Option<(&Path, &Path)>) -> Self {
        fs::create_dir_all(storage).expect("a directory");
        let mut http = json!({"addr": format!("127.0.0.1:{port}")});
        if let Some((certificate, key)) = tls {
            http["tls"] = json!({"certificate": certificate, "key": key});
        }
        let data = storage.join("data");
        let settings =
            json!({"version": "0.1", "storage": {"filesystem": {"rootdirectory": data}}, "http": http});
        let file = storage.join("settings.yml");
        // JSON is YAML.
        fs::write(&file, settings.to_string()).expect("written");
        let mut command = Command::new(crate::host::find(REGISTRY.program).expect("a registry"));
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        die_with_parent(&mut command);
        let mut process = command.spawn().expect("started");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let mut said = String::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("no registry: {said}")).expect("text");
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.split(['"', ',']).next().unwrap_or_default().to_owned();
            }
            said.push_str(&line);
        };
        // It must not wait for somebody to read its log.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }

    /// Its host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port")
    }

    /// Puts images and their index into it (over plain HTTP) and returns the name that they have then.
    pub fn push(&self, layout: &Layout, name: &str) -> String {
        let name = format!("{}/{name}", self.address);
        let from = format!("oci:{}", layout.directory.display());
        let mut command = Command::new("skopeo");
        command.args([
            "copy",
            "--all",
            "--preserve-digests",
            "--quiet",
            "--dest-tls-verify=false",
            &from,
            &format!("docker://{name}:1"),
        ]);
        let output = command.output().expect("skopeo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        name
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It has ended, or it is ended now.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Layout {
    /// Writes images into a directory: each has an architecture and the content of its layers.
    pub fn write(directory: &Path, images: &[(&str, &[&[u8]])]) -> Self {
        fs::create_dir_all(directory.join("blobs/sha256")).expect("a directory");
        let mut layout = Self { directory: directory.to_owned(), images: Vec::new(), index: String::new() };
        let mut listed = Vec::new();
        for (architecture, layers) in images {
            let of_layer = |layer: &&[u8]| layout.blob("layer.v1.tar", layer);
            let layers: Vec<Value> = layers.iter().map(of_layer).collect();
            let configuration = json!({
                "architecture": architecture, "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| &layer["digest"]).collect::<Vec<_>>()},
            });
            let configuration = layout.blob("config.v1+json", configuration.to_string().as_bytes());
            let manifest = json!({
                "schemaVersion": 2, "mediaType": media_type("manifest.v1+json"),
                "config": configuration, "layers": layers,
            });
            let mut manifest = layout.blob("manifest.v1+json", manifest.to_string().as_bytes());
            let text = |value: &Value| value["digest"].as_str().unwrap_or_default().to_owned();
            layout.images.push(Image {
                id: text(&configuration),
                manifest: text(&manifest),
                layers: layers.iter().map(text).collect(),
            });
            manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
            listed.push(manifest);
        }
        let index =
            json!({"schemaVersion": 2, "mediaType": media_type("index.v1+json"), "manifests": listed});
        let index = layout.blob("index.v1+json", index.to_string().as_bytes());
        layout.index = index["digest"].as_str().unwrap_or_default().to_owned();
        let top = json!({"schemaVersion": 2, "manifests": [index]});
        for (name, content) in [("index.json", top), ("oci-layout", json!({"imageLayoutVersion": "1.0.0"}))] {
            fs::write(directory.join(name), content.to_string()).expect("written");
        }
        layout
    }

    /// The content of a blob, a manifest or the index.
    pub fn content(&self, digest: &str) -> Vec<u8> {
        fs::read(self.path(digest)).expect("a blob")
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.directory.join("blobs").join(digest.replace(':', "/"))
    }

    fn blob(&self, kind: &str, content: &[u8]) -> Value {
        let digest = digest(content);
        fs::write(self.path(&digest), content).expect("written");
        json!({"mediaType": media_type(kind), "size": content.len(), "digest": digest})
    }
}

/// The media type of a part of an image: `manifest.v1+json`, `index.v1+json`.
pub fn media_type(kind: &str) -> String {
    format!("application/vnd.oci.image.{kind}")
}
