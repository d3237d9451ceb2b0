//! `org.osbuild.gunzip`

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use flate2::bufread::GzDecoder;
use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;
use crate::support::single_file;

/// How much is read and written at a time.
const BUFFER: usize = 1 << 20;

/// Decompresses a gzip file.
///
/// The input `file` must hold one file. It may consist of several compressed parts, and be padded with zeros, as
/// files from block devices are; anything else after the compressed data is an error.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The path of the decompressed file in the tree.
    path: String,
}

pub(crate) struct Gunzip;

impl Stage for Gunzip {
    const NAME: &'static str = "org.osbuild.gunzip";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { inputs: Some(single_file::inputs()), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let (directory, name) = single_file::input(context)?;
        let source = BufReader::with_capacity(BUFFER, directory.read(&name)?);
        let tree = Root::open(context.tree())?;
        let target = BufWriter::with_capacity(BUFFER, tree.create(&options.path)?);
        let shown = directory.shown(&name);
        decompress(source, target).map_err(|failure| match failure {
            Failure::Read(error) => ModuleError::io("decompress", &shown)(error),
            Failure::Write(error) => ModuleError::io("write", tree.shown(&options.path))(error),
        })
    }
}

/// Which side failed.
enum Failure {
    Read(io::Error),
    Write(io::Error),
}

fn decompress(mut source: impl BufRead, mut target: BufWriter<File>) -> Result<(), Failure> {
    let mut buffer = vec![0; BUFFER];
    let mut part = GzDecoder::new(&mut source);
    loop {
        loop {
            let length = match part.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Read(error)),
            };
            target.write_all(buffer.get(..length).unwrap_or_default()).map_err(Failure::Write)?;
        }
        let source = part.into_inner();
        if !another_part(source).map_err(Failure::Read)? {
            return target.flush().map_err(Failure::Write);
        }
        part = GzDecoder::new(source);
    }
}

/// Whether more compressed data follows; all that else may follow are zeros.
fn another_part(source: &mut impl BufRead) -> io::Result<bool> {
    /// The byte that every gzip header begins with.
    const HEADER: u8 = 0x1f;
    if source.fill_buf()?.first() == Some(&HEADER) {
        return Ok(true);
    }
    loop {
        let bytes = source.fill_buf()?;
        if bytes.is_empty() {
            return Ok(false);
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(io::Error::other("something else follows the compressed data"));
        }
        let length = bytes.len();
        source.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Gunzip>().accepts([json!({"path": "x"}), json!({"path": ""})]).refuses([
            json!({}),
            json!({"path": 1}),
            json!({"path": "x", "more": 1}),
        ]);
        Agreement::stage::<Gunzip>().member("inputs").accepts([json!({"file": {"type": "x"}})]).refuses([
            json!({}),
            json!({"tree": {}}),
            json!({"file": {}, "other": {}}),
        ]);
    }

    fn compressed(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).expect("compressed");
        encoder.finish().expect("compressed")
    }

    fn fixture(content: &[u8]) -> Fixture {
        let mut fixture = Fixture::new();
        let input = fixture.input("file", &[("data", "")]);
        std::fs::write(input.join("data"), content).expect("written");
        fixture.file("old/file", "older content");
        fixture
    }

    /// What the compressed file decompresses to; none if it does not.
    fn cases() -> Vec<(&'static str, Vec<u8>, Option<String>)> {
        let long: String = (0..400_000_u64).map(|number| format!("{}\n", number * number % 7919)).collect();
        let (one, other) = (compressed("one"), compressed("other"));
        let cut = one[..one.len() - 1].to_vec();
        let mut wrong = one.clone();
        wrong[one.len() - 5] ^= 1;
        vec![
            ("plain", one.clone(), Some("one".to_owned())),
            ("nothing in it", compressed(""), Some(String::new())),
            ("long", compressed(&long), Some(long)),
            ("two parts", [one.clone(), other.clone()].concat(), Some("oneother".to_owned())),
            ("padded", [one.clone(), vec![0; 3 * BUFFER / 2]].concat(), Some("one".to_owned())),
            ("padded, and garbage", [one.clone(), vec![0; 10], vec![1]].concat(), None),
            ("padded between", [one.clone(), vec![0; 10], other.clone()].concat(), None),
            ("garbage after it", [one.clone(), b"garbage".to_vec()].concat(), None),
            ("half a part after it", [one, other[..8].to_vec()].concat(), None),
            ("cut", cut, None),
            ("wrong checksum", wrong, None),
            ("no gzip file", b"plain text".to_vec(), None),
            ("empty", Vec::new(), None),
        ]
    }

    #[test]
    fn files_equal_the_reference() {
        for (name, content, expected) in cases() {
            let (one, other) = (fixture(&content), fixture(&content));
            let options = json!({"path": "/old/file"});
            let result = one.run::<Gunzip>(options.clone());
            assert_eq!(result.is_ok(), expected.is_some(), "{name}: {result:?}");
            if let Some(expected) = &expected {
                let written = std::fs::read(one.tree().join("old/file")).expect("it is there");
                assert!(written == expected.as_bytes(), "{name}");
            }
            let Some((succeeded, said)) = other.run_reference(Gunzip::NAME, options) else { continue };
            assert_eq!(result.is_ok(), succeeded, "{name}: {result:?}, the reference: {said}");
            if succeeded {
                assert_eq!(one.listing(), other.listing(), "{name}");
            }
        }
    }

    #[test]
    fn what_the_tool_wrote_is_read() {
        let text = "some text\n".repeat(10_000);
        let plain = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(plain.path(), &text).expect("written");
        let output = Command::new("gzip").args(["-9", "-c"]).arg(plain.path()).output().expect("gzip runs");
        let fixture = fixture(&output.stdout);
        fixture.run::<Gunzip>(json!({"path": "new"})).expect("decompressed");
        assert!(std::fs::read(fixture.tree().join("new")).expect("it is there") == text.as_bytes());
    }

    #[test]
    fn errors_name_the_file() {
        let fixture = fixture(b"plain text");
        let error = fixture.run::<Gunzip>(json!({"path": "new"})).expect_err("not compressed").to_string();
        assert!(error.starts_with("cannot decompress `") && error.contains("/inputs/file/data`"), "{error}");
        let error = fixture.run::<Gunzip>(json!({"path": "no/such/directory"})).expect_err("no directory");
        assert!(error.to_string().starts_with("cannot create `"), "{error}");
        for files in [&[][..], &[("a", ""), ("b", "")]] {
            let mut fixture = Fixture::new();
            fixture.input("file", files);
            let error = fixture.run::<Gunzip>(json!({"path": "x"})).expect_err("not one file").to_string();
            assert!(error.starts_with("the input `file` must hold one file"), "{error}");
        }
    }
}
