//! `org.osbuild.oci-archive`
//!
//! ```text
//! oci-layout              the version of the layout
//! index.json              names the manifest
//! blobs/sha256/HEX        the manifest, which names the configuration and the layer;
//!                         the configuration; the tree as a compressed tar archive
//! ```

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::{Compression, GzBuilder};
use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::support::root::Root;
use crate::support::tar::{SORTED, STEADY, pack};

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

/// Packs the tree into an archive of a container image.
///
/// The archive is a tar archive with the layout of the Open Container Initiative: the tree is its only layer, packed by the
/// build root's `tar` without SELinux labels. `podman pull oci-archive:FILE` reads it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The processor architecture of the image, as `amd64`.
    architecture: String,
    /// The name of the archive.
    filename: String,
    /// How containers of the image are run.
    config: Option<Config>,
}

/// How containers of the image are run, as in the image's own configuration; sets are lists.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Config {
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
    fn value(self) -> Value {
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

pub(crate) struct OciArchive;

impl Stage for OciArchive {
    const NAME: &'static str = "org.osbuild.oci-archive";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let archive = Root::open(context.tree())?.resolve_parent(&options.filename)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let created = context.arguments.meta.source_epoch.unwrap_or(now.cast_signed());
        let work = tempfile::tempdir_in(context.tree());
        let work = work.map_err(ModuleError::io("create a directory in", context.tree()))?;
        let blobs = Blobs::new(work.path())?;
        let (contents, layer) = blobs.add_layer(super::source(context)?)?;
        let configuration = blobs.add(
            CONFIGURATION,
            &json!({
                "created": rfc3339(created),
                "architecture": options.architecture,
                "os": "linux",
                "config": options.config.unwrap_or_default().value(),
                "rootfs": {"type": "layers", "diff_ids": [contents]},
            }),
        )?;
        for (name, blob) in [("layer", &layer), ("configuration", &configuration)] {
            context.say(format_args!("{name}: {} bytes, {}", blob["size"], blob["digest"]));
        }
        let manifest =
            blobs.add(MANIFEST, &json!({"schemaVersion": 2, "config": configuration, "layers": [layer]}))?;
        write(&work.path().join("index.json"), &json!({"schemaVersion": 2, "manifests": [manifest]}))?;
        write(&work.path().join("oci-layout"), &json!({"imageLayoutVersion": "1.0.0"}))?;
        // All files are as old as the image.
        let time = format!("--mtime=@{created}");
        let entries = ["blobs", "index.json", "oci-layout"];
        pack(work.path(), entries, &archive, [SORTED, &time, "--owner=0", "--group=0", "--numeric-owner"])
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
    fn add_layer(&self, tree: &Path) -> Result<(String, Value), ModuleError> {
        let [plain, packed] = ["layer.tar", "layer.tar.gz"].map(|name| self.0.join(name));
        let entries = entries(tree)?;
        if entries.is_empty() {
            // `tar` refuses to make one of nothing.
            fs::write(&plain, [0; EMPTY]).map_err(ModuleError::io("write", &plain))?;
        } else {
            let options = [SORTED, "--no-selinux", "--acls", "--xattrs", STEADY];
            pack(tree, entries, &plain, options)?;
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::assembler::<OciArchive>()
            .accepts([
                json!({"architecture": "amd64", "filename": "a"}),
                json!({"architecture": "amd64", "filename": "a", "config": {}}),
                everything(),
            ])
            .refuses([
                json!({"architecture": "amd64"}),
                json!({"architecture": "amd64", "filename": "a", "config": {"StopSignal": "TERM"}}),
                json!({"architecture": "amd64", "filename": "a", "config": {"Cmd": "sh"}}),
                json!({"architecture": "amd64", "filename": "a", "compression": "xz"}),
            ]);
    }

    fn everything() -> Value {
        json!({"architecture": "arm64", "filename": "image.tar", "config": {
            "Cmd": ["run", "it"], "Entrypoint": ["/init"], "Env": ["A=b"], "ExposedPorts": ["80/tcp"], "User": "1000",
            "Labels": {"a": "b"}, "StopSiganl": "TERM", "Volumes": ["/data", "/more"], "WorkingDir": "/srv",
        }})
    }

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

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        let input = fixture.input("tree", &[("b/file", "content"), ("a", "one")]);
        for path in ["b/file", "a", "b", "."] {
            let file = File::open(input.join(path)).expect(path);
            file.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(1_000_000)).expect("a time");
        }
        fixture
    }

    /// The image's parts, read as a container tool does: configuration, and what `tar` tells of the layer.
    fn unpack(fixture: &Fixture) -> (Value, String) {
        let directory = tempfile::tempdir().expect("tempdir");
        let run = |program: &str, arguments: &[&str]| {
            let output =
                Command::new(program).args(arguments).current_dir(directory.path()).output().expect(program);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text")
        };
        run("tar", &["-xf", fixture.tree().join("image.tar").to_str().expect("UTF-8")]);
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
        let manifest = json(&blob(&index["manifests"][0]));
        assert_eq!(manifest["schemaVersion"], 2);
        assert_eq!(manifest["config"]["mediaType"], CONFIGURATION);
        assert_eq!(manifest["layers"][0]["mediaType"], LAYER);
        let mut config = json(&blob(&manifest["config"]));
        let layer = blob(&manifest["layers"][0]);
        run("sh", &["-c", "gzip -dc < $0 > layer.tar", &layer]);
        let (contents, _) = digest(&directory.path().join("layer.tar")).expect("there");
        assert_eq!(
            config["rootfs"].take(),
            json!({"type": "layers", "diff_ids": [format!("sha256:{contents}")]})
        );
        let mut lines: Vec<_> =
            run("tar", &["--xattrs", "-tvvf", "layer.tar"]).lines().map(str::to_owned).collect();
        lines.sort();
        (config, lines.join("\n"))
    }

    #[test]
    fn the_image_is_whole() {
        let fixture = fixture();
        fixture.run::<OciArchive>(everything()).expect("packed");
        let (mut config, layer) = unpack(&fixture);
        let created = config["created"].take();
        assert!(created.as_str().is_some_and(|time| time.len() == 20), "{created}");
        assert_eq!(
            config,
            json!({
                "created": null, "architecture": "arm64", "os": "linux", "rootfs": null,
                "config": {
                    "Env": ["A=b"], "Cmd": ["run", "it"], "Entrypoint": ["/init"], "User": "1000", "Labels": {"a": "b"},
                    "WorkingDir": "/srv", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}, "/more": {}},
                },
            })
        );
        assert!(layer.contains(" b/file") && !layer.contains("./"), "{layer}");
        // The tree of the result has nothing but the archive.
        assert_eq!(fs::read_dir(fixture.tree()).expect("the tree").count(), 1);
    }

    #[test]
    fn equal_trees_give_equal_images_at_equal_times() {
        let pack = || {
            let fixture = fixture().at(1_700_000_000);
            fixture
                .run::<OciArchive>(json!({"architecture": "amd64", "filename": "image.tar"}))
                .expect("packed");
            assert_eq!(unpack(&fixture).0["created"], "2023-11-14T22:13:20Z");
            fs::read(fixture.tree().join("image.tar")).expect("there")
        };
        assert!(pack() == pack());
    }

    #[test]
    fn an_empty_tree_is_an_image_too() {
        let mut fixture = Fixture::new();
        fixture.input("tree", &[]);
        fixture.run::<OciArchive>(json!({"architecture": "amd64", "filename": "image.tar"})).expect("packed");
        assert_eq!(unpack(&fixture).1, "");
    }

    #[test]
    fn the_image_is_the_references() {
        for options in [everything(), json!({"architecture": "amd64", "filename": "image.tar", "config": {}})]
        {
            let there = fixture();
            let Some((succeeded, said)) = there.run_reference_assembler(OciArchive::NAME, options.clone())
            else {
                return;
            };
            assert!(succeeded, "{said}");
            let here = fixture();
            here.run::<OciArchive>(options).expect("packed");
            let [(mut here, layer), (mut there, its_layer)] = [unpack(&here), unpack(&there)];
            for config in [&mut here, &mut there] {
                assert!(config["created"].take().as_str().is_some_and(|time| time.ends_with('Z')));
            }
            assert_eq!((here, layer), (there, its_layer));
        }
    }
}
