//! `org.osbuild.treeinfo`
//!
//! The manifest has the file as an object of sections; the stage adds the section `header`, and replaces the list of files
//! in `checksums` by a section with their checksums. A list of objects `{"name": …, "config": {…}}` is several sections,
//! `SECTION-NAME` each.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_api::ModuleError;
use kiln_api::location::normalise;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Number, Value, json};

use crate::checksum::Algorithm;
use crate::support::ini::Ini;
use crate::support::root::Root;

/// The version of the format.
const VERSION: &str = "1.0";
/// Only root reads the file.
const MODE: u32 = 0o600;
/// How much of a file is read at a time.
const BUFFER: usize = 1 << 20;

/// Writes a `.treeinfo` file, which describes an installation tree: its kernel and other images, and their checksums.
///
/// The file is of version 1.0 of the format, with the given sections; lists become values with commas. Directories that
/// are missing are made.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The path of the file in the tree.
    path: String,
    /// The sections of the file; others than these may be given too.
    #[schemars(with = "Sections")]
    treeinfo: Map<String, Value>,
}

#[expect(dead_code, reason = "a schema; the sections are written as they are")]
#[derive(JsonSchema)]
#[schemars(extend("patternProperties" = {
    "^images-.*$": {
        "description": "The images of a platform: paths by the kind of image.",
        "type": "object",
        "additionalProperties": {"type": "string"},
    },
    "^variant-.*$": {
        "description": "A variant.",
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "name": {"type": "string"},
            "packages": {"type": "string"},
            "repository": {"type": "string"},
            "type": {"type": "string"},
            "uid": {"type": "string"},
        },
    },
}))]
struct Sections {
    /// The release.
    release: Option<Release>,
    /// The tree.
    tree: Option<Tree>,
    /// What older readers need.
    general: Option<General>,
    /// The paths of files whose checksums go into the file.
    checksums: Option<Vec<String>>,
    /// The installer's image.
    stage2: Option<Stage2>,
}

#[expect(dead_code, reason = "a schema")]
#[derive(JsonSchema)]
struct Release {
    name: Option<String>,
    short: Option<String>,
    version: Option<String>,
}

#[expect(dead_code, reason = "a schema")]
#[derive(JsonSchema)]
struct Tree {
    arch: Option<String>,
    build_timestamp: Option<Number>,
    platforms: Option<Vec<String>>,
    variants: Option<Vec<String>>,
}

#[expect(dead_code, reason = "a schema")]
#[derive(JsonSchema)]
struct General {
    arch: Option<String>,
    family: Option<String>,
    name: Option<String>,
    packagedir: Option<String>,
    platforms: Option<Vec<String>>,
    repository: Option<String>,
    timestamp: Option<Number>,
    variant: Option<String>,
    version: Option<String>,
}

#[expect(dead_code, reason = "a schema")]
#[derive(JsonSchema)]
struct Stage2 {
    mainimage: Option<String>,
}

pub(crate) struct Treeinfo;

impl Stage for Treeinfo {
    const NAME: &'static str = "org.osbuild.treeinfo";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let Options { path, mut treeinfo } = options;
        let tree = Root::open(context.tree())?;
        treeinfo.insert("header".to_owned(), json!({"version": VERSION}));
        let files: Vec<_> = treeinfo
            .get("checksums")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|path| path.as_str().map(str::to_owned))
            .collect();
        if !files.is_empty() {
            let checksums = checksums(&tree, &files)?;
            let section: Map<_, _> =
                files.into_iter().zip(checksums.into_iter().map(Value::String)).collect();
            treeinfo.insert("checksums".to_owned(), Value::Object(section));
        }
        let text = sections(&treeinfo)?.text("=");

        if let Some(directory) = normalise(Path::new(&path)).parent() {
            tree.make_directories(directory)?;
        }
        let mut file = tree.create(&path)?;
        let permissions = std::fs::Permissions::from_mode(MODE);
        file.set_permissions(permissions)
            .map_err(ModuleError::io("change the mode of", tree.shown(&path)))?;
        file.write_all(text.as_bytes()).map_err(ModuleError::io("write", tree.shown(&path)))
    }
}

fn sections(treeinfo: &Map<String, Value>) -> Result<Ini, ModuleError> {
    let mut ini = Ini::default();
    for (name, content) in treeinfo {
        let option = format!("treeinfo.{name}");
        match content {
            Value::Object(values) => add(&mut ini, name, values, &option)?,
            Value::Array(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    let option = format!("{option}[{index}]");
                    let refuse = || ModuleError::option(&option, "it must have an object `config`");
                    let values = part.get("config").and_then(Value::as_object).ok_or_else(refuse)?;
                    let suffix = part.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
                    let name = suffix.map_or_else(|| name.clone(), |suffix| format!("{name}-{suffix}"));
                    add(&mut ini, &name, values, &option)?;
                }
            }
            _ => return Err(ModuleError::option(option, "a section must be an object or a list of objects")),
        }
    }
    Ok(ini)
}

fn add(ini: &mut Ini, section: &str, values: &Map<String, Value>, option: &str) -> Result<(), ModuleError> {
    ini.add(section, option)?;
    for (key, value) in values {
        let option = format!("{option}.{key}");
        let value = text(value).ok_or_else(|| {
            ModuleError::option(&option, "it must be a text, a number, a boolean or a list of texts")
        })?;
        ini.set(section, key, value, &option)?;
    }
    Ok(())
}

/// A value as the file has it.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => Some(decimal(number)),
        Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(Value::as_str).collect();
            Some(items?.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}

/// A number as Python shows it: an exponent has a sign and at least two digits.
fn decimal(number: &Number) -> String {
    let Some(value) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
    }
}

/// The checksums of files, in their order, on all processors: images are large.
fn checksums(tree: &Root, paths: &[String]) -> Result<Vec<String>, ModuleError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(index) else { return Ok(found) };
            found.push((index, checksum(tree, path)?));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let results: Vec<Result<Vec<_>, ModuleError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..processors.min(paths.len())).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<_>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let mut found: Vec<_> =
        results.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, checksum)| checksum).collect())
}

fn checksum(tree: &Root, path: &str) -> Result<String, ModuleError> {
    let mut file = tree.read(path)?;
    let mut hasher = Algorithm::Sha256.hasher();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish().as_str().to_owned()),
            Ok(length) => hasher.update(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ModuleError::io("read", tree.shown(path))(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn info(treeinfo: &Value) -> Value {
        json!({"path": "/a/b/.treeinfo", "treeinfo": treeinfo})
    }

    fn full() -> Value {
        json!({
            "release": {"name": "Some System", "short": "S", "version": "12"},
            "tree": {
                "arch": "x86_64",
                "build_timestamp": 1_700_000_000,
                "platforms": ["x86_64", "xen"],
                "variants": ["Server"],
            },
            "general": {
                "arch": "x86_64",
                "family": "Some System",
                "name": "Some System 12",
                "packagedir": "",
                "platforms": ["x86_64"],
                "repository": ".",
                "timestamp": 1_700_000_000.25,
                "variant": "Server",
                "version": "12",
            },
            "stage2": {"mainimage": "images/install.img"},
            "checksums": ["images/vmlinuz", "/images/initrd.img"],
            "images-x86_64": {"kernel": "images/vmlinuz", "initrd": "images/initrd.img"},
            "variant-Server": {
                "id": "Server",
                "name": "Server",
                "packages": "Packages",
                "repository": ".",
                "type": "variant",
                "uid": "Server",
            },
        })
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Treeinfo>()
            .accepts([
                info(&json!({})),
                info(&full()),
                info(&json!({"other": [1], "release": {"more": 1}, "variant-x": {"more": 1}})),
            ])
            .refuses([
                json!({}),
                json!({"path": "a"}),
                json!({"treeinfo": {}}),
                json!({"path": "a", "treeinfo": {}, "more": 1}),
                info(&json!([])),
                info(&json!({"release": "x"})),
                info(&json!({"release": {"version": 12}})),
                info(&json!({"tree": {"build_timestamp": "now"}})),
                info(&json!({"checksums": {"a": "b"}})),
                info(&json!({"images-x": {"kernel": 1}})),
                info(&json!({"variant-x": {"id": 1}})),
            ]);
        Agreement::stage::<Treeinfo>().member("inputs").refuses([json!({})]);
    }

    fn prepare(fixture: &mut Fixture) {
        fixture.file("images/vmlinuz", "kernel").file("images/initrd.img", &"x".repeat(BUFFER + 5));
    }

    #[test]
    fn trees_equal_the_reference() {
        for treeinfo in [
            json!({}),
            full(),
            json!({"checksums": []}),
            json!({"checksums": ["images/vmlinuz", "images/vmlinuz"]}),
            json!({"checksums": ["images/missing"]}),
            json!({"header": {"version": "0.3", "type": "x"}, "release": {}}),
            json!({"one": {"Key": true, "other": false, "Numbers": 7, "float": 0.5, "large": 1e22, "small": 1e-7}}),
            json!({"one": {"text": "two\nlines", "percent": "%%", "list": [], "empty": ""}}),
            json!({"variant": [{"name": "A", "config": {"id": "A"}}, {"config": {"id": "B"}}]}),
            json!({"variant-A": {"id": "old", "uid": "x"}, "variant": [{"name": "A", "config": {"id": "A"}}]}),
            json!({"one": {"percent": "100%"}}),
            json!({"one": {"list": [1]}}),
            json!({"one": "text"}),
            json!({"one": [{"name": "A"}]}),
            json!({"DEFAULT": {"a": "b"}}),
        ] {
            side_by_side::<Treeinfo>(prepare, &info(&treeinfo));
        }
        side_by_side::<Treeinfo>(prepare, &json!({"path": "top", "treeinfo": {}}));
        side_by_side::<Treeinfo>(prepare, &json!({"path": "images", "treeinfo": {}}));
    }

    #[test]
    fn the_file_has_header_and_checksums() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        fixture
            .run::<Treeinfo>(info(&json!({"checksums": ["images/vmlinuz"], "z": {"a": ["b", "c"]}})))
            .expect("written");
        let path = fixture.tree().join("a/b/.treeinfo");
        insta::assert_snapshot!(std::fs::read_to_string(&path).expect("it is there"), @"
        [checksums]
        images/vmlinuz=sha256:6923dd1bc0460082c5d55a831908c24a282860b7f1cd6c2b79cf1bc8857c639c

        [z]
        a=b,c

        [header]
        version=1.0
        ");
        assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o7777, MODE);
    }

    #[test]
    fn mistakes_are_explained() {
        let message = |treeinfo: Value| {
            Fixture::new().run::<Treeinfo>(info(&treeinfo)).expect_err("a mistake").to_string()
        };
        assert_eq!(
            message(json!({"a": {"b": {}}})),
            "invalid option `treeinfo.a.b`: it must be a text, a number, a boolean or a list of texts"
        );
        assert_eq!(
            message(json!({"a": [{"config": {}}, {"name": "x"}]})),
            "invalid option `treeinfo.a[1]`: it must have an object `config`"
        );
        assert_eq!(
            message(json!({"a": {"b": "5%"}})),
            "invalid option `treeinfo.a.b`: `5%` has a `%` that is neither `%%` nor begins `%(KEY)s`"
        );
    }
}
