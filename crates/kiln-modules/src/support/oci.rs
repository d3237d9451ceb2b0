//! Images of containers, as the Open Container Initiative lays them out, in one archive.
//!
//! ```text
//! oci-layout              the version of the layout
//! index.json              names the manifest
//! blobs/sha256/HEX        the manifest, which names the configuration and the layers;
//!                         the configuration; each layer, a tree as a compressed tar archive
//! ```

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::{Compression, GzBuilder};
use kiln_api::ModuleError;
use kiln_api::stage::StageContext;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::root::Root;
use super::tar::{SORTED, STEADY, pack};

/// What a container runs if nothing else is said.
const COMMAND: &str = "sh";
/// Where a container looks for programs if nothing else is said.
const SEARCH_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";

/// The size of an archive of nothing: it ends with zeros, in records of twenty blocks.
const EMPTY: usize = 20 * 512;

/// How much is read at once.
const CHUNK: usize = 1 << 20;

/// Whatever the umask was, everybody may read the parts of an image.
const MODE: &str = "--mode=go=rX,u+rw,a-s";

/// How containers of the image are run, as in the image's own configuration; sets are lists.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct Config {
    /// The command, or the arguments of the entry point; `sh` if left out.
    cmd: Option<Vec<String>>,
    /// The program and its first arguments.
    entrypoint: Option<Vec<String>>,
    /// The environment; a search path if left out.
    env: Option<Vec<String>>,
    /// The ports that containers serve, as `80/tcp`.
    exposed_ports: Option<Vec<String>>,
    /// The user, as a name or number.
    user: Option<String>,
    /// Labels.
    labels: Option<Map<String, Value>>,
    /// Not used: the option is spelled so in the schema, and looked for otherwise.
    #[expect(dead_code, reason = "accepted, as by the reference, which does not use it either")]
    #[serde(rename = "StopSiganl")]
    stop_signal: Option<String>,
    /// The directories that hold data.
    volumes: Option<Vec<String>>,
    /// The working directory.
    working_dir: Option<String>,
}

impl Config {
    /// The member `config` of an image's configuration.
    pub(crate) fn value(self) -> Value {
        let mut config = Map::new();
        let mut add = |name: &str, value: Value, empty: bool| {
            if !empty {
                config.insert(name.to_owned(), value);
            }
        };
        add("Env", json!(self.env.unwrap_or_else(|| vec![SEARCH_PATH.to_owned()])), false);
        add("Cmd", json!(self.cmd.unwrap_or_else(|| vec![COMMAND.to_owned()])), false);
        let entrypoint = self.entrypoint.unwrap_or_default();
        add("Entrypoint", json!(entrypoint), entrypoint.is_empty());
        let user = self.user.unwrap_or_default();
        add("User", json!(user), user.is_empty());
        let labels = self.labels.unwrap_or_default();
        add("Labels", json!(labels), labels.is_empty());
        let directory = self.working_dir.unwrap_or_default();
        add("WorkingDir", json!(directory), directory.is_empty());
        for (name, items) in [("ExposedPorts", self.exposed_ports), ("Volumes", self.volumes)] {
            let items: Map<_, _> =
                items.unwrap_or_default().into_iter().map(|item| (item, json!({}))).collect();
            add(name, json!(items), items.is_empty());
        }
        Value::Object(config)
    }
}

/// An image that is to be written.
pub(crate) struct Image {
    /// The processor architecture, as `amd64`.
    pub(crate) architecture: String,
    /// Which kind of that architecture, as `v8`.
    pub(crate) variant: Option<String>,
    /// How containers are run.
    pub(crate) config: Config,
    /// What is said of the manifest.
    pub(crate) annotations: Map<String, Value>,
    /// The layers, the lowest first.
    pub(crate) layers: Vec<Layer>,
}

/// One layer of an image.
pub(crate) struct Layer {
    /// The directory with its content.
    pub(crate) tree: PathBuf,
    /// Which extended attributes are in it: options of `tar`.
    pub(crate) attributes: &'static [&'static str],
    /// What the image's history says that has made it.
    pub(crate) made_by: Option<String>,
}

impl Image {
    /// Writes the archive to a file of the tree.
    pub(crate) fn write(self, filename: &str, context: &mut StageContext) -> Result<(), ModuleError> {
        let archive = Root::open(context.tree())?.resolve_parent(filename)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let created = context.arguments.meta.source_epoch.unwrap_or(now.cast_signed());
        let work = tempfile::tempdir_in(context.tree());
        let work = work.map_err(ModuleError::io("create a directory in", context.tree()))?;
        let blobs = Blobs::new(work.path())?;
        let manifest = blobs.add(MANIFEST, &self.manifest(&blobs, &rfc3339(created), context)?)?;
        write(&work.path().join("index.json"), &json!({"schemaVersion": 2, "manifests": [manifest]}))?;
        write(&work.path().join("oci-layout"), &json!({"imageLayoutVersion": "1.0.0"}))?;
        // All files are as old as the image.
        let time = format!("--mtime=@{created}");
        let entries = ["blobs", "index.json", "oci-layout"];
        let options = [SORTED, &time, MODE, "--owner=0", "--group=0", "--numeric-owner"];
        pack(work.path(), entries, &archive, options)
    }

    /// Adds the layers and the configuration, and describes them.
    fn manifest(
        self,
        blobs: &Blobs,
        created: &str,
        context: &mut StageContext,
    ) -> Result<Value, ModuleError> {
        let (mut layers, mut contents, mut history) = (Vec::new(), Vec::new(), Vec::new());
        for layer in self.layers {
            let (content, blob) = blobs.add_layer(&layer)?;
            context.say(format_args!("layer: {} bytes, {}", blob["size"], blob["digest"]));
            layers.push(blob);
            contents.push(content);
            history.extend(layer.made_by.map(|made_by| json!({"created": created, "created_by": made_by})));
        }
        let mut configuration = json!({
            "created": created,
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config.value(),
            "rootfs": {"type": "layers", "diff_ids": contents},
        });
        if !history.is_empty() {
            configuration["history"] = json!(history);
        }
        if let Some(variant) = self.variant.filter(|variant| !variant.is_empty()) {
            configuration["variant"] = json!(variant);
        }
        let configuration = blobs.add(CONFIGURATION, &configuration)?;
        context
            .say(format_args!("configuration: {} bytes, {}", configuration["size"], configuration["digest"]));
        let mut manifest = json!({"schemaVersion": 2, "config": configuration, "layers": layers});
        if !self.annotations.is_empty() {
            manifest["annotations"] = json!(self.annotations);
        }
        Ok(manifest)
    }
}

/// The directory of blobs, which are named by their digests.
struct Blobs(PathBuf);

impl Blobs {
    fn new(work: &Path) -> Result<Self, ModuleError> {
        let path = work.join("blobs/sha256");
        fs::create_dir_all(&path).map_err(ModuleError::io("create directory", &path))?;
        Ok(Self(path))
    }

    /// Adds a JSON text and returns its description.
    fn add(&self, kind: &str, value: &Value) -> Result<Value, ModuleError> {
        let text = value.to_string();
        let digest = hex(Sha256::digest(&text));
        let path = self.0.join(&digest);
        fs::write(&path, &text).map_err(ModuleError::io("write", &path))?;
        Ok(describe(kind, &digest, text.len() as u64))
    }

    /// Adds a tree and returns the digest of its archive and the description of the compressed one.
    fn add_layer(&self, Layer { tree, attributes, .. }: &Layer) -> Result<(String, Value), ModuleError> {
        let [plain, packed] = ["layer.tar", "layer.tar.gz"].map(|name| self.0.join(name));
        let entries = entries(tree)?;
        if entries.is_empty() {
            // `tar` refuses to make one of nothing.
            fs::write(&plain, [0; EMPTY]).map_err(ModuleError::io("write", &plain))?;
        } else {
            let options = [SORTED, "--no-selinux", "--acls", "--xattrs", STEADY];
            pack(tree, entries, &plain, options.iter().chain(attributes.iter()))?;
        }
        let contents = compress(&plain, &packed)?;
        fs::remove_file(&plain).map_err(ModuleError::io("remove", &plain))?;
        let (digest, size) = digest(&packed)?;
        let path = self.0.join(&digest);
        fs::rename(&packed, &path).map_err(ModuleError::io("rename", &packed))?;
        Ok((format!("sha256:{contents}"), describe(LAYER, &digest, size)))
    }
}

fn describe(kind: &str, digest: &str, size: u64) -> Value {
    json!({"digest": format!("sha256:{digest}"), "size": size, "mediaType": kind})
}

fn write(path: &Path, value: &Value) -> Result<(), ModuleError> {
    fs::write(path, value.to_string()).map_err(ModuleError::io("write", path))
}

/// The names in a directory; `tar` keeps their order, so they are sorted.
fn entries(directory: &Path) -> Result<Vec<std::ffi::OsString>, ModuleError> {
    let entries = fs::read_dir(directory).map_err(ModuleError::io("read directory", directory))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names =
        names.collect::<Result<Vec<_>, _>>().map_err(ModuleError::io("read directory", directory))?;
    names.sort();
    Ok(names)
}

/// Compresses a file and returns the digest of what was compressed.
fn compress(from: &Path, to: &Path) -> Result<String, ModuleError> {
    let target = File::create(to).map_err(ModuleError::io("create", to))?;
    // Neither name nor time.
    let mut encoder = GzBuilder::new().write(target, Compression::default());
    let mut sum = Sha256::new();
    read(from, |chunk| {
        sum.update(chunk);
        encoder.write_all(chunk).map_err(ModuleError::io("write", to))
    })?;
    encoder.finish().map_err(ModuleError::io("write", to))?;
    Ok(hex(sum.finalize()))
}

fn digest(path: &Path) -> Result<(String, u64), ModuleError> {
    let (mut sum, mut size) = (Sha256::new(), 0);
    read(path, |chunk| {
        sum.update(chunk);
        size += chunk.len() as u64;
        Ok(())
    })?;
    Ok((hex(sum.finalize()), size))
}

fn read(path: &Path, mut each: impl FnMut(&[u8]) -> Result<(), ModuleError>) -> Result<(), ModuleError> {
    let mut file = File::open(path).map_err(ModuleError::io("open", path))?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer).map_err(ModuleError::io("read", path))? {
            0 => return Ok(()),
            count => each(buffer.get(..count).unwrap_or_default())?,
        }
    }
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since 1970 as a date and time of RFC 3339.
fn rfc3339(seconds: i64) -> String {
    const DAY: i64 = 24 * 60 * 60;
    /// Days of 400 years, after which everything repeats.
    const CYCLE: i64 = 146_097;
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    // Years that begin in March end with the day that only some have. From 0000-03-01 to 1970-01-01:
    let day = days + 719_468;
    let (cycle, day) = (day.div_euclid(CYCLE), day.rem_euclid(CYCLE));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = cycle * 400 + year + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Reads archives as tools for containers do.
#[cfg(test)]
pub(crate) mod testing {
    use std::process::Command;

    use super::*;

    /// The parts of an image.
    pub(crate) struct Parts {
        /// The manifest without what it says of blobs.
        pub(crate) manifest: Value,
        /// The configuration without the digests of layers, and with a time that ends in `Z`.
        pub(crate) config: Value,
        /// What `tar` tells of each layer, sorted.
        pub(crate) layers: Vec<String>,
        /// Whether the configuration has the digests of all layers.
        pub(crate) complete: bool,
    }

    /// Unpacks an archive and checks that all digests and sizes are right.
    pub(crate) fn unpack(archive: &Path) -> Parts {
        let directory = tempfile::tempdir().expect("tempdir");
        let run = |program: &str, arguments: &[&str]| {
            let output =
                Command::new(program).args(arguments).current_dir(directory.path()).output().expect(program);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text")
        };
        run("tar", &["-xf", archive.to_str().expect("UTF-8")]);
        let json = |path: &str| -> Value {
            serde_json::from_slice(&fs::read(directory.path().join(path)).expect(path)).expect("JSON")
        };
        let blob = |described: &Value| {
            let digest =
                described["digest"].as_str().expect("a digest").strip_prefix("sha256:").expect("SHA-256");
            let path = format!("blobs/sha256/{digest}");
            let (own, size) = super::digest(&directory.path().join(&path)).expect("there");
            assert_eq!((own.as_str(), json!(size)), (digest, described["size"].clone()));
            path
        };
        assert_eq!(json("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
        let index = json("index.json");
        assert_eq!(index["schemaVersion"], 2);
        assert_eq!(index["manifests"][0]["mediaType"], MANIFEST);
        let mut manifest = json(&blob(&index["manifests"][0]));
        assert_eq!(manifest["schemaVersion"], 2);
        assert_eq!(manifest["config"]["mediaType"], CONFIGURATION);
        let mut config = json(&blob(&manifest["config"].take()));
        let (mut layers, mut contents) = (Vec::new(), Vec::new());
        for layer in manifest["layers"].take().as_array().expect("layers") {
            assert_eq!(layer["mediaType"], LAYER);
            run("sh", &["-c", "gzip -dc < $0 > layer.tar", &blob(layer)]);
            let (content, _) = digest(&directory.path().join("layer.tar")).expect("there");
            contents.push(json!(format!("sha256:{content}")));
            let told = run("tar", &["--xattrs", "--numeric-owner", "-tvvf", "layer.tar"]);
            let mut lines: Vec<_> = told.lines().collect();
            lines.sort_unstable();
            layers.push(lines.join("\n"));
        }
        assert_eq!(config["rootfs"]["type"], "layers");
        let told = config["rootfs"].take()["diff_ids"].take();
        assert_eq!(told.as_array().and_then(|told| told.last()), contents.last());
        let time = config["created"].as_str().expect("a time").replace("+00:00", "Z");
        config["created"] = json!(time);
        Parts { manifest, config, layers, complete: told == json!(contents) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_everywhere() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }
}
