//! `org.osbuild.files`: single files, from the cache or from other pipelines' trees.
//!
//! Files of sources are named by their checksums. They are hard-linked, so mapping costs no space and next to
//! no time; where the cache is on another file system they are cloned or copied. The reply's `data` is
//! `{"files": {NAME: METADATA}}`, with the metadata that the references give.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::input::{Input, InputReply, InputRequest, Store};
use kiln_api::location::normalise;
use kiln_api::module::ModuleSchema;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Hands single files to a stage.
///
/// From sources (`org.osbuild.source`), references are checksums, and the files are named by them. From pipelines
/// (`org.osbuild.pipeline`), each reference names a `file` of the pipeline's tree. Metadata of a reference
/// (keys with a prefix, as `rpm.check_gpg`) is passed on to the stage.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {}

pub(crate) struct Files;

const SOURCE: &str = "org.osbuild.source";
const PIPELINE: &str = "org.osbuild.pipeline";

impl Input for Files {
    fn name(&self) -> &'static str {
        "org.osbuild.files"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            references: Some(references()),
            origins: &[SOURCE, PIPELINE],
            ..ModuleSchema::of::<Options>()
        }
    }

    fn map(&self, request: &InputRequest<'_>, store: &dyn Store) -> Result<InputReply, ModuleError> {
        let mut files = Map::new();
        let cache = store.source("org.osbuild.files");
        for (reference, options) in request.references {
            let file = options.get("file").and_then(Value::as_str);
            let name = match (request.origin, file) {
                (SOURCE, None) => {
                    provide(&cache, reference, request.target)?;
                    reference.clone()
                }
                (SOURCE, Some(_)) => {
                    let reason = "`file` is for references to pipelines: a checksum names a whole file";
                    return Err(ModuleError::option(format!("references.{reference}"), reason));
                }
                (_, file) => show(store, reference, file, request.target)?,
            };
            let metadata = options.get("metadata").cloned().unwrap_or_else(|| json!({}));
            files.insert(name, metadata);
        }
        let members = Map::from_iter([("data".to_owned(), json!({"files": files}))]);
        Ok(InputReply { path: request.target.to_owned(), members })
    }
}

/// Makes a source's file appear under its checksum.
fn provide(cache: &Path, checksum: &str, target: &Path) -> Result<(), ModuleError> {
    if checksum.is_empty() || checksum.contains('/') || checksum.starts_with('.') {
        return Err(ModuleError::option(format!("references.{checksum}"), "expected a checksum"));
    }
    let (from, to) = (cache.join(checksum), target.join(checksum));
    match fs::hard_link(&from, &to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {
            Err(ModuleError::io("find the downloaded file", from)(error))
        }
        // Another file system, one without links or with too many, or a file of somebody else.
        Err(error) if may_copy(&error) => {
            fs::copy(&from, &to).map(drop).map_err(ModuleError::io("copy to the input", from))
        }
        Err(error) => Err(ModuleError::io("link to the input", from)(error)),
    }
}

fn may_copy(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

/// Makes a file of a pipeline's tree appear under its path.
fn show(store: &dyn Store, id: &str, file: Option<&str>, target: &Path) -> Result<String, ModuleError> {
    let place = || format!("references.{id}.file");
    let file = file.ok_or_else(|| ModuleError::option(place(), "required for references to pipelines"))?;
    let path = normalise(Path::new(file));
    let name = path.to_str().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| ModuleError::option(place(), "expected the path of a file in the tree"))?;
    let mount_point = target.join(&path);
    if let Some(parent) = mount_point.parent() {
        fs::create_dir_all(parent).map_err(ModuleError::io("create directory", parent))?;
    }
    File::create(&mount_point).map_err(ModuleError::io("create", &mount_point))?;
    if store.read_tree_at(id, &mount_point, Some(name))? {
        Ok(name.to_owned())
    } else {
        Err(ModuleError::invalid(format!("there is no tree `{id}` to take the file `{name}` from")))
    }
}

/// Lists of checksums, lists of references with options, or references with options by name.
fn references() -> Value {
    let options = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "metadata": {
                "description": "What the stage is told of the file",
                "type": "object",
                "additionalProperties": false,
                "patternProperties": {r"^\w+[.]\w+$": {"additionalProperties": false}}
            },
            "file": {"description": "The file in the pipeline's tree", "type": "string"}
        }
    });
    json!({
        "description": "Checksums of files, or pipelines and the files in them",
        "anyOf": [
            {"type": "array", "items": {"type": "string"}},
            {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["id"],
                    "properties": {"id": {"type": "string"}, "options": options}
                }
            },
            {"type": "object", "minProperties": 1, "additionalProperties": options}
        ]
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::Instant;

    use kiln_api::module::Kind;

    use super::*;
    use crate::inputs::fixture::{Fixture, map};
    use crate::schema_agreement::Agreement;

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn schema() {
        let agreement = |origin: &str| {
            Agreement::of(Kind::Input, Files.name(), Files.schema())
                .member("references")
                .around(json!({"type": Files.name(), "origin": origin}))
        };
        let metadata = json!({"rpm.check_gpg": true, "rpm.other": {}});
        agreement(SOURCE)
            .accepts([
                json!([]),
                json!([ABC]),
                json!([{"id": ABC}, {"id": ABC, "options": {"metadata": metadata}}]),
                json!({ABC: {}}),
                json!({ABC: {"metadata": metadata}}),
            ])
            .refuses([
                json!({}),
                json!([{}]),
                json!("x"),
                json!({ABC: {"metadata": {"no-prefix": 1}}}),
                json!({ABC: {"other": 1}}),
            ]);
        agreement(PIPELINE).accepts([json!({"name:tree": {"file": "/x", "metadata": {}}})]);
        agreement("org.osbuild.other").refuses([json!([ABC])]);
    }

    #[test]
    fn files_of_sources_are_linked() {
        let fixture = Fixture::new();
        fixture.content(ABC, "abc");
        let references = json!({ABC: {"metadata": {"rpm.check_gpg": true}}});
        let reply = map(&Files, SOURCE, &references, &fixture).expect("mapped");
        assert_eq!(reply.path, fixture.target());
        assert_eq!(reply.members["data"], json!({"files": {ABC: {"rpm.check_gpg": true}}}));
        let mapped = fs::metadata(fixture.target().join(ABC)).expect("metadata");
        assert_eq!(mapped.nlink(), 2);
    }

    #[test]
    fn files_of_another_file_system_are_copied() {
        let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return };
        let fixture = Fixture::new();
        fixture.content(ABC, "abc");
        provide(&fixture.store(), ABC, elsewhere.path()).expect("copied");
        assert_eq!(fs::read(elsewhere.path().join(ABC)).expect("readable"), b"abc");
    }

    #[test]
    fn files_of_pipelines_are_mounted_at_their_path() {
        let fixture = Fixture::new();
        fixture.tree("1234", "disk/image.raw");
        let references = json!({"1234": {"file": "/disk//image.raw", "metadata": {"a.b": 1}}});
        let reply = map(&Files, PIPELINE, &references, &fixture).expect("mapped");
        assert_eq!(reply.members["data"], json!({"files": {"disk/image.raw": {"a.b": 1}}}));
        assert_eq!(
            fixture.mounts(),
            [("1234".to_owned(), fixture.target().join("disk/image.raw"), Some("disk/image.raw".to_owned()))]
        );
        assert!(fixture.target().join("disk/image.raw").is_file(), "the mount point");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let fixture = Fixture::new();
        let cases = [
            (SOURCE, json!({ABC: {}}), "cannot find the downloaded file"),
            (SOURCE, json!({"../../x": {}}), "expected a checksum"),
            (SOURCE, json!({ABC: {"file": "/x"}}), "for references to pipelines"),
            (PIPELINE, json!({"1234": {}}), "`references.1234.file`: required"),
            (PIPELINE, json!({"1234": {"file": "/.."}}), "expected the path"),
            (PIPELINE, json!({"1234": {"file": "x"}}), "no tree `1234`"),
        ];
        for (origin, references, expected) in cases {
            let error = map(&Files, origin, &references, &fixture).expect_err(expected).to_string();
            assert!(error.contains(expected), "{references}: {error}");
        }
    }

    #[test]
    fn a_thousand_files_are_mapped_in_milliseconds() {
        let fixture = Fixture::new();
        let names: Vec<_> = (0..1000).map(|number| format!("md5:{number:032x}")).collect();
        names.iter().for_each(|name| fixture.content(name, "x"));
        let references = names.iter().map(|name| (name.clone(), json!({}))).collect::<Map<_, _>>().into();
        let start = Instant::now();
        map(&Files, SOURCE, &references, &fixture).expect("mapped");
        // Some 10 ms; the bound is for a machine that is busy with other tests.
        assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
    }
}
