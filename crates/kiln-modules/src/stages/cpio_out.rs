//! `org.osbuild.cpio.out`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::root::Root;

/// Packs the input `tree` into a cpio archive.
///
/// The build root's GNU `cpio` packs it. Entries are sorted by name, and each directory comes before what is in it:
/// the kernel unpacks an initial RAM disk in this order, and makes no directory on its own.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The name of the archive.
    filename: String,
    /// Whether to add to an archive that exists.
    #[serde(default)]
    append: bool,
    /// The format of the archive; `newc` is what the kernel reads.
    #[serde(default)]
    format: Format,
    /// Whether the top directory itself is packed.
    #[serde(default, rename = "root-node")]
    root_node: RootNode,
    /// Whether numbers of devices and inodes, which differ from build to build, are left out.
    #[serde(default = "yes")]
    reproducible: bool,
    /// Who owns everything, instead of who does in the tree.
    owner: Option<Owner>,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Bin,
    Odc,
    #[default]
    Newc,
    Crc,
    Tar,
    Ustar,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Bin => "bin",
            Self::Odc => "odc",
            Self::Newc => "newc",
            Self::Crc => "crc",
            Self::Tar => "tar",
            Self::Ustar => "ustar",
        }
    }
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum RootNode {
    #[default]
    Include,
    Omit,
}

/// An owner.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Owner {
    /// The user, by name or number.
    user: String,
    /// The group, by name or number.
    group: Option<String>,
}

pub(crate) struct CpioOut;

impl Stage for CpioOut {
    const NAME: &'static str = "org.osbuild.cpio.out";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let inputs = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["tree"],
            "properties": {"tree": {"type": "object"}},
        });
        ModuleSchema { inputs: Some(inputs), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let input = context.arguments.inputs.get("tree");
        let input = input.ok_or_else(|| ModuleError::invalid("the stage has no input `tree`"))?;
        let archive = Root::open(context.tree())?.resolve_parent(&options.filename)?;
        let mut names = Vec::new();
        if options.root_node == RootNode::Include {
            names.extend(b".\0");
        }
        list(&input.path, OsStr::new(""), &mut names)?;
        Run::new("cpio")
            .args(flags(&options))
            .arg("-O")
            .arg(archive)
            .arg("-D")
            .arg(&input.path)
            .input(names)
            .run()?;
        Ok(())
    }
}

fn flags(options: &Options) -> Vec<String> {
    // A colon in the archive's name does not make the part before it the name of another machine.
    let mut flags: Vec<_> = ["-o", "-v", "--null", "--force-local"].map(str::to_owned).into();
    flags.push(format!("--format={}", options.format.name()));
    if options.reproducible {
        flags.push("--reproducible".to_owned());
    }
    if options.append {
        flags.push("--append".to_owned());
    }
    if let Some(owner) = &options.owner {
        let group = owner.group.as_deref().filter(|group| !group.is_empty());
        let group = group.map(|group| format!(":{group}")).unwrap_or_default();
        flags.push(format!("--owner={}{group}", owner.user));
    }
    flags
}

/// Adds the names of everything below a directory, each with a zero byte after it; `prefix` is the directory's own name
/// with a slash. Links are not followed.
fn list(directory: &Path, prefix: &OsStr, names: &mut Vec<u8>) -> Result<(), ModuleError> {
    let failed = || ModuleError::io("read directory", directory);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        entries.push((entry.file_name(), entry.file_type().map_err(failed())?.is_dir()));
    }
    entries.sort();
    for (name, is_directory) in entries {
        let mut path = OsString::from(prefix);
        path.push(&name);
        names.extend(path.as_bytes());
        names.push(0);
        if is_directory {
            path.push("/");
            list(&directory.join(name), &path, names)?;
        }
    }
    Ok(())
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown, symlink};
    use std::path::PathBuf;
    use std::process::Command;

    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<CpioOut>()
            .accepts([
                json!({"filename": "a.cpio"}),
                json!({"filename": "", "append": true, "format": "odc", "root-node": "omit", "reproducible": false}),
                json!({"filename": "a", "owner": {"user": "root"}}),
                json!({"filename": "a", "owner": {"user": "0", "group": "0"}, "root-node": "include"}),
            ])
            .refuses([
                json!({}),
                json!({"filename": "a", "format": "zip"}),
                json!({"filename": "a", "root-node": true}),
                json!({"filename": "a", "owner": {"group": "0"}}),
                json!({"filename": "a", "owner": {"user": 0}}),
            ]);
        Agreement::stage::<CpioOut>().member("inputs").accepts([json!({"tree": {"type": "x"}})]).refuses([
            json!({}),
            json!({"file": {}}),
            json!({"tree": {}, "other": {}}),
        ]);
    }

    fn prepare() -> (Fixture, PathBuf) {
        let mut fixture = Fixture::new();
        let files = [("usr/bin/b", "two"), ("usr/bin/a", "one"), ("z file", "three"), ("Ü\n", "four")];
        let input = fixture.input("tree", &files);
        std::fs::create_dir(input.join("empty")).expect("a directory");
        symlink("a", input.join("usr/bin/link")).expect("a link");
        std::fs::hard_link(input.join("usr/bin/a"), input.join("usr/hard")).expect("a link");
        let pipe = rustix::fs::Mode::RUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, input.join("pipe"), pipe).expect("a pipe");
        chown(input.join("z file"), Some(12), Some(34)).expect("root");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        let out =
            Command::new("find").arg(&input).args(["-exec", "touch", "-hd@1000000000", "{}", "+"]).status();
        assert!(out.expect("find").success());
        assert_eq!(input.metadata().expect("there").modified().expect("a time"), time);
        (fixture, input)
    }

    /// What `cpio` lists, `-v` for more than names.
    fn listed(fixture: &Fixture, name: &str, verbose: bool) -> Vec<String> {
        let archive = fixture.tree().join(name);
        let mode = if verbose { "-ntvF" } else { "-tF" };
        let output = Command::new("cpio").arg(mode).arg(archive).env("LC_ALL", "C").output().expect("cpio");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    #[test]
    fn archives_hold_what_the_reference_packs() {
        for options in [
            json!({"filename": "a.cpio"}),
            json!({"filename": "/a.cpio", "root-node": "omit"}),
            json!({"filename": "a.cpio", "owner": {"user": "5", "group": "6"}}),
            json!({"filename": "a.cpio", "owner": {"user": "5"}, "reproducible": false}),
            json!({"filename": "a.cpio", "format": "odc"}),
            json!({"filename": "a.cpio", "format": "ustar"}),
            json!({"filename": "a.cpio", "append": true}),
            json!({"filename": "no/such/directory"}),
            json!({"filename": "a.cpio", "owner": {"user": "no such user"}}),
        ] {
            let ((one, _), (other, _)) = (prepare(), prepare());
            let result = one.run::<CpioOut>(options.clone());
            let Some((succeeded, said)) = other.run_reference(CpioOut::NAME, options.clone()) else {
                continue;
            };
            assert_eq!(result.is_ok(), succeeded, "{options}: {result:?}, the reference: {said}");
            if !succeeded {
                continue;
            }
            let sorted = |fixture: &Fixture| {
                // Which of several names of a file comes with the content depends on the order.
                let mut lines: Vec<_> = listed(fixture, "a.cpio", true)
                    .into_iter()
                    .filter(|line| !line.contains("usr/hard") && !line.contains("usr/bin/a"))
                    .collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&one), sorted(&other), "{options}");
        }
    }

    #[test]
    fn directories_come_first_and_links_to_directories_are_kept() {
        let (fixture, input) = prepare();
        symlink("usr/bin", input.join("bin")).expect("a link");
        fixture.run::<CpioOut>(json!({"filename": "a.cpio", "root-node": "omit"})).expect("packed");
        let mut names = listed(&fixture, "a.cpio", false);
        // Files with several names come last of these.
        names.retain(|name| !["usr/bin/a", "usr/hard"].contains(&name.as_str()));
        let expected = ["bin", "empty", "pipe", "usr", "usr/bin", "usr/bin/b", "usr/bin/link", "z file"];
        // The line end in the last name makes two lines, or does not: that depends on the version.
        names.truncate(expected.len());
        assert_eq!(names, expected);
    }

    #[test]
    fn equal_trees_give_equal_archives_that_unpack_to_the_tree() {
        let ((one, input), (other, _)) = (prepare(), prepare());
        let read = |fixture: &Fixture| {
            fixture.run::<CpioOut>(json!({"filename": "a:b.cpio"})).expect("packed");
            std::fs::read(fixture.tree().join("a:b.cpio")).expect("it is there")
        };
        let archive = read(&one);
        assert!(archive == read(&other));
        let target = tempfile::tempdir().expect("a directory");
        Run::new("cpio")
            .args(["-idm", "--quiet", "-D"])
            .arg(target.path())
            .input(archive)
            .run()
            .expect("unpacked");
        let differences = Command::new("diff")
            .args(["-r", "--no-dereference"])
            .arg(&input)
            .arg(target.path())
            .output()
            .expect("diff");
        // Of pipes it says that they are.
        let said = String::from_utf8_lossy(&differences.stdout).into_owned();
        assert!(said.lines().all(|line| line.contains("is a fifo")), "{said}");
        let owner = target.path().join("z file").metadata().expect("there");
        assert_eq!((owner.uid(), owner.gid(), owner.mtime()), (12, 34, 1_000_000_000));
    }

    #[test]
    fn more_is_added_to_an_archive() {
        let (fixture, _) = prepare();
        let options =
            |append: bool| -> Value { json!({"filename": "a.cpio", "append": append, "root-node": "omit"}) };
        fixture.run::<CpioOut>(options(false)).expect("packed");
        let once = listed(&fixture, "a.cpio", false);
        fixture.run::<CpioOut>(options(true)).expect("added");
        assert_eq!(listed(&fixture, "a.cpio", false), [once.clone(), once].concat());
    }
}
