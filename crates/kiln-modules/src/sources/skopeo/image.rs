//! An image of a container as one directory: the form that `skopeo` calls `dir`.
//!
//! ```text
//! manifest.json    the manifest: which blob is the configuration, which are the layers
//! version          the version of this form
//! HEX              a blob, by the digits of its checksum
//! signature-N      signatures
//! ```
//!
//! The checksum of the configuration is the image's id. A manifest says the checksum and the size of each blob, so an
//! image can be held against it: quickly, by sizes, and thoroughly, by content.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use kiln_api::ModuleError;
use serde::Deserialize;

use crate::checksum::Checksum;

const BUFFER: usize = 1 << 20;

/// The time of modification of everything in an image: when it was downloaded says nothing about it, and stages that
/// copy files keep their times.
const MODIFIED: Duration = Duration::from_secs(1);

/// An image whose manifest was read.
#[derive(Debug)]
pub(super) struct Image {
    directory: PathBuf,
    configuration: Blob,
    layers: Vec<Blob>,
}

/// What a manifest says of an image; whatever else it says is not needed here.
#[derive(Deserialize)]
struct Manifest {
    config: Blob,
    layers: Vec<Blob>,
}

#[derive(Debug, Deserialize)]
struct Blob {
    digest: String,
    /// Its bytes; negative if nobody knew.
    size: i64,
    /// Where a layer is that registries may not pass on: it need not be here.
    #[serde(default)]
    urls: Vec<String>,
}

impl Image {
    /// Reads the manifest of an image.
    pub(super) fn read(directory: &Path) -> Result<Self, ModuleError> {
        let path = directory.join("manifest.json");
        let text = fs::read(&path).map_err(ModuleError::io("read", &path))?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| {
            ModuleError::invalid(format!("the manifest does not name configuration and layers: {error}"))
        })?;
        Ok(Self { directory: directory.to_owned(), configuration: manifest.config, layers: manifest.layers })
    }

    /// Whether all blobs are there in the size that they should have: an image in the cache was verified, but a crash
    /// of the machine may have cut it.
    pub(super) fn is_whole(&self) -> bool {
        self.blobs().all(|blob| {
            blob.checksum().is_ok_and(|checksum| match self.find(blob, &checksum) {
                Some(path) => path.metadata().is_ok_and(|found| blob.may_have(found.len())),
                None => !blob.urls.is_empty(),
            })
        })
    }

    /// Holds the id and the content of all blobs against their checksums.
    pub(super) fn verify(&self, id: &Checksum, interrupted: &AtomicBool) -> Result<(), ModuleError> {
        if self.configuration.digest != id.as_str() {
            let found = &self.configuration.digest;
            return Err(ModuleError::invalid(format!("the image has another id: {found}, expected: {id}")));
        }
        for blob in self.blobs() {
            let checksum = blob.checksum()?;
            let Some(path) = self.find(blob, &checksum) else {
                if blob.urls.is_empty() {
                    return Err(ModuleError::invalid(format!("the image has no blob {checksum}")));
                }
                continue;
            };
            let (found, size) = hash(&path, &checksum, interrupted)?;
            if found != checksum {
                let text = format!("the blob {checksum} has another checksum: {found}");
                return Err(ModuleError::invalid(text));
            }
            if !blob.may_have(size) {
                let text = format!("the blob {checksum} has {size} bytes; the manifest says {}", blob.size);
                return Err(ModuleError::invalid(text));
            }
        }
        Ok(())
    }

    fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.configuration).chain(&self.layers)
    }

    /// The file of a blob; those of rare algorithms have the algorithm in their name, too.
    fn find(&self, blob: &Blob, checksum: &Checksum) -> Option<PathBuf> {
        let digits = checksum.as_str().split_once(':').map_or("", |(_, digits)| digits);
        let names = [digits.to_owned(), blob.digest.replace(':', "-")];
        names.into_iter().map(|name| self.directory.join(name)).find(|path| path.is_file())
    }
}

impl Blob {
    fn checksum(&self) -> Result<Checksum, ModuleError> {
        Checksum::parse(&self.digest).map_err(|error| ModuleError::invalid(error.to_string()))
    }

    fn may_have(&self, bytes: u64) -> bool {
        u64::try_from(self.size).is_ok_and(|size| size == bytes) || self.size < 0
    }
}

fn hash(path: &Path, like: &Checksum, interrupted: &AtomicBool) -> Result<(Checksum, u64), ModuleError> {
    let mut file = File::open(path).map_err(ModuleError::io("open", path))?;
    let mut hasher = like.algorithm().hasher();
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        if interrupted.load(Ordering::Relaxed) {
            return Err(ModuleError::Interrupted);
        }
        let count = file.read(&mut buffer).map_err(ModuleError::io("read", path))?;
        let chunk = buffer.get(..count).unwrap_or_default();
        if chunk.is_empty() {
            return Ok((hasher.finish(), size));
        }
        hasher.update(chunk);
        size += count as u64;
    }
}

/// The bytes of all files in a directory; those of files that come and go meanwhile count or not.
pub(super) fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|file| file.len())
        .sum()
}

/// Gives everything in a directory of files the mode and time that content of the cache has, and has it written to disk.
pub(super) fn settle(directory: &Path) -> Result<(), ModuleError> {
    for entry in fs::read_dir(directory).map_err(ModuleError::io("read", directory))? {
        let path = entry.map_err(ModuleError::io("read", directory))?.path();
        settle_one(&path, 0o644)?;
    }
    settle_one(directory, 0o755)
}

fn settle_one(path: &Path, mode: u32) -> Result<(), ModuleError> {
    let settle = || -> io::Result<()> {
        let file = File::open(path)?;
        // The mode is set, not asked for: the umask of whoever runs this must not decide who can read.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.set_modified(SystemTime::UNIX_EPOCH + MODIFIED)?;
        file.sync_all()
    };
    settle().map_err(ModuleError::io("finish", path))
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::MetadataExt;

    use serde_json::{Value, json};

    use super::*;

    fn checksum(content: &[u8]) -> Checksum {
        let mut hasher =
            Checksum::parse(&format!("sha256:{}", "0".repeat(64))).expect("one").algorithm().hasher();
        hasher.update(content);
        hasher.finish()
    }

    fn place(directory: &Path, content: &[u8]) -> Value {
        let checksum = checksum(content);
        fs::write(directory.join(checksum.as_str().trim_start_matches("sha256:")), content).expect("written");
        json!({"digest": checksum.as_str(), "size": content.len()})
    }

    /// Writes an image with one layer, and says its id.
    pub(in crate::sources) fn write(directory: &Path, layer: &[u8]) -> String {
        let configuration = place(directory, format!(r#"{{"layer": {}}}"#, layer.len()).as_bytes());
        let manifest =
            json!({"schemaVersion": 2, "config": configuration, "layers": [place(directory, layer)]});
        fs::write(directory.join("manifest.json"), manifest.to_string()).expect("written");
        fs::write(directory.join("version"), "Directory Transport Version: 1.1\n").expect("written");
        configuration["digest"].as_str().expect("a text").to_owned()
    }

    fn verify(directory: &Path, id: &str) -> Result<(), String> {
        let id = Checksum::parse(id).expect("an id");
        let image = Image::read(directory).map_err(|error| error.to_string())?;
        image.verify(&id, &AtomicBool::new(false)).map_err(|error| error.to_string())
    }

    #[test]
    fn an_image_is_held_against_its_manifest() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let id = write(path, b"layer");
        assert!(Image::read(path).expect("read").is_whole());
        verify(path, &id).expect("it is right");
        let error = verify(path, checksum(b"other").as_str()).expect_err("another id");
        assert!(error.starts_with("the image has another id: sha256:"), "{error}");

        let layer = path.join(checksum(b"layer").as_str().trim_start_matches("sha256:"));
        for (content, whole, expected) in [
            (Some("lay"), false, "another checksum"),
            (Some("LAYER"), true, "another checksum"),
            (None, false, "the image has no blob"),
        ] {
            fs::remove_file(&layer).expect("removed");
            if let Some(content) = content {
                fs::write(&layer, content).expect("written");
            }
            assert_eq!(Image::read(path).expect("read").is_whole(), whole, "{content:?}");
            let error = verify(path, &id).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_layer_may_be_elsewhere_and_a_size_be_wrong() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let configuration = place(path, b"{}");
        let mut layer =
            json!({"digest": checksum(b"x").as_str(), "size": 1, "urls": ["https://example.invalid"]});
        let write = |layer: &Value| {
            let manifest = json!({"config": configuration, "layers": [layer]});
            fs::write(path.join("manifest.json"), manifest.to_string()).expect("written");
        };
        write(&layer);
        assert!(Image::read(path).expect("read").is_whole());
        verify(path, checksum(b"{}").as_str()).expect("it is right");
        place(path, b"x");
        layer["size"] = json!(2);
        write(&layer);
        assert!(!Image::read(path).expect("read").is_whole());
        let error = verify(path, checksum(b"{}").as_str()).expect_err("another size");
        assert!(error.ends_with("has 1 bytes; the manifest says 2"), "{error}");
        layer["size"] = json!(-1);
        write(&layer);
        assert!(Image::read(path).expect("read").is_whole());
        verify(path, checksum(b"{}").as_str()).expect("nobody knew the size");
        // A digest becomes no path unless it is one.
        layer["digest"] = json!("sha256:../../x");
        write(&layer);
        assert!(!Image::read(path).expect("read").is_whole());
        assert!(verify(path, checksum(b"{}").as_str()).expect_err("no digest").contains("is no checksum"));
    }

    #[test]
    fn a_manifest_of_something_else_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        for (text, expected) in [
            (r#"{"schemaVersion": 1, "fsLayers": []}"#, "missing field `config`"),
            (r#"{"manifests": []}"#, "missing field"),
            ("", "EOF"),
        ] {
            fs::write(directory.path().join("manifest.json"), text).expect("written");
            let error = Image::read(directory.path()).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        fs::remove_file(directory.path().join("manifest.json")).expect("removed");
        Image::read(directory.path()).expect_err("no manifest");
    }

    #[test]
    fn what_is_settled_can_be_read_and_has_a_fixed_time() {
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path(), b"layer");
        let manifest = directory.path().join("manifest.json");
        fs::set_permissions(&manifest, Permissions::from_mode(0o600)).expect("set");
        settle(directory.path()).expect("settled");
        for (path, mode) in [(manifest.as_path(), 0o644), (directory.path(), 0o755)] {
            let found = path.metadata().expect("metadata");
            assert_eq!((found.mode() & 0o7777, found.mtime()), (mode, 1), "{}", path.display());
        }
        assert!(size(directory.path()) > 100);
    }
}
