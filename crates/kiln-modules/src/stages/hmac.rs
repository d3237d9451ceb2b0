//! `org.osbuild.hmac`

use std::io::Write;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::location::normalise;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;

/// Writes keyed checksums of files beside them: of `DIRECTORY/NAME` to `DIRECTORY/.NAME.hmac`.
///
/// A system in FIPS mode checks its kernel against such a file before it boots. The checksum is made by the build root's
/// `sha512hmac` or its like, with the key that is built into it, and is told together with the name of the file.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The files, by their paths in the tree.
    #[schemars(length(min = 1))]
    paths: Vec<String>,
    /// The algorithm.
    algorithm: Algorithm,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Algorithm {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    fn program(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1hmac",
            Self::Sha224 => "sha224hmac",
            Self::Sha256 => "sha256hmac",
            Self::Sha384 => "sha384hmac",
            Self::Sha512 => "sha512hmac",
        }
    }
}

pub(crate) struct Hmac;

impl Stage for Hmac {
    const NAME: &'static str = "org.osbuild.hmac";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let tree = Root::open(context.tree())?;
        let program = options.algorithm.program();
        options.paths.iter().try_for_each(|path| checksum(&tree, path, Path::new(program)))
    }
}

fn checksum(tree: &Root, path: &str, program: &Path) -> Result<(), ModuleError> {
    let path = normalise(Path::new(path));
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Err(ModuleError::option("paths", "the tree itself has no checksum"));
    };
    // The program tells the name as it was given: only the last part of the path is wanted.
    let text = Run::new(program).arg(name).current_dir(tree.resolve(directory)?).output()?;
    let target = directory.join(format!(".{name}.hmac"));
    tree.create(&target)?.write_all(&text).map_err(ModuleError::io("write", tree.shown(&target)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Hmac>()
            .accepts([
                json!({"paths": ["/boot/vmlinuz"], "algorithm": "sha512"}),
                json!({"paths": ["a", "a"], "algorithm": "sha224"}),
            ])
            .refuses([
                json!({}),
                json!({"paths": ["a"]}),
                json!({"paths": [], "algorithm": "sha1"}),
                json!({"paths": ["a"], "algorithm": "md5"}),
                json!({"paths": "a", "algorithm": "sha256"}),
            ]);
        Agreement::stage::<Hmac>().member("inputs").refuses([json!({})]);
    }

    #[test]
    fn programs_are_named_by_the_algorithm() {
        for name in ["sha1", "sha224", "sha256", "sha384", "sha512"] {
            let algorithm: Algorithm = serde_json::from_value(json!(name)).expect(name);
            assert_eq!(algorithm.program(), format!("{name}hmac"));
        }
    }

    /// A stand-in, as distributions that boot in FIPS mode have the program, and Debian does not.
    fn program(directory: &Path) -> std::path::PathBuf {
        let path = directory.join("sha512hmac");
        let script =
            "#!/bin/sh\ntest -f \"$1\" || { echo \"no file $1\" >&2; exit 2; }\necho \"$(cat \"$1\")  $1\"\n";
        fs::write(&path, script).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }

    #[test]
    fn checksums_are_beside_the_files_and_tell_their_names() {
        let directory = tempfile::tempdir().expect("a directory");
        let program = program(directory.path());
        let fixture = Fixture::new();
        fixture.file("usr/lib/modules/1/vmlinuz", "kernel").file("top", "file at the top");
        symlink("/usr/lib/modules", fixture.tree().join("modules")).expect("a link");
        let tree = Root::open(&fixture.tree()).expect("a tree");
        for path in ["/modules/1/vmlinuz", "top"] {
            checksum(&tree, path, &program).expect(path);
        }
        let read = |path: &str| fs::read_to_string(fixture.tree().join(path)).expect(path);
        assert_eq!(read("usr/lib/modules/1/.vmlinuz.hmac"), "kernel  vmlinuz\n");
        assert_eq!(read(".top.hmac"), "file at the top  top\n");
        let error = checksum(&tree, "/usr/missing", &program).expect_err("no file").to_string();
        assert!(error.ends_with("failed with exit status 2: no file missing"), "{error}");
        assert!(!fixture.tree().join("usr/.missing.hmac").exists());
        checksum(&tree, "/no/directory", &program).expect_err("no directory");
        checksum(&tree, "/", &program).expect_err("no file");
    }

    #[test]
    fn without_the_program_it_fails_as_the_reference_does() {
        let options = json!({"paths": ["file"], "algorithm": "sha224"});
        let prepare = |fixture: &mut Fixture| {
            fixture.file("file", "content");
        };
        side_by_side::<Hmac>(prepare, &options);
    }
}
