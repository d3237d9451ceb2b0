//! `org.osbuild.implantisomd5`

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;

/// What descriptors of a disc begin with, after a byte for their kind, and where the first one is.
const MAGIC: &[u8; 5] = b"CD001";
const MAGIC_PLACE: u64 = 16 * 2048 + 1;

/// Writes a checksum of the image of a disc into the image, with which an installer checks the disc before it starts.
///
/// Runs `implantisomd5` of the build root. The checksum is where discs have room for the applications that made them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The path of the image in the tree.
    filename: String,
}

pub(crate) struct Implantisomd5;

impl Stage for Implantisomd5 {
    const NAME: &'static str = "org.osbuild.implantisomd5";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let image = Root::open(context.tree())?.resolve(&options.filename)?;
        check(&image)?;
        Ok(Run::new("implantisomd5").arg(image).current_dir(context.tree()).run()?)
    }
}

/// Refuses what is no image of a disc: `implantisomd5` would look for the end of its descriptors for ever.
fn check(image: &Path) -> Result<(), ModuleError> {
    let mut magic = [0; MAGIC.len()];
    let read = File::open(image).and_then(|file| file.read_exact_at(&mut magic, MAGIC_PLACE));
    match read {
        Ok(()) if magic == *MAGIC => Ok(()),
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(ModuleError::io("read", image)(error)),
        _ => Err(ModuleError::invalid(format!("`{}` is no image of a disc (ISO 9660)", image.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Implantisomd5>().accepts([json!({"filename": "/disc.iso"})]).refuses([
            json!({}),
            json!({"filename": 1}),
            json!({"filename": "a", "more": 1}),
        ]);
        Agreement::stage::<Implantisomd5>().member("inputs").refuses([json!({})]);
    }

    fn fixture() -> Fixture {
        let fixture = Fixture::new();
        fixture.file("content/file", &"text ".repeat(100_000));
        let tree = fixture.tree();
        let make = ["-quiet", "-V", "DISC", "--modification-date=2024010203040500", "-o"];
        let made =
            Command::new("xorrisofs").args(make).args([tree.join("disc.iso"), tree.join("content")]).status();
        assert!(made.expect("xorrisofs").success());
        fixture
    }

    #[test]
    fn discs_are_checked() {
        let fixture = fixture();
        let image = fixture.tree().join("disc.iso");
        let check =
            || Command::new("checkisomd5").arg(&image).output().expect("checkisomd5").status.success();
        assert!(!check(), "there is nothing to check yet");
        fixture.run::<Implantisomd5>(json!({"filename": "/disc.iso"})).expect("written");
        assert!(check());
        let mut content = fs::read(&image).expect("read");
        let place = content.len() / 2;
        content[place] ^= 1;
        fs::write(&image, content).expect("written");
        assert!(!check());
    }

    #[test]
    fn discs_are_the_references() {
        let there = fixture();
        let options = json!({"filename": "disc.iso"});
        let Some((succeeded, said)) = there.run_reference(Implantisomd5::NAME, options.clone()) else {
            return;
        };
        assert!(succeeded, "{said}");
        // The same disc, as two of them were not made at the same time.
        let here = Fixture::new();
        let image = here.tree().join("disc.iso");
        let theirs = fs::read(there.tree().join("disc.iso")).expect("read");
        let mut plain = theirs.clone();
        // What the application wrote: 512 bytes after the descriptor's first 883.
        plain[32_768 + 883..32_768 + 883 + 512].fill(b' ');
        fs::write(&image, &plain).expect("written");
        here.run::<Implantisomd5>(options).expect("written");
        assert!(fs::read(&image).expect("read") == theirs);
    }

    #[test]
    fn what_is_no_disc_is_refused() {
        let fixture = Fixture::new();
        fixture.file("text", &"no disc ".repeat(10_000)).file("short", "");
        for name in ["text", "short"] {
            let error = fixture.run::<Implantisomd5>(json!({"filename": name})).expect_err(name).to_string();
            assert!(error.ends_with(&format!("{name}` is no image of a disc (ISO 9660)")), "{error}");
        }
        let error = fixture.run::<Implantisomd5>(json!({"filename": "none"})).expect_err("none").to_string();
        assert!(error.contains("none`: No such file"), "{error}");
    }
}
