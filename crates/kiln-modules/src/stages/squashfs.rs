//! `org.osbuild.squashfs`

use std::ffi::OsString;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::packing::{self, Source};

/// Packs a directory into a squashfs file system in a file of the tree.
///
/// Runs `mksquashfs` of the build root. With a source epoch, equal directories give equal files. To a file that is there and
/// holds a squashfs, `mksquashfs` adds.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Path of the file.
    filename: String,
    /// What is packed, as `mount://root/usr` or `input://tree/usr`, instead of the input `tree`.
    source: Option<Source>,
    /// Regular expressions for paths, relative to the directory, that are left out with all that is below them; each
    /// `/` divides one expression for a name from the next.
    exclude_paths: Option<Vec<String>>,
    /// How blocks are compressed; with gzip if nothing is said.
    compression: Option<Compression>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Compression {
    /// The compressor.
    method: Method,
    /// What the compressor is told.
    options: Option<CompressionOptions>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Method {
    Gzip,
    Lz4,
    Xz,
    Zstd,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CompressionOptions {
    /// The processor whose machine code is to be compressed better; for `xz` only.
    bcj: Option<Bcj>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Bcj {
    X86,
    Arm,
    Armthumb,
    Powerpc,
    Sparc,
    Ia64,
}

impl Method {
    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

impl Bcj {
    const fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86",
            Self::Arm => "arm",
            Self::Armthumb => "armthumb",
            Self::Powerpc => "powerpc",
            Self::Sparc => "sparc",
            Self::Ia64 => "ia64",
        }
    }
}

impl Options {
    fn arguments(&self, source: &Path, target: &Path) -> Vec<OsString> {
        // A bar of progress is for terminals.
        let mut arguments = vec![source.into(), target.into(), "-no-progress".into()];
        if let Some(compression) = &self.compression {
            arguments.extend(["-comp", compression.method.name()].map(OsString::from));
            if let Some(bcj) = compression.options.as_ref().and_then(|options| options.bcj) {
                arguments.extend(["-Xbcj", bcj.name()].map(OsString::from));
            }
        }
        // All that follows `-e` is left out.
        if let Some(paths) = self.exclude_paths.as_ref().filter(|paths| !paths.is_empty()) {
            arguments.extend(["-regex", "-e"].map(OsString::from));
            arguments.extend(paths.iter().map(OsString::from));
        }
        arguments
    }
}

pub(crate) struct Squashfs;

impl Stage for Squashfs {
    const NAME: &'static str = "org.osbuild.squashfs";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { inputs: Some(packing::inputs()), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let source = packing::source(context, options.source.as_ref())?;
        let target = packing::target(context, &options.filename)?;
        Ok(Run::new("mksquashfs").args(options.arguments(&source, &target)).run()?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
    use crate::stage_test::output;

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        let long = "a line that compresses well\n".repeat(9000);
        fixture.input("tree", &[("file", "content"), ("boot/vmlinuz", "x"), ("usr/lib/long", &long)]);
        let mount = fixture.mount("root");
        fs::create_dir(mount.join("etc")).expect("create");
        fs::write(mount.join("etc/hosts"), "127.0.0.1").expect("write");
        fixture
    }

    fn paths(image: &Path) -> Vec<String> {
        let listed = output("unsquashfs", &["-ls", "-d", ""], image);
        listed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn schema() {
        let with = |name: &str, value: Value| json!({"filename": "a", name: value});
        Agreement::stage::<Squashfs>()
            .accepts([
                json!({"filename": "/a.img"}),
                with("source", json!("mount://root/usr")),
                with("source", json!("input://tree/")),
                with("exclude_paths", json!(["boot/.*", "root"])),
                with("compression", json!({"method": "xz", "options": {"bcj": "armthumb"}})),
                with("compression", json!({"method": "lz4", "options": {}})),
            ])
            .refuses([
                json!({}),
                with("source", json!("tree:///usr")),
                with("source", json!("input:///usr")),
                with("compression", json!({})),
                with("compression", json!({"method": "lzo"})),
                with("compression", json!({"method": "xz", "options": {"bcj": "mips"}})),
                with("compression", json!({"method": "xz", "options": {"level": 9}})),
            ]);
        Agreement::stage::<Squashfs>()
            .around(json!({"options": {"filename": "a"}}))
            .member("inputs")
            .accepts([json!({"tree": {"type": "org.osbuild.tree"}})])
            .refuses([json!({}), json!({"tree": {}, "other": {}})]);
    }

    #[test]
    fn the_file_system_holds_what_was_asked_for() {
        let cases = [
            (json!({}), "gzip", vec!["/boot", "/boot/vmlinuz", "/file", "/usr", "/usr/lib", "/usr/lib/long"]),
            (
                json!({"compression": {"method": "xz", "options": {"bcj": "x86"}}, "exclude_paths": ["boot", "usr/l.*"]}),
                "xz",
                vec!["/file", "/usr"],
            ),
            (
                json!({"source": "mount://root/", "compression": {"method": "lz4"}}),
                "lz4",
                vec!["/etc", "/etc/hosts"],
            ),
            (
                json!({"source": "input://tree/boot", "compression": {"method": "zstd"}}),
                "zstd",
                vec!["/vmlinuz"],
            ),
        ];
        let fixture = fixture();
        for (mut options, compression, expected) in cases {
            options["filename"] = json!("/image");
            fixture.run::<Squashfs>(options.clone()).expect("packed");
            let image = fixture.tree().join("image");
            assert_eq!(paths(&image), expected, "{options}");
            let about = output("unsquashfs", &["-s"], &image);
            assert!(about.lines().any(|line| line == format!("Compression {compression}")), "{about}");
            fs::remove_file(image).expect("remove");
        }
    }

    #[test]
    fn failures_are_in_the_words_of_mksquashfs() {
        let fixture = fixture();
        let options =
            json!({"filename": "image", "compression": {"method": "gzip", "options": {"bcj": "x86"}}});
        let error = fixture.run::<Squashfs>(options).expect_err("gzip has no filters").to_string();
        assert!(error.starts_with("`mksquashfs` failed with exit status 1: "), "{error}");
        assert!(error.contains("-Xbcj"), "{error}");
        let error = fixture.run::<Squashfs>(json!({"filename": "no/image"})).expect_err("no directory");
        assert!(error.to_string().ends_with("No such file or directory (os error 2)"), "{error}");
    }

    #[test]
    fn files_are_equal_to_the_references() {
        // The only time in a file that is not that of a file.
        const MADE: std::ops::Range<usize> = 8..12;
        let options = [
            json!({"filename": "image"}),
            json!({"filename": "/image", "exclude_paths": ["boot/.*", "file"], "compression": {"method": "zstd"}}),
            json!({"filename": "image", "source": "mount://root/etc/", "compression": {"method": "lz4"}}),
            json!({"filename": "image", "source": "mount:///", "compression": {"method": "xz", "options": {"bcj": "arm"}}}),
        ];
        let fixture = fixture();
        let image = fixture.tree().join("image");
        let take = || {
            let mut content = fs::read(&image).expect("read");
            content[MADE].fill(0);
            fs::remove_file(&image).expect("remove");
            content
        };
        for options in options {
            let Some((succeeded, said)) = fixture.run_reference(Squashfs::NAME, options.clone()) else {
                return;
            };
            assert!(succeeded, "{said}");
            let theirs = take();
            fixture.run::<Squashfs>(options.clone()).expect("packed");
            assert!(take() == theirs, "{options}");
        }
    }
}
