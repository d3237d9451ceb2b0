//! `org.osbuild.untar`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;
use crate::support::single_file;

/// Unpacks a tar archive into the tree.
///
/// The build root's GNU `tar` unpacks the one file of the input `file`, with a decompressor of the build root if need
/// be. Owners, modes and times are those of the archive; extended attributes are not restored.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The directory of the tree to unpack into, which must exist.
    #[serde(default = "root")]
    prefix: String,
}

pub(crate) struct Untar;

impl Stage for Untar {
    const NAME: &'static str = "org.osbuild.untar";
    /// To restore SELinux labels that the running policy does not know.
    const CAPABILITIES: &'static [&'static str] = &["CAP_MAC_ADMIN"];
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { inputs: Some(single_file::inputs()), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let (directory, name) = single_file::input(context)?;
        Run::new("tar")
            // The suffix of a downloaded file says nothing: reading, tar goes by the content.
            .args(["--auto-compress", "-x", "-f"])
            .arg(directory.resolve(&name)?)
            .arg("-C")
            .arg(Root::open(context.tree())?.resolve(&options.prefix)?)
            .run()?;
        Ok(())
    }
}

fn root() -> String {
    "/".to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kiln_sys::command::Run;
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Untar>()
            .accepts([json!({}), json!({"prefix": "/opt"})])
            .refuses([json!({"prefix": 1}), json!({"more": 1})]);
        Agreement::stage::<Untar>()
            .member("inputs")
            .accepts([json!({"file": {}})])
            .refuses([json!({}), json!({"tree": {}})]);
    }

    #[test]
    fn root_archives_are_unpacked_with_owners_modes_and_times() {
        for (name, compression) in [("a", "--no-auto-compress"), ("b", "--gzip"), ("c", "--zstd")] {
            let mut fixture = Fixture::new();
            let input = fixture.input("file", &[(name, "")]);
            let scratch = tempfile::tempdir().expect("a directory");
            fs::create_dir(scratch.path().join("etc")).expect("made");
            fs::write(scratch.path().join("etc/motd"), "hello").expect("written");
            Run::new("tar")
                .args([compression, "--owner=7", "--group=8", "--mode=0640", "--mtime=@1000000000", "-cf"])
                .arg(input.join(name))
                .arg("-C")
                .arg(scratch.path())
                .arg("etc/motd")
                .run()
                .expect("packed");
            fixture.file("opt/.keep", "");
            fixture.run::<Untar>(json!({"prefix": "/opt"})).expect("unpacked");
            let metadata = fs::metadata(fixture.tree().join("opt/etc/motd")).expect("there");
            use std::os::unix::fs::MetadataExt;
            let facts = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777, metadata.mtime());
            assert_eq!(facts, (7, 8, 0o640, 1_000_000_000), "{compression}");
            fixture.run::<Untar>(json!({"prefix": "/missing"})).expect_err("the directory is not made");
        }
    }
}
