//! `org.osbuild.dd`

use std::io::{Seek, SeekFrom};

use kiln_api::ModuleError;
use kiln_api::location::Location;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::copying::{self, Named};
use crate::support::root::Root;

/// Copies a part of a file, of an input, a mount or the tree, to the start of a file of the tree.
///
/// What the file has beyond the copied bytes stays; a file that does not exist is created. If the source ends early,
/// what there is is copied, and the stage says so.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The source: `input://NAME/path`, `mount://NAME/path` or `tree:///path`.
    #[schemars(extend("pattern" = "^(input|tree|mount)://."))]
    src: String,
    /// The path of the file in the tree.
    dst: String,
    /// The first byte to copy.
    #[serde(default)]
    src_offset: u64,
    /// How many bytes to copy.
    #[schemars(range(min = 1))]
    count: u64,
}

pub(crate) struct Dd;

impl Stage for Dd {
    const NAME: &'static str = "org.osbuild.dd";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { inputs: Some(json!({"type": "object"})), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let location = Location::parse(&options.src, &context.arguments)?;
        let from = location.to_path();
        let mut source = Named { file: Root::open(&location.root)?.read(&location.path)?, path: &from };
        source.file.seek(SeekFrom::Start(options.src_offset)).map_err(ModuleError::io("seek in", &from))?;
        let tree = Root::open(context.tree())?;
        let to = tree.shown(&options.dst);
        let mut target = Named { file: tree.overwrite(&options.dst)?, path: &to };
        let copied = copying::copy(&mut source, &mut target, options.count)?;
        if copied < options.count {
            context.say(format_args!(
                "`{}` ends early: copied {copied} of {} bytes",
                options.src, options.count
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn part(src: &str, dst: &str, offset: u64, count: u64) -> Value {
        json!({"src": src, "dst": dst, "src_offset": offset, "count": count})
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Dd>()
            .accepts([
                json!({"src": "input://image/disk.img", "dst": "a", "count": 1}),
                part("tree:///a", "/b", 0, 512),
                part("mount://m", "", 1, 1),
            ])
            .refuses([
                json!({}),
                json!({"src": "tree:///a", "dst": "b"}),
                json!({"src": "tree:///a", "count": 1}),
                part("/a", "b", 0, 1),
                part("tree://", "b", 0, 1),
                part("tree:///a", "b", 0, 0),
            ]);
        Agreement::stage::<Dd>().member("inputs").accepts([json!({"x": {"type": "y"}}), json!({})]);
    }

    fn prepare(fixture: &mut Fixture) {
        fixture.input("image", &[("disk.img", "0123456789")]);
        fixture.mount("root");
        fixture.file("old", "an older and longer file").file("bin/.keep", "");
        symlink("old", fixture.tree().join("link")).expect("a link");
    }

    #[test]
    fn trees_equal_the_reference() {
        for options in [
            part("input://image/disk.img", "new", 0, 10),
            json!({"src": "input://image/disk.img", "dst": "/new", "count": 4}),
            part("input://image/disk.img", "/old", 3, 4),
            part("input://image/disk.img", "link", 9, 1),
            part("tree:///old", "old", 3, 5),
            part("tree:///old", "bin/../copy", 0, 7),
            part("tree:///old", "bin", 0, 1),
            part("tree:///old", "no/such/directory", 0, 1),
            part("tree:///bin", "new", 0, 1),
            part("input://image/missing", "new", 0, 1),
            part("input://none/disk.img", "new", 0, 1),
            part("mount://root/missing", "new", 0, 1),
        ] {
            side_by_side::<Dd>(prepare, &options);
        }
    }

    #[test]
    fn a_source_that_ends_early_is_told() {
        for (offset, count, left) in [(8, 5, "89"), (10, 1, ""), (5000, 7, "")] {
            let [mut one, mut other] = [Fixture::new(), Fixture::new()];
            prepare(&mut one);
            prepare(&mut other);
            let options = part("input://image/disk.img", "new", offset, count);
            let said = one.run::<Dd>(options.clone()).expect("copied");
            let expected = format!("copied {} of {count} bytes\n", left.len());
            assert!(said.ends_with(&expected), "{said}");
            assert_eq!(fs::read_to_string(one.tree().join("new")).expect("it is there"), left);
            if let Some((succeeded, said)) = other.run_reference(Dd::NAME, options) {
                assert!(succeeded, "{said}");
                assert_eq!(one.listing(), other.listing());
            }
        }
    }

    #[test]
    fn more_than_the_buffer_is_copied_and_the_rest_kept() {
        let mut fixture = Fixture::new();
        let content: String = (0..500_000_u64).map(|number| format!("{number} ")).collect();
        fixture.input("image", &[("disk.img", &content)]);
        let target = fs::File::create(fixture.tree().join("disk")).expect("a file");
        target.set_len(16 << 20).expect("a hole");
        fixture.run::<Dd>(part("input://image/disk.img", "disk", 77, 3_000_001)).expect("copied");
        let copied = fs::read(fixture.tree().join("disk")).expect("it is there");
        assert_eq!(copied.len(), 16 << 20);
        assert!(copied[..3_000_001] == content.as_bytes()[77..3_000_078]);
        assert!(copied[3_000_001..].iter().all(|byte| *byte == 0));
        assert!(target.metadata().expect("it is there").blocks() < 8 << 11, "the rest is a hole still");
    }

    #[test]
    fn an_absolute_link_means_the_tree() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        let outside = tempfile::NamedTempFile::new().expect("a file");
        symlink(outside.path(), fixture.tree().join("out")).expect("a link");
        symlink("/old", fixture.tree().join("in")).expect("a link");
        fixture.run::<Dd>(part("tree:///old", "out", 0, 1)).expect_err("nothing of that name in the tree");
        assert_eq!(outside.path().metadata().expect("it exists").len(), 0);
        fixture.run::<Dd>(part("input://image/disk.img", "in", 0, 2)).expect("copied");
        assert_eq!(fs::read(fixture.tree().join("old")).expect("it is there")[..3], *b"01 ");
    }
}
