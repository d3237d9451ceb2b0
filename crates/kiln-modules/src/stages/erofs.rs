//! `org.osbuild.erofs`

use std::ffi::OsString;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext, StageMeta};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::number::Number;
use crate::support::packing::{self, Source};

/// Packs a directory into an EROFS file system in a file of the tree.
///
/// Runs `mkfs.erofs` of the build root. With a source epoch, the file system's UUID is made from the stage's id, and equal
/// directories give equal files.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Path of the file.
    filename: String,
    /// What is packed, as `mount://root/usr` or `input://tree/usr`, instead of the input `tree`.
    source: Option<Source>,
    /// Regular expressions for paths, relative to the directory, that are left out with all that is below them.
    exclude_paths: Option<Vec<String>>,
    /// How files are compressed; not at all if nothing is said.
    compression: Option<Compression>,
    /// The largest compressed block in bytes.
    #[serde(rename = "cluster-size")]
    cluster_size: Option<Number>,
    /// What `mkfs.erofs` is told after `-E`: `all-fragments`, `dedupe`, `force-inode-compact`, `force-inode-extended`,
    /// `force-inode-blockmap`, `force-chunk-indexes`, `fragments`, `noinline_data`, `ztailpacking`.
    // Anything, in the words of draft 4, which has no `true` for that.
    #[schemars(length(min = 1), extend("items" = {}))]
    options: Option<Vec<Value>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Compression {
    /// The compressor.
    method: Method,
    /// How hard it tries; which levels there are depends on the compressor.
    level: Option<Number>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Method {
    Lz4,
    Lz4hc,
    Lzma,
    Zstd,
}

impl Method {
    const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Lz4hc => "lz4hc",
            Self::Lzma => "lzma",
            Self::Zstd => "zstd",
        }
    }
}

impl Options {
    fn arguments(
        &self,
        source: &Path,
        target: &Path,
        meta: &StageMeta,
    ) -> Result<Vec<OsString>, ModuleError> {
        let mut arguments: Vec<OsString> = vec![target.into(), source.into(), "--quiet".into()];
        let mut add = |flag: &str, value: String| arguments.extend([flag.into(), value.into()]);
        if let Some(Compression { method, level }) = &self.compression {
            let level = given("compression.level", level.as_ref())?.map(|level| format!(",{level}"));
            add("-z", format!("{}{}", method.name(), level.unwrap_or_default()));
        }
        if let Some(options) = &self.options {
            let words: Result<Vec<_>, _> = options.iter().enumerate().map(word).collect();
            add("-E", words?.join(","));
        }
        if let Some(size) = given("cluster-size", self.cluster_size.as_ref())? {
            add("-C", size.to_string());
        }
        for path in self.exclude_paths.iter().flatten() {
            add("--exclude-regex", path.clone());
        }
        // Who clamps times wants equal results from equal manifests.
        if meta.source_epoch.is_some() {
            add("-U", uuid(&meta.id));
        }
        Ok(arguments)
    }
}

/// A whole number; zero is as good as none.
fn given(option: &str, number: Option<&Number>) -> Result<Option<i64>, ModuleError> {
    let number = number.map(|number| number.whole(option)).transpose()?;
    Ok(number.filter(|number| *number != 0))
}

/// The reference's schema has no word on what is in the list.
fn word((index, option): (usize, &Value)) -> Result<&str, ModuleError> {
    option.as_str().ok_or_else(|| ModuleError::option(format!("options[{index}]"), "must be a text"))
}

/// A UUID of version 8, whose bits are a digest of the text.
fn uuid(text: &str) -> String {
    let mut digits: String = Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    digits.replace_range(12..13, "8");
    digits.replace_range(16..17, "8");
    for place in [20, 16, 12, 8] {
        digits.insert(place, '-');
    }
    digits
}

pub(crate) struct Erofs;

impl Stage for Erofs {
    const NAME: &'static str = "org.osbuild.erofs";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { inputs: Some(packing::inputs()), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let source = packing::source(context, options.source.as_ref())?;
        let target = packing::target(context, &options.filename)?;
        let arguments = options.arguments(&source, &target, &context.arguments.meta)?;
        Ok(Run::new("mkfs.erofs").args(arguments).run()?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
    use crate::stage_test::{attribute, output};

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        let long = "a line that compresses well\n".repeat(9000);
        fixture.input("tree", &[("file", "content"), ("boot/vmlinuz", "x"), ("usr/lib/long", &long)]);
        let mount = fixture.mount("root");
        fs::create_dir(mount.join("etc")).expect("create");
        fs::write(mount.join("etc/hosts"), "127.0.0.1").expect("write");
        fixture
    }

    /// The names in a directory of an image.
    fn names(image: &Path, directory: &str) -> Vec<String> {
        let path = format!("--path={directory}");
        let listed = output("dump.erofs", &["--ls", &path], image);
        let rows = listed.lines().skip_while(|line| !line.trim_start().starts_with("NID TYPE")).skip(1);
        let names =
            rows.filter_map(|row| row.split_whitespace().nth(2)).filter(|name| !name.starts_with('.'));
        names.map(str::to_owned).collect()
    }

    #[test]
    fn schema() {
        let with = |name: &str, value: Value| json!({"filename": "a", name: value});
        Agreement::stage::<Erofs>()
            .accepts([
                json!({"filename": "/a.img"}),
                with("source", json!("mount://root/usr")),
                with("source", json!("input://tree/")),
                with("exclude_paths", json!(["boot/.*", "root"])),
                with("compression", json!({"method": "lz4hc", "level": 9})),
                with("compression", json!({"method": "zstd"})),
                with("cluster-size", json!(131_072)),
                with("options", json!(["all-fragments", "dedupe"])),
            ])
            .refuses([
                json!({}),
                with("source", json!("tree:///usr")),
                with("compression", json!({})),
                with("compression", json!({"method": "xz"})),
                with("compression", json!({"method": "lz4", "level": "9"})),
                with("options", json!([])),
                with("cluster-size", json!("64K")),
            ]);
        Agreement::stage::<Erofs>()
            .around(json!({"options": {"filename": "a"}}))
            .member("inputs")
            .accepts([json!({"tree": {"type": "org.osbuild.tree"}})])
            .refuses([json!({}), json!({"tree": {}, "other": {}})]);
    }

    #[test]
    fn options_become_arguments() {
        let arguments = |options: Value, meta: Value| {
            let mut all = json!({"filename": "a"});
            all.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
            let options: Options = serde_json::from_value(all).expect("valid");
            let meta = serde_json::from_value(meta).expect("valid");
            let arguments = options.arguments(Path::new("/in"), Path::new("/out"), &meta);
            arguments.map(|words| words.join(" ".as_ref()).into_string().expect("text"))
        };
        let none = || json!({"id": "0"});
        let cases = [
            (json!({}), ""),
            (json!({"compression": {"method": "lzma"}}), " -z lzma"),
            (json!({"compression": {"method": "zstd", "level": 7.0}, "cluster-size": 0}), " -z zstd,7"),
            (json!({"cluster-size": 65536, "options": ["dedupe", "x"]}), " -E dedupe,x -C 65536"),
            (json!({"exclude_paths": ["a", "b/"]}), " --exclude-regex a --exclude-regex b/"),
        ];
        for (options, expected) in cases {
            assert_eq!(arguments(options, none()).expect("valid"), format!("/out /in --quiet{expected}"));
        }
        for (options, expected) in [
            (
                json!({"compression": {"method": "lz4hc", "level": 1.5}}),
                "invalid option `compression.level`: `1.5` must be a whole number",
            ),
            (json!({"options": ["dedupe", 1]}), "invalid option `options[1]`: must be a text"),
        ] {
            assert_eq!(arguments(options, none()).expect_err("refused").to_string(), expected);
        }
        assert_eq!(
            arguments(json!({}), json!({"id": "0", "source-epoch": 0})).expect("valid"),
            "/out /in --quiet -U 5feceb66-ffc8-8f38-8952-786c6d696c79"
        );
    }

    #[test]
    fn the_file_system_holds_what_was_asked_for() {
        let cases = [
            (json!({}), vec!["boot", "file", "usr"], vec!["long"]),
            (json!({"exclude_paths": ["^boot$", "long"]}), vec!["file", "usr"], vec![]),
            (
                json!({"compression": {"method": "lz4hc", "level": 9}, "cluster-size": 65536, "options": ["ztailpacking"]}),
                vec!["boot", "file", "usr"],
                vec!["long"],
            ),
        ];
        let fixture = fixture().at(1_700_000_000);
        let image = fixture.tree().join("image");
        for (mut options, top, below) in cases {
            options["filename"] = json!("/image");
            fixture.run::<Erofs>(options.clone()).expect("packed");
            assert_eq!([names(&image, "/"), names(&image, "/usr/lib")], [top, below], "{options}");
            assert_eq!(attribute(&image, "UUID"), uuid("0"));
            // The one large file is compressed or left out.
            let small = ["compression", "exclude_paths"].iter().any(|name| options.get(name).is_some());
            assert_eq!(fs::metadata(&image).expect("there").len() < 100_000, small, "{options}");
            fs::remove_file(&image).expect("remove");
        }
        fixture.run::<Erofs>(json!({"filename": "image", "source": "mount://root/"})).expect("packed");
        assert_eq!(names(&image, "/"), ["etc"]);
    }

    #[test]
    fn failures_are_in_the_words_of_mkfs() {
        let fixture = fixture();
        let options = json!({"filename": "image", "cluster-size": 5, "compression": {"method": "lz4"}});
        let error = fixture.run::<Erofs>(options).expect_err("no size").to_string();
        assert!(error.starts_with("`mkfs.erofs` failed with exit status 1: "), "{error}");
    }

    #[test]
    fn files_are_equal_to_the_references() {
        // In the superblock, of the one that makes it: checksum, time, and UUID.
        const OWN: [std::ops::Range<usize>; 3] = [1028..1032, 1048..1060, 1072..1088];
        let options = [
            json!({"filename": "image"}),
            json!({"filename": "/image", "exclude_paths": ["boot/.*", "file"]}),
            json!({"filename": "image", "source": "mount://root/etc/", "options": ["force-inode-extended"]}),
            json!({"filename": "image", "source": "input://tree/usr", "cluster-size": 65536,
                   "compression": {"method": "lz4hc", "level": 12}}),
        ];
        let fixture = fixture();
        let image = fixture.tree().join("image");
        let take = || {
            let mut content = fs::read(&image).expect("read");
            for range in OWN {
                content[range].fill(0);
            }
            fs::remove_file(&image).expect("remove");
            content
        };
        for options in options {
            let Some((succeeded, said)) = fixture.run_reference(Erofs::NAME, options.clone()) else { return };
            assert!(succeeded, "{said}");
            let theirs = take();
            fixture.run::<Erofs>(options.clone()).expect("packed");
            assert!(take() == theirs, "{options}");
        }
    }
}
