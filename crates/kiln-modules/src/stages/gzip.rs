//! `org.osbuild.gzip`

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::single_file;

/// Compresses a file with gzip.
///
/// The input `file` must hold one file. Neither its name nor its time goes into the result.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The name of the compressed file.
    filename: String,
    /// How hard to try: 1 is fast, 9 is small.
    #[serde(default = "default_level")]
    #[schemars(range(min = 1, max = 9))]
    level: u32,
}

pub(crate) struct Gzip;

impl Stage for Gzip {
    const NAME: &'static str = "org.osbuild.gzip";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { inputs: Some(single_file::inputs()), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        // The number of Unix in the header, as the program of that name writes it.
        const UNIX: u8 = 3;
        // The library's level 1 is made for network traffic: files are a fifth larger than those of `gzip -1`. Its
        // level 2 gives smaller ones than that, in half the time.
        const LEAST: u32 = 2;
        single_file::convert(
            context,
            &options.filename,
            |target, _size| {
                let header = GzBuilder::new().operating_system(UNIX);
                Ok(header.write(target, Compression::new(options.level.max(LEAST))))
            },
            GzEncoder::finish,
        )
    }
}

fn default_level() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::{Agreement, reference};
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Gzip>()
            .accepts([json!({"filename": "x"}), json!({"filename": "x", "level": 9})])
            .refuses([
                json!({}),
                json!({"filename": 1}),
                json!({"filename": "x", "more": 1}),
                json!({"filename": "x", "level": 0}),
                json!({"filename": "x", "level": 10}),
                json!({"filename": "x", "level": 1.5}),
            ]);
        Agreement::stage::<Gzip>().member("inputs").accepts([json!({"file": {"type": "x"}})]).refuses([
            json!({}),
            json!({"tree": {}}),
            json!({"file": {}, "other": {}}),
        ]);
    }

    fn content() -> String {
        (0..300_000_u64).map(|number| format!("{}\n", number * number % 7919)).collect()
    }

    fn fixture(files: &[(&str, &str)]) -> Fixture {
        let mut fixture = Fixture::new();
        fixture.input("file", files);
        fixture
    }

    fn compress(content: &str, options: &Value) -> Fixture {
        let fixture = fixture(&[("disk.img", content)]);
        fixture.run::<Gzip>(options.clone()).expect("compressed");
        fixture
    }

    fn decompress(fixture: &Fixture, name: &str) -> Vec<u8> {
        let path = fixture.tree().join(name);
        let output =
            Command::new("gzip").args(["-dc"]).stdin(std::fs::File::open(path).expect(name)).output();
        let output = output.expect("gzip runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn the_tool_reads_what_is_written() {
        for content in [content(), String::new(), "x".to_owned()] {
            let fixture = compress(&content, &json!({"filename": "/out"}));
            assert!(decompress(&fixture, "out") == content.as_bytes());
        }
    }

    #[test]
    fn equal_files_give_equal_bytes() {
        let options = json!({"filename": "out"});
        let read = |fixture: Fixture| std::fs::read(fixture.tree().join("out")).expect("it is there");
        let (one, other) = (read(compress(&content(), &options)), read(compress(&content(), &options)));
        assert!(one == other);
        assert!(one.len() < content().len() / 2);
    }

    #[test]
    fn only_one_file_is_compressed() {
        for files in [&[][..], &[("a", ""), ("b", "")]] {
            let error = fixture(files).run::<Gzip>(json!({"filename": "out"})).expect_err("not one file");
            assert!(error.to_string().starts_with("the input `file` must hold one file"), "{error}");
        }
    }

    #[test]
    fn size_is_near_that_of_the_reference() {
        if reference("gzip").is_none() {
            return;
        }
        let (one, other) = (fixture(&[("f", &content())]), fixture(&[("f", &content())]));
        let options = json!({"filename": "out"});
        one.run::<Gzip>(options.clone()).expect("compressed");
        let (succeeded, said) = other.run_reference(Gzip::NAME, options).expect("a reference");
        assert!(succeeded, "{said}");
        assert_eq!(decompress(&one, "out"), decompress(&other, "out"));
        let size = |fixture: &Fixture| fixture.tree().join("out").metadata().expect("it is there").len();
        assert!(size(&one) * 10 < size(&other) * 12, "{} bytes, there {}", size(&one), size(&other));
    }

    #[test]
    fn a_higher_level_gives_fewer_bytes() {
        let size = |level: u32| {
            let fixture = compress(&content(), &json!({"filename": "out", "level": level}));
            assert!(decompress(&fixture, "out") == content().as_bytes(), "{level}");
            fixture.tree().join("out").metadata().expect("it is there").len()
        };
        assert!(size(9) < size(1));
    }
}
