//! `org.osbuild.tar`

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;
use crate::support::tar::{SORTED, attributes, pack};

/// Packs the tree into a tar archive.
///
/// The build root's GNU `tar` packs it, with a compressor of the build root if need be. Entries are sorted by name and
/// carry no times but those of changes to the content, so that equal trees give equal archives.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The name of the archive; compression adds no suffix.
    filename: String,
    /// The compression; none if left out.
    compression: Option<Compression>,
    /// Whether POSIX ACLs are packed.
    #[serde(default = "yes")]
    acls: bool,
    /// Whether SELinux labels are packed.
    #[serde(default = "yes")]
    selinux: bool,
    /// Whether extended attributes are packed.
    #[serde(default = "yes")]
    xattrs: bool,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Compression {
    Bzip2,
    Xz,
    Lzip,
    Lzma,
    Lzop,
    Gzip,
}

impl Compression {
    const fn option(self) -> &'static str {
        match self {
            Self::Bzip2 => "--bzip2",
            Self::Xz => "--xz",
            Self::Lzip => "--lzip",
            Self::Lzma => "--lzma",
            Self::Lzop => "--lzop",
            Self::Gzip => "--gzip",
        }
    }
}

pub(crate) struct Tar;

impl Stage for Tar {
    const NAME: &'static str = "org.osbuild.tar";
    /// To read SELinux labels that the running policy does not know.
    const CAPABILITIES: &'static [&'static str] = &["CAP_MAC_ADMIN"];
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let archive = Root::open(context.tree())?.resolve_parent(&options.filename)?;
        let mut words = vec![SORTED];
        words.extend(options.compression.map(Compression::option));
        words.extend(attributes(options.acls, options.selinux, options.xattrs));
        pack(super::source(context)?, ["."], &archive, words)
    }
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::assembler::<Tar>()
            .accepts([
                json!({"filename": "a.tar"}),
                json!({"filename": "", "compression": "lzop", "acls": false, "selinux": true, "xattrs": false}),
            ])
            .refuses([
                json!({}),
                json!({"filename": "a", "compression": "zstd"}),
                json!({"filename": "a", "acls": 1}),
                json!({"filename": "a", "format": "gnu"}),
            ]);
    }

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        let input = fixture.input("tree", &[("b/file", "content"), ("a", "one"), ("c/deep/er", "two")]);
        rustix::fs::setxattr(input.join("a"), "user.kiln", b"value", rustix::fs::XattrFlags::empty())
            .expect("xattr");
        symlink("a", input.join("link")).expect("a link");
        for path in ["b/file", "a", "c/deep/er", "c/deep", "c", "b", "."] {
            let file = fs::File::open(input.join(path)).expect(path);
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000))
                .expect("a time");
        }
        fixture
    }

    fn tar(fixture: &Fixture, name: &str, options: &[&str]) -> Vec<String> {
        let output = Command::new("tar").args(options).arg("-tf").arg(fixture.tree().join(name)).output();
        let output = output.expect("tar runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
    }

    /// All that `tar` tells, sorted (the reference packs in the order of the directory), without the link, whose time
    /// is now.
    fn told(fixture: &Fixture, name: &str) -> Vec<String> {
        let mut lines = tar(fixture, name, &["--xattrs", "-vv"]);
        lines.retain(|line| !line.contains("link"));
        lines.sort();
        lines
    }

    #[test]
    fn the_archive_has_the_whole_tree_in_order() {
        let fixture = fixture();
        fixture.run::<Tar>(json!({"filename": "out.tar"})).expect("packed");
        let expected = ["./", "./a", "./b/", "./b/file", "./c/", "./c/deep/", "./c/deep/er", "./link"];
        assert_eq!(tar(&fixture, "out.tar", &[]), expected);
    }

    #[test]
    fn compression_is_as_asked_for_whatever_the_name() {
        for (compression, magic) in
            [(json!("gzip"), &[0x1f, 0x8b][..]), (json!("xz"), b"\xfd7zXZ"), (Value::Null, b"./")]
        {
            let fixture = fixture();
            let mut options =
                json!({"filename": "out.tar.gz", "xattrs": false, "acls": false, "selinux": false});
            if !compression.is_null() {
                options["compression"] = compression.clone();
            }
            fixture.run::<Tar>(options).expect("packed");
            let archive = fs::read(fixture.tree().join("out.tar.gz")).expect("it is there");
            assert!(archive.starts_with(magic), "{compression}");
        }
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_result() {
        let fixture = fixture();
        fixture.run::<Tar>(json!({"filename": "../../out.tar"})).expect("packed");
        assert!(fixture.tree().join("out.tar").exists());
    }

    #[test]
    fn archives_equal_the_reference_but_for_the_order() {
        for options in [
            json!({"filename": "out.tar"}),
            json!({"filename": "out.tar", "xattrs": false, "acls": false, "selinux": false}),
            json!({"filename": "out.tar", "compression": "gzip"}),
            json!({"filename": "missing/out.tar"}),
        ] {
            let other = fixture();
            let Some((succeeded, said)) = other.run_reference_assembler(Tar::NAME, options.clone()) else {
                return;
            };
            let one = fixture();
            let result = one.run::<Tar>(options.clone());
            assert_eq!(result.is_ok(), succeeded, "{options}: {result:?}, {said}");
            if succeeded {
                let name = options["filename"].as_str().expect("a name");
                assert_eq!(told(&one, name), told(&other, name), "{options}");
            }
        }
    }
}
