//! `org.osbuild.createaddrsize`
//!
//! The file has four numbers of four bytes, big-endian: the halves of the address to load the initial RAM disk at, and
//! the halves of its size.

use std::io::Write;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;

/// Where the initial RAM disk is loaded; the number has been the same since there are such files.
const ADDRESS: u32 = 0x0200_0000;

/// Writes the address and the size of an initial RAM disk to a file, as IBM Z machines need it to boot from a medium.
///
/// The address is always `0x02000000`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The path of the initial RAM disk in the tree.
    #[schemars(extend("pattern" = r"^\/?(?!\.\.)((?!\/\.\.\/).)+$"))]
    initrd: String,
    /// The path of the file to write in the tree.
    #[schemars(extend("pattern" = r"^\/?(?!\.\.)((?!\/\.\.\/).)+$"))]
    addrsize: String,
}

pub(crate) struct Createaddrsize;

impl Stage for Createaddrsize {
    const NAME: &'static str = "org.osbuild.createaddrsize";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let tree = Root::open(context.tree())?;
        let initrd = tree.resolve(&options.initrd)?;
        let size = initrd.metadata().map_err(ModuleError::io("examine", &initrd))?.len();
        let size = i32::try_from(size)
            .map_err(|_| ModuleError::option("initrd", format!("`{}` is too large", options.initrd)))?;
        let mut content = [0; 16];
        for (field, value) in content.chunks_exact_mut(4).zip([0, ADDRESS, 0, size.cast_unsigned()]) {
            field.copy_from_slice(&value.to_be_bytes());
        }
        tree.create(&options.addrsize)?
            .write_all(&content)
            .map_err(ModuleError::io("write", tree.shown(&options.addrsize)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn paths(initrd: &str, addrsize: &str) -> Value {
        json!({"initrd": initrd, "addrsize": addrsize})
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Createaddrsize>()
            .accepts([paths("images/initrd.img", "images/initrd.addrsize"), paths("/a", "/b/c")])
            .refuses([
                json!({}),
                json!({"initrd": "/a"}),
                paths("", "/b"),
                paths("/../a", "b"),
                paths("../a", "b"),
                paths("/a/../b", "c"),
            ]);
        Agreement::stage::<Createaddrsize>().member("inputs").refuses([json!({})]);
    }

    fn prepare(fixture: &mut Fixture) {
        fixture.file("images/initrd.img", &"x".repeat(70_000)).file("images/empty", "");
        std::os::unix::fs::symlink("initrd.img", fixture.tree().join("images/link")).expect("a link");
    }

    #[test]
    fn trees_equal_the_reference() {
        for options in [
            paths("/images/initrd.img", "/images/initrd.addrsize"),
            paths("images/empty", "addrsize"),
            paths("images/link", "images/empty"),
            paths("missing", "addrsize"),
            paths("images/empty", "no/such/directory"),
        ] {
            side_by_side::<Createaddrsize>(prepare, &options);
        }
    }

    #[test]
    fn the_file_has_address_and_size() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        fixture.run::<Createaddrsize>(paths("images/initrd.img", "out")).expect("written");
        let content = std::fs::read(fixture.tree().join("out")).expect("it is there");
        assert_eq!(content, [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }

    #[test]
    fn the_size_has_31_bits() {
        let prepare = |size: u64| {
            move |fixture: &mut Fixture| {
                let initrd = std::fs::File::create(fixture.tree().join("initrd")).expect("a file");
                initrd.set_len(size).expect("a hole");
            }
        };
        let options = paths("initrd", "out");
        let mut fixture = Fixture::new();
        prepare(i32::MAX as u64)(&mut fixture);
        fixture.run::<Createaddrsize>(options.clone()).expect("written");
        let content = std::fs::read(fixture.tree().join("out")).expect("it is there");
        assert_eq!(content[12..], [0x7f, 0xff, 0xff, 0xff]);
        side_by_side::<Createaddrsize>(prepare(1 << 31), &options);
        prepare(1 << 31)(&mut fixture);
        let error = fixture.run::<Createaddrsize>(options).expect_err("too large");
        assert_eq!(error.to_string(), "invalid option `initrd`: `initrd` is too large");
    }
}
