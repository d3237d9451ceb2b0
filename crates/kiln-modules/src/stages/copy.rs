//! `org.osbuild.copy`

use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::location::Location;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::root::Root;

/// Copies files and directories from inputs, mounts or the tree to mounts or the tree.
///
/// Everything is kept: owners, modes, times, links, extended attributes, holes. Where the file system can, data
/// is shared instead of copied. Items are copied in the given order, by the build root's `cp`.
///
/// A source that ends in `/` means the content of the directory, any other the directory itself; it becomes the
/// destination or, if that is a directory already, goes into it. A destination that is a link to a file
/// is written through, unless `remove_destination` asks for the link to be replaced.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// What to copy.
    #[schemars(length(min = 1))]
    paths: Vec<Item>,
}

/// One thing to copy.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Item {
    /// The source: `input://NAME/path`, `mount://NAME/path` or `tree:///path`.
    #[schemars(extend("pattern" = "^(input://[^/]+/|mount://[^/]+/|tree:///)"))]
    from: String,
    /// The destination: `mount://NAME/path` or `tree:///path`.
    #[schemars(extend("pattern" = "^(mount://[^/]+/|tree:///)"))]
    to: String,
    /// Whether to remove a file at the destination first. Has no effect on directories.
    #[serde(default)]
    remove_destination: bool,
}

pub(crate) struct Copy;

impl Stage for Copy {
    const NAME: &'static str = "org.osbuild.copy";
    /// To write SELinux labels that the running policy does not know.
    const CAPABILITIES: &'static [&'static str] = &["CAP_MAC_ADMIN"];
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { inputs: Some(json!({"type": "object"})), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        for item in &options.paths {
            let from = Location::parse(&item.from, &context.arguments)?;
            let to = Location::parse(&item.to, &context.arguments)?;
            context.say(format_args!(
                "copying '{}' -> '{}'",
                from.to_path().display(),
                to.to_path().display()
            ));
            let run = Run::new("cp").args(["-a", "--reflink=auto"]);
            let run = if item.remove_destination { run.arg("--remove-destination") } else { run };
            run.arg("--").arg(source(&from)?).arg(destination(&to, item.remove_destination)?).run()?;
        }
        Ok(())
    }
}

/// What `cp` is told to copy: no link on the way leads out of the root, a link at the end is copied itself.
fn source(location: &Location) -> Result<PathBuf, ModuleError> {
    let root = Root::open(&location.root)?;
    if location.content || location.path.as_os_str().is_empty() {
        return Ok(with_content(root.resolve(&location.path)?, location.content));
    }
    root.resolve_parent(&location.path)
}

/// Where `cp` is told to copy to. A link at the end is followed here, inside the root, just as `cp` would have
/// followed it, but not if it is to be replaced: `cp` only follows one to a directory then.
fn destination(location: &Location, replace: bool) -> Result<PathBuf, ModuleError> {
    let root = Root::open(&location.root)?;
    let path: &Path = &location.path;
    if root.is_directory(path) || (root.exists(path) && !replace) {
        return Ok(with_content(root.resolve(path)?, location.content));
    }
    Ok(with_content(root.resolve_parent(path)?, location.content))
}

fn with_content(path: PathBuf, content: bool) -> PathBuf {
    if content { path.join(".") } else { path }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn one(from: &str, to: &str) -> Value {
        json!({"paths": [{"from": from, "to": to}]})
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Copy>()
            .accepts([
                one("input://files/a", "tree:///b"),
                one("mount://root/", "mount://other/boot/"),
                json!({"paths": [{"from": "tree:///a", "to": "tree:///b", "remove_destination": true}]}),
            ])
            .refuses([
                json!({}),
                json!({"paths": []}),
                one("/a", "tree:///b"),
                one("tree://a", "tree:///b"),
                one("input://files", "tree:///b"),
                one("tree:///a", "input://files/b"),
                one("mount:///a", "tree:///b"),
            ]);
        Agreement::stage::<Copy>().member("inputs").accepts([json!({"x": {"type": "y"}}), json!({})]);
        Agreement::stage::<Copy>().member("devices").accepts([json!({"x": {"type": "y"}})]);
        Agreement::stage::<Copy>().member("mounts").accepts([json!([{"name": "x"}])]);
    }

    fn prepare(fixture: &mut Fixture) {
        let input = fixture.input("files", &[("a", "one"), ("d/e/f", "two")]);
        symlink("a", input.join("link")).expect("a link");
        fs::hard_link(input.join("a"), input.join("d/same")).expect("a hard link");
        fixture.mount("disk");
        fixture.file("old/file", "old");
        symlink("old/file", fixture.tree().join("to-file")).expect("a link");
        symlink("old", fixture.tree().join("to-directory")).expect("a link");
        symlink("missing", fixture.tree().join("dangling")).expect("a link");
    }

    fn cases() -> Vec<Value> {
        let mut replace = one("input://files/a", "tree:///to-file");
        replace["paths"][0]["remove_destination"] = json!(true);
        let mut replace_directory = one("input://files/a", "tree:///to-directory");
        replace_directory["paths"][0]["remove_destination"] = json!(true);
        vec![
            one("input://files/a", "tree:///new"),
            one("input://files/a", "tree:///old/"),
            one("input://files/a", "tree:///no/such/directory"),
            one("input://files/missing", "tree:///new"),
            one("input://files/link", "tree:///new"),
            one("input://files/d", "tree:///new"),
            one("input://files/d", "tree:///old"),
            one("input://files/d/", "tree:///old"),
            one("input://files/d/", "tree:///old/"),
            one("input://files/", "tree:///"),
            one("input://files/", "mount://disk/"),
            one("input://files/d", "mount://disk/x"),
            one("input://files/a", "tree:///to-file"),
            one("input://files/a", "tree:///to-directory"),
            one("input://files/a", "tree:///dangling"),
            one("tree:///to-directory", "mount://disk/"),
            one("tree:///to-directory/", "mount://disk/"),
            one("tree:///old", "tree:///old/inside"),
            one("mount://none/a", "tree:///"),
            replace,
            replace_directory,
        ]
    }

    #[test]
    fn trees_equal_the_reference() {
        for options in cases() {
            side_by_side::<Copy>(prepare, &options);
        }
    }

    #[test]
    fn root_everything_is_kept() {
        let mut fixture = Fixture::new();
        let input = fixture.input("tree", &[("file", "content")]);
        let file = input.join("file");
        rustix::fs::setxattr(&file, "user.kiln", b"value", rustix::fs::XattrFlags::empty())
            .expect("an xattr");
        std::os::unix::fs::chown(&file, Some(1234), Some(4321)).expect("root");
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o4711)).expect("a mode");
        fs::hard_link(&file, input.join("same")).expect("a hard link");
        let sparse = fs::File::create(input.join("sparse")).expect("a file");
        sparse.set_len(64 << 20).expect("a hole");
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 123_456_789);
        sparse.set_modified(time).expect("a time");

        fixture.run::<Copy>(one("input://tree/", "tree:///")).expect("copied");

        let copied = fixture.tree().join("file").metadata().expect("it is there");
        assert_eq!((copied.uid(), copied.gid(), copied.mode() & 0o7777), (1234, 4321, 0o4711));
        assert_eq!(copied.ino(), fixture.tree().join("same").metadata().expect("it is there").ino());
        let mut value = [0; 16];
        let count = rustix::fs::getxattr(fixture.tree().join("file"), "user.kiln", &mut value).expect("kept");
        assert_eq!(&value[..count], b"value");
        let copied = fixture.tree().join("sparse").metadata().expect("it is there");
        assert_eq!((copied.len(), copied.blocks(), copied.modified().expect("a time")), (64 << 20, 0, time));
    }

    #[test]
    fn an_absolute_link_means_the_tree() {
        let mut fixture = Fixture::new();
        fixture.input("files", &[("a", "one")]);
        fixture.file("run/.keep", "").file("var/.keep", "");
        symlink("/run", fixture.tree().join("var/run")).expect("a link");
        fixture.run::<Copy>(one("input://files/a", "tree:///var/run/a")).expect("copied");
        fixture.run::<Copy>(one("tree:///var/run/", "tree:///all")).expect("copied");
        for path in ["run/a", "all/a"] {
            assert_eq!(fs::read(fixture.tree().join(path)).expect(path), b"one");
        }
    }
}
