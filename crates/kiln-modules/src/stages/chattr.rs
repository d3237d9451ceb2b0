//! `org.osbuild.chattr`

use std::io;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use kiln_api::ModuleError;
use kiln_api::location::Location;
use kiln_api::stage::{Stage, StageContext};
use rustix::fs::{CWD, IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, openat};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;

/// Makes files and directories immutable, or changeable again.
///
/// Nobody changes, renames or removes what is immutable, not even root. Items are changed in the given order; each must
/// be a file or a directory, not a link to one. Needs a file system that has this attribute.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// What to change: `tree:///path` or `mount://NAME/path`.
    items: Option<IndexMap<Place, Change>>,
}

/// A location in the tree or in a mount.
#[derive(Deserialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(transparent)]
#[schemars(extend("pattern" = "^mount://[^/]+/|^tree:///"))]
struct Place(String);

/// What becomes of one file or directory.
#[derive(Deserialize, JsonSchema)]
struct Change {
    /// Whether it is immutable.
    immutable: bool,
}

pub(crate) struct Chattr;

impl Stage for Chattr {
    const NAME: &'static str = "org.osbuild.chattr";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let items = options.items.ok_or_else(|| ModuleError::option("items", "it is missing"))?;
        for (place, change) in &items {
            let path = find(&Location::parse(&place.0, &context.arguments)?)?;
            set(&path, change.immutable).map_err(ModuleError::io("change attributes of", &path))?;
        }
        Ok(())
    }
}

/// The path without links on the way; one at the end is not followed.
fn find(location: &Location) -> Result<PathBuf, ModuleError> {
    let root = Root::open(&location.root)?;
    if location.content || location.path.as_os_str().is_empty() {
        return root.resolve(&location.path);
    }
    root.resolve_parent(&location.path)
}

fn set(path: &Path, immutable: bool) -> io::Result<()> {
    let kind = path.symlink_metadata()?.file_type();
    // Opening a device does what its driver likes.
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::other("it is neither a file nor a directory"));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty())?;
    // The other attributes go back as they came, even those that nobody knows.
    let mut attributes = ioctl_getflags(&file)?;
    attributes.set(IFlags::IMMUTABLE, immutable);
    Ok(ioctl_setflags(&file, attributes)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Chattr>()
            .accepts([
                json!({}),
                json!({"items": {}}),
                json!({"items": {"tree:///a": {"immutable": true}}}),
                json!({"items": {"mount://root/": {"immutable": false, "ignored": 1}}}),
            ])
            .refuses([
                json!({"items": []}),
                json!({"items": {"tree:///a": {}}}),
                json!({"items": {"tree:///a": {"immutable": "yes"}}}),
                json!({"items": {"/a": {"immutable": true}}}),
                json!({"items": {"tree://a": {"immutable": true}}}),
                json!({"items": {"mount:///a": {"immutable": true}}}),
            ]);
        Agreement::stage::<Chattr>().member("inputs").refuses([json!({})]);
        Agreement::stage::<Chattr>().member("devices").accepts([json!({"x": {"type": "y"}})]);
        Agreement::stage::<Chattr>().member("mounts").accepts([json!([{"name": "x"}])]);
    }

    /// A tree whose files can be removed at the end.
    struct Prepared {
        fixture: Fixture,
        mount: PathBuf,
    }

    impl Prepared {
        fn new() -> Self {
            let mut fixture = Fixture::new();
            let mount = fixture.mount("root");
            std::fs::write(mount.join("file"), "").expect("a file");
            fixture.file("etc/file", "").file("etc/other", "");
            symlink("file", fixture.tree().join("etc/link")).expect("a link");
            symlink("/etc", fixture.tree().join("here")).expect("a link");
            rustix::fs::mkfifoat(CWD, fixture.tree().join("pipe"), Mode::RUSR).expect("a pipe");
            Self { fixture, mount }
        }

        /// Attributes and names, as `lsattr` shows them.
        fn shown(&self) -> Vec<String> {
            let mut lines = Vec::new();
            for directory in [self.fixture.tree(), self.mount.clone()] {
                let output = Command::new("lsattr").args(["-R", "-a", "-d"]).arg(&directory).output();
                let mut text = String::from_utf8(output.expect("lsattr").stdout).expect("text");
                let output = Command::new("lsattr").arg("-R").arg(&directory).output().expect("lsattr");
                text.push_str(&String::from_utf8(output.stdout).expect("text"));
                lines.extend(
                    text.lines()
                        .map(|line| line.replace(directory.to_str().expect("a plain path"), "DIRECTORY")),
                );
            }
            lines.sort();
            lines
        }
    }

    impl Drop for Prepared {
        fn drop(&mut self) {
            let paths = [self.fixture.tree(), self.mount.clone()];
            let _ = Command::new("chattr").args(["-R", "-f", "-i"]).args(paths).status();
        }
    }

    fn one(place: &str, immutable: bool) -> Value {
        json!({"items": {place: {"immutable": immutable}}})
    }

    #[test]
    fn root_attributes_equal_the_reference() {
        for options in [
            json!({}),
            json!({"items": {}}),
            one("tree:///etc/file", true),
            one("tree:///etc/file", false),
            one("tree:///etc", true),
            one("tree:///", true),
            one("mount://root/file", true),
            one("mount://root/", true),
            one("mount://none/file", true),
            one("tree:///etc/link", true),
            one("tree:///pipe", true),
            one("tree:///missing", true),
            json!({"items": {"tree:///etc/file": {"immutable": true}, "tree:///etc": {"immutable": true}}}),
        ] {
            let (one, other) = (Prepared::new(), Prepared::new());
            let result = one.fixture.run::<Chattr>(options.clone());
            let Some((succeeded, said)) = other.fixture.run_reference(Chattr::NAME, options.clone()) else {
                continue;
            };
            assert_eq!(result.is_ok(), succeeded, "{options}: {result:?}, the reference: {said}");
            assert_eq!(one.shown(), other.shown(), "{options}");
        }
    }

    #[test]
    fn root_immutable_files_cannot_be_written_until_it_is_taken_back() {
        let prepared = Prepared::new();
        let file = prepared.fixture.tree().join("etc/file");
        // The link is absolute, and means the tree.
        prepared.fixture.run::<Chattr>(one("tree:///here/file", true)).expect("changed");
        let error = std::fs::write(&file, "x").expect_err("immutable");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        prepared.fixture.run::<Chattr>(one("tree:///here/file", false)).expect("changed");
        std::fs::write(&file, "x").expect("changeable again");
    }

    #[test]
    fn links_and_pipes_are_refused() {
        let prepared = Prepared::new();
        for place in ["tree:///etc/link", "tree:///pipe"] {
            let error = prepared.fixture.run::<Chattr>(one(place, true)).expect_err(place).to_string();
            assert!(error.ends_with("it is neither a file nor a directory"), "{error}");
        }
    }
}
