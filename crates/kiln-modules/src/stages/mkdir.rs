//! `org.osbuild.mkdir`

use kiln_api::ModuleError;
use kiln_api::location::Location;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::number::Number;
use crate::support::root::Root;

/// Makes directories in the tree or in a mounted file system.
///
/// Directories are made in the given order, on request with the directories above them. What exists already
/// is an error or, on request, left as it is: use `org.osbuild.chmod` to change its mode. The umask (022) is
/// taken from every mode, so `0777` becomes `0755`; `org.osbuild.chmod` sets exact modes.
///
/// Paths are `/path`, `tree:///path` or `mount://NAME/path`. Relative paths mean the tree, with a warning.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The directories to make.
    paths: Option<Vec<Directory>>,
}

/// One directory to make.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Directory {
    /// Where: a path in the tree, or a `tree://` or `mount://` location.
    #[schemars(extend("pattern" = r"^(mount://.+|tree://.+|\/?(?!\.\.)((?!\/\.\.\/).)+$)"))]
    path: String,
    /// The mode as a decimal number (448 is octal 0700); the umask is taken from it.
    mode: Option<Number>,
    /// Whether to make the directories above as well, with mode 0777 less the umask.
    #[serde(default)]
    parents: bool,
    /// Whether it is all right if the directory exists.
    #[serde(default)]
    exist_ok: bool,
}

pub(crate) struct Mkdir;

impl Stage for Mkdir {
    const NAME: &'static str = "org.osbuild.mkdir";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let paths = options.paths.ok_or_else(|| ModuleError::option("paths", "it is missing"))?;
        for directory in &paths {
            make(directory, context)?;
        }
        Ok(())
    }
}

fn make(directory: &Directory, context: &mut StageContext) -> Result<(), ModuleError> {
    let mut path = directory.path.clone();
    if !path.contains("://") && !path.starts_with('/') {
        context.say("WARNING: relative path used, this is discouraged!");
        path.insert(0, '/');
    }
    // The mode is only asked for, and the umask takes from it: that is what this stage's documentation has always
    // promised, and what manifests rely on that set exact modes with a `chmod` stage after it.
    let mode = directory.mode.as_ref().map_or(Ok(0o777), |mode| mode.mode("mode"))?;
    let location = Location::parse(&path, &context.arguments)?;
    let root = Root::open(&location.root)?;
    if directory.parents
        && let Some(parent) = location.path.parent()
    {
        root.make_directories(parent)?;
    }
    match root.make_directory(&location.path, mode) {
        Err(ModuleError::Io { source, .. })
            if source.kind() == std::io::ErrorKind::AlreadyExists
                && directory.exist_ok
                // As in the reference, a file in the place of the directory only matters with `parents`.
                && (!directory.parents || root.is_directory(&location.path)) =>
        {
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn one(path: &str) -> Value {
        json!({"paths": [{"path": path}]})
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Mkdir>()
            .accepts([
                json!({}),
                json!({"paths": []}),
                json!({"paths": [
                    {"path": "/a", "mode": 448},
                    {"path": "a/b", "mode": 448.0, "parents": true, "exist_ok": false},
                    {"path": "tree:///a/../b"},
                    {"path": "mount://root/a"},
                ]}),
                one("/a/.."),
                one("/"),
            ])
            .refuses([
                json!({"paths": "/a"}),
                json!({"paths": [{"path": "/a", "mode": "0700"}]}),
                json!({"paths": [{"path": "/a", "unknown": true}]}),
                json!({"paths": [{"mode": 448}]}),
                json!({"paths": null}),
                one(""),
                one("../a"),
                one("/a/../b"),
            ]);
        Agreement::stage::<Mkdir>().member("inputs").refuses([json!({})]);
        Agreement::stage::<Mkdir>().member("devices").accepts([json!({"a": {"type": "x"}})]);
        Agreement::stage::<Mkdir>().member("mounts").accepts([json!([{"name": "a"}])]);
    }

    fn prepare(fixture: &mut Fixture) {
        fixture.mount("disk");
        fixture.file("old/file", "");
        symlink("old", fixture.tree().join("link")).expect("a link");
    }

    fn cases() -> Vec<(Value, bool)> {
        let path = |path: &str, parents: bool, exist_ok: bool| json!({"path": path, "parents": parents, "exist_ok": exist_ok});
        let paths = |paths: &[Value]| json!({"paths": paths});
        vec![
            (json!({}), false),
            (paths(&[]), true),
            (paths(&[json!({"path": "/a", "mode": 0o700}), json!({"path": "/a/b", "mode": 0o1777})]), true),
            (paths(&[json!({"path": "a", "mode": 0o2755}), path("b/c/d", true, false)]), true),
            (paths(&[json!({"path": "/p/q/r", "parents": true, "mode": 0o700})]), true),
            (paths(&[path("/no/parent", false, false)]), false),
            (paths(&[path("/old", false, false)]), false),
            (paths(&[path("/old", false, true), path("/old", true, true)]), true),
            (paths(&[path("/old", true, false)]), false),
            (paths(&[path("/old/file", false, true)]), true),
            (paths(&[path("/old/file", true, true)]), false),
            (paths(&[path("/link/new", false, false), path("/link", true, true)]), true),
            (paths(&[path("mount://disk/x/y", true, false), path("tree:///z", false, false)]), true),
            (paths(&[path("mount://other/x", true, false)]), false),
        ]
    }

    #[test]
    fn directories_are_made_or_not() {
        for (options, succeeds) in cases() {
            let mut fixture = Fixture::new();
            prepare(&mut fixture);
            assert_eq!(fixture.run::<Mkdir>(options.clone()).is_ok(), succeeds, "{options}");
        }
        let mut fixture = Fixture::new();
        let mount = fixture.mount("disk");
        let said = fixture
            .run::<Mkdir>(json!({"paths": [{"path": "x/y", "parents": true}, {"path": "mount://disk/z"}]}))
            .expect("made");
        assert_eq!(said, "WARNING: relative path used, this is discouraged!\n");
        assert!(fixture.tree().join("x/y").is_dir() && mount.join("z").is_dir());
    }

    #[test]
    fn trees_equal_the_reference() {
        for (options, _) in cases() {
            side_by_side::<Mkdir>(prepare, &options);
        }
    }

    #[test]
    fn a_link_does_not_lead_out_of_the_tree() {
        let fixture = Fixture::new();
        let outside = tempfile::tempdir().expect("a directory");
        symlink(outside.path(), fixture.tree().join("out")).expect("a link");
        let error = fixture.run::<Mkdir>(one("/out/x")).expect_err("there is no such directory in the tree");
        assert!(error.to_string().contains("No such file"), "{error}");
        assert_eq!(std::fs::read_dir(outside.path()).expect("it exists").count(), 0);
    }
}
