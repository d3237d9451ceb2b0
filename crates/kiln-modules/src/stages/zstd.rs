//! `org.osbuild.zstd`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use zstd::stream::write::Encoder;

use crate::support::single_file;

/// Compresses a file with zstd.
///
/// The input `file` must hold one file. It is compressed at level 1, on all processors, with a checksum; the result
/// does not depend on how many processors there are.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The name of the compressed file.
    filename: String,
}

pub(crate) struct Zstd;

impl Stage for Zstd {
    const NAME: &'static str = "org.osbuild.zstd";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { inputs: Some(single_file::inputs()), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        // The level of the reference, which values time above size.
        const LEVEL: i32 = 1;
        single_file::convert(
            context,
            &options.filename,
            |target, size| {
                let mut encoder = Encoder::new(target, LEVEL)?;
                encoder.include_checksum(true)?;
                encoder.set_pledged_src_size(Some(size))?;
                encoder.multithread(single_file::threads())?;
                Ok(encoder)
            },
            Encoder::finish,
        )
    }
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
        Agreement::stage::<Zstd>().accepts([json!({"filename": "x"})]).refuses([
            json!({}),
            json!({"filename": 1}),
            json!({"filename": "x", "more": 1}),
        ]);
        Agreement::stage::<Zstd>().member("inputs").accepts([json!({"file": {"type": "x"}})]).refuses([
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
        fixture.run::<Zstd>(options.clone()).expect("compressed");
        fixture
    }

    fn decompress(fixture: &Fixture, name: &str) -> Vec<u8> {
        let path = fixture.tree().join(name);
        let output =
            Command::new("zstd").args(["-dc"]).stdin(std::fs::File::open(path).expect(name)).output();
        let output = output.expect("zstd runs");
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
            let error = fixture(files).run::<Zstd>(json!({"filename": "out"})).expect_err("not one file");
            assert!(error.to_string().starts_with("the input `file` must hold one file"), "{error}");
        }
    }

    #[test]
    fn size_is_near_that_of_the_reference() {
        if reference("zstd").is_none() {
            return;
        }
        let (one, other) = (fixture(&[("f", &content())]), fixture(&[("f", &content())]));
        let options = json!({"filename": "out"});
        one.run::<Zstd>(options.clone()).expect("compressed");
        let (succeeded, said) = other.run_reference(Zstd::NAME, options).expect("a reference");
        assert!(succeeded, "{said}");
        assert_eq!(decompress(&one, "out"), decompress(&other, "out"));
        let size = |fixture: &Fixture| fixture.tree().join("out").metadata().expect("it is there").len();
        assert!(size(&one) * 10 < size(&other) * 12, "{} bytes, there {}", size(&one), size(&other));
    }
}
