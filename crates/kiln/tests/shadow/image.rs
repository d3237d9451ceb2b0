//! An image for containers: one layer, its configuration, its manifest, and an index with it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::archive::place_files;
use crate::case::digest;

pub(crate) struct Image {
    pub(crate) layer: Vec<u8>,
    pub(crate) configuration: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) index: Vec<u8>,
}

impl Image {
    /// An image with files.
    pub(crate) fn new(told: &Value) -> Self {
        let content = TempDir::with_prefix("kiln-image-").expect("a directory");
        place_files(told, content.path());
        let mut tar = Command::new("tar");
        tar.args([
            "--sort=name",
            "--mtime=@1000000000",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "-cf",
            "-",
            "-C",
        ]);
        let tar = tar.arg(content.path()).arg(".").output().expect("tar").stdout;
        let mut layer = GzEncoder::new(Vec::new(), Compression::default());
        layer.write_all(&tar).expect("compressed");
        let layer = layer.finish().expect("compressed");
        let configuration = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/hello"], "Labels": {"one": "1"}},
            "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]},
        })
        .to_string()
        .into_bytes();
        let part = |kind: &str, content: &[u8]| json!({"mediaType": Self::media_type(kind), "size": content.len(), "digest": digest(content)});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": Self::media_type("manifest"), "config": part("config", &configuration),
            "layers": [part("layer", &layer)],
        })
        .to_string()
        .into_bytes();
        let mut listed = part("manifest", &manifest);
        listed["platform"] = json!({"architecture": "amd64", "os": "linux"});
        let index =
            json!({"schemaVersion": 2, "mediaType": Self::media_type("index"), "manifests": [listed]});
        Self { layer, configuration, manifest, index: index.to_string().into_bytes() }
    }

    pub(crate) fn media_type(kind: &str) -> String {
        match kind {
            "layer" => "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            _ => format!("application/vnd.oci.image.{kind}.v1+json"),
        }
    }

    /// Writes it as a directory of the OCI's layout.
    pub(crate) fn write_layout(&self, directory: &Path) {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("made");
        for blob in [&self.layer, &self.configuration, &self.manifest] {
            fs::write(blobs.join(digest(blob).trim_start_matches("sha256:")), blob).expect("written");
        }
        fs::write(directory.join("index.json"), &self.index).expect("written");
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).expect("written");
    }
}
