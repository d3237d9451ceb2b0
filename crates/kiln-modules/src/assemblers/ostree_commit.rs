//! `org.osbuild.ostree.commit`
//!
//! ```text
//! /repo            a repository of OSTree with the commit
//! /compose.json    what was committed
//! ```
//!
//! Or an archive with both.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::root::Root;
use crate::support::tar::{SORTED, pack};

const REPOSITORY: &str = "repo";
const COMPOSE: &str = "compose.json";

/// The directories of the root that a system managed by OSTree has, besides those of the tree.
const DIRECTORIES: [&str; 6] = ["dev", "proc", "run", "sys", "sysroot", "var"];
/// Links to what is kept from one version to the next, and where they lead.
const LINKS: [(&str, &str); 7] = [
    ("home", "var/home"),
    ("media", "run/media"),
    ("mnt", "var/mnt"),
    ("opt", "var/opt"),
    ("ostree", "sysroot/ostree"),
    ("root", "var/roothome"),
    ("srv", "var/srv"),
];
/// What is taken from the tree and must be there; what is taken if it is there.
const NEEDED: [&str; 3] = ["usr", "boot", "var"];
const POSSIBLE: [&str; 5] = ["bin", "lib", "lib32", "lib64", "sbin"];

/// Commits the tree to a new repository of OSTree.
///
/// The tree is one that OSTree can deploy: of its root, `usr`, `boot`, `var`, and links to `usr` are taken. Runs `ostree` and
/// `rpm-ostree compose commit` of the build root. The result is the repository `/repo`, in which files are compressed
/// one by one, and `/compose.json` with what `rpm-ostree` says of the commit, which is the assembler's metadata, too.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The ref of the commit.
    #[serde(rename = "ref")]
    reference: String,
    /// The version of the system, in the commit's metadata.
    os_version: Option<String>,
    /// Whether `/tmp` is a directory; otherwise it is a link to `sysroot/tmp`.
    #[serde(rename = "tmp-is-dir", default = "yes")]
    tmp_is_dir: bool,
    /// The commit before this one.
    parent: Option<String>,
    /// Makes an archive the result.
    tar: Option<Archive>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Archive {
    /// Its name, whose end says how it is compressed.
    filename: String,
}

const fn yes() -> bool {
    true
}

pub(crate) struct OstreeCommit;

impl Stage for OstreeCommit {
    const NAME: &'static str = "org.osbuild.ostree.commit";
    const CAPABILITIES: &'static [&'static str] = &["CAP_MAC_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"];
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        commit(&options, context, Path::new("rpm-ostree"))
    }
}

fn commit(options: &Options, context: &StageContext, program: &Path) -> Result<(), ModuleError> {
    let result = context.tree();
    let root = tempfile::tempdir_in(result).map_err(ModuleError::io("create a directory in", result))?;
    make_root(root.path(), options.tmp_is_dir)?;
    take(super::source(context)?, root.path())?;
    let (repository, compose) = (result.join(REPOSITORY), result.join(COMPOSE));
    let option = |name: &str, path: &Path| format!("{name}={}", path.display());
    // What is said is not the stage's output: the tools say it to people.
    Run::new("ostree").args(["init", "--mode=archive", &option("--repo", &repository)]).output()?;
    let treefile = tempfile::Builder::new().suffix(".json").tempfile();
    let treefile = treefile.map_err(ModuleError::io("create a file in", std::env::temp_dir()))?;
    // Repositories of packages are needed, although nothing is installed.
    let text = json!({"ref": options.reference, "repos": ["osbuild"]}).to_string();
    fs::write(treefile.path(), text).map_err(ModuleError::io("write", treefile.path()))?;
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let parent = filled(&options.parent).map(|parent| format!("--parent={parent}"));
    let version = filled(&options.os_version);
    let version = version.map(|version| format!("--add-metadata-string=version={version}"));
    Run::new(program)
        .args(["compose", "commit", &option("--repo", &repository)])
        .args(parent.into_iter().chain(version))
        .arg(format!("--add-metadata-string=rpmostree.inputhash={}", context.arguments.meta.id))
        .arg(option("--write-composejson-to", &compose))
        .arg(treefile.path())
        .arg(root.path())
        .output()?;
    let told = fs::read(&compose).map_err(ModuleError::io("read", &compose))?;
    let told: Value = serde_json::from_slice(&told)
        .map_err(|error| ModuleError::invalid(format!("`{}` is no JSON: {error}", compose.display())))?;
    context.write_metadata(&json!({"compose": told}))?;
    root.close().map_err(ModuleError::io("remove a directory in", result))?;
    let Some(Archive { filename }) = &options.tar else { return Ok(()) };
    let archive = Root::open(result)?.resolve_parent(filename)?;
    pack(result, [REPOSITORY, COMPOSE], &archive, ["--remove-files", "--auto-compress", SORTED])
}

/// Makes the directories and links of the root, whatever the umask is.
fn make_root(root: &Path, tmp_is_dir: bool) -> Result<(), ModuleError> {
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(ModuleError::io("change", path))
    };
    set_mode(root, 0o755)?;
    let directories = DIRECTORIES.map(|name| (name, 0o755));
    for (name, mode) in directories.into_iter().chain(tmp_is_dir.then_some(("tmp", 0o1777))) {
        let path = root.join(name);
        fs::create_dir(&path).map_err(ModuleError::io("create directory", &path))?;
        set_mode(&path, mode)?;
    }
    for (name, target) in LINKS.into_iter().chain((!tmp_is_dir).then_some(("tmp", "sysroot/tmp"))) {
        let path = root.join(name);
        symlink(target, &path).map_err(ModuleError::io("create symbolic link", &path))?;
    }
    Ok(())
}

/// Copies from the tree what is committed.
fn take(tree: &Path, root: &Path) -> Result<(), ModuleError> {
    let is_there = |name: &&str| tree.join(name).symlink_metadata().is_ok();
    let paths = NEEDED.into_iter().chain(POSSIBLE.into_iter().filter(is_there)).map(|name| tree.join(name));
    let paths: Vec<PathBuf> = paths.collect();
    Ok(Run::new("cp").args(["--reflink=auto", "-a", "-t"]).arg(root).arg("--").args(paths).run()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::{context, output};

    #[test]
    fn schema_agrees() {
        Agreement::assembler::<OstreeCommit>()
            .accepts([
                json!({"ref": "a/b"}),
                json!({"ref": "a", "os_version": "1", "tmp-is-dir": false, "parent": "x", "tar": {"filename": "a.tar"}}),
            ])
            .refuses([
                json!({}),
                json!({"ref": 1}),
                json!({"ref": "a", "tar": {}}),
                json!({"ref": "a", "tar": "a.tar"}),
                json!({"ref": "a", "tmp-is-dir": "yes"}),
            ]);
    }

    /// A tree, an empty result, and a stand-in for `rpm-ostree`, which Debian lacks: it writes down how it is called,
    /// and commits with `ostree`.
    struct World(tempfile::TempDir);

    impl World {
        fn new() -> Self {
            let world = Self(tempfile::tempdir().expect("a directory"));
            for name in ["result", "tree/usr/bin", "tree/boot", "tree/var/lib", "tree/etc"] {
                fs::create_dir_all(world.path(name)).expect("made");
            }
            fs::write(world.path("tree/usr/bin/program"), "program").expect("written");
            symlink("usr/bin", world.path("tree/bin")).expect("linked");
            let script = "#!/bin/sh
set -e
directory=$(dirname \"$0\")
for word; do echo \"$word\"; done >\"$directory/words\"
repository=${3#--repo=}
for word; do
  case $word in
    --write-composejson-to=*) compose=${word#*=};;
    *.json) cp \"$word\" \"$directory/treefile\";;
  esac
  root=$word
done
commit=$(ostree commit --repo=\"$repository\" --branch=a/b --tree=dir=\"$root\" --owner-uid=0 --owner-gid=0)
echo \"{\\\"ostree-commit\\\": \\\"$commit\\\"}\" >\"$compose\"
";
            fs::write(world.path("rpm-ostree"), script).expect("written");
            fs::set_permissions(world.path("rpm-ostree"), Permissions::from_mode(0o755)).expect("executable");
            world
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn commit(&self, options: Value) -> Result<(), ModuleError> {
            let mut context = context(&json!({
                "tree": self.path("result"), "inputs": {"tree": {"path": self.path("tree")}}, "meta": {"id": "0123"},
            }));
            context.metadata_path = self.path("metadata");
            let options = serde_json::from_value(options).expect("valid");
            commit(&options, &context, &self.path("rpm-ostree"))
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).expect(name)
        }
    }

    #[test]
    fn the_commit_has_what_is_taken() {
        let world = World::new();
        world.commit(json!({"ref": "a/b", "os_version": "9", "parent": "f00"})).expect("committed");
        let words = world.read("words").replace(world.0.path().to_str().expect("UTF-8"), "W");
        let words: Vec<_> = words.lines().collect();
        let expected = [
            "compose",
            "commit",
            "--repo=W/result/repo",
            "--parent=f00",
            "--add-metadata-string=version=9",
            "--add-metadata-string=rpmostree.inputhash=0123",
            "--write-composejson-to=W/result/compose.json",
        ];
        assert_eq!(words[..expected.len()], expected);
        assert_eq!(words.len(), expected.len() + 2);
        let treefile: Value = serde_json::from_str(&world.read("treefile")).expect("JSON");
        assert_eq!(treefile, json!({"ref": "a/b", "repos": ["osbuild"]}));
        let compose: Value = serde_json::from_str(&world.read("result/compose.json")).expect("JSON");
        let metadata: Value = serde_json::from_str(&world.read("metadata")).expect("JSON");
        assert_eq!(metadata, json!({"compose": compose}));
        let listed = output("sh", &["-c", "exec ostree ls -R --repo=\"$0\" a/b"], &world.path("result/repo"));
        let files: Vec<_> = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        let found = |path: &str| files.iter().find(|words| words.get(4) == Some(&path)).map(|words| words[0]);
        assert_eq!((found("/usr/bin/program"), found("/etc")), (Some("-00644"), None), "{listed}");
        assert_eq!(
            (found("/var/lib"), found("/sysroot"), found("/tmp")),
            (Some("d00755"), Some("d00755"), Some("d01777"))
        );
        assert!(listed.contains("/home -> var/home") && listed.contains("/bin -> usr/bin"), "{listed}");
        let mut names: Vec<_> = fs::read_dir(world.path("result"))
            .expect("read")
            .map(|entry| entry.expect("read").file_name())
            .collect();
        names.sort();
        assert_eq!(names, [COMPOSE, REPOSITORY]);
    }

    #[test]
    fn tmp_may_be_a_link() {
        // In the reference it is a link at the other end: `sysroot/tmp`, which leads to `tmp` there.
        let world = World::new();
        world.commit(json!({"ref": "a/b", "tmp-is-dir": false})).expect("committed");
        let listed = output("sh", &["-c", "exec ostree ls -R --repo=\"$0\" a/b"], &world.path("result/repo"));
        assert!(listed.contains("/tmp -> sysroot/tmp") && !listed.contains("/sysroot/tmp ->"), "{listed}");
    }

    #[test]
    fn an_archive_takes_the_place_of_its_content() {
        let world = World::new();
        world.commit(json!({"ref": "a/b", "tar": {"filename": "commit.tar.gz"}})).expect("committed");
        let names: Vec<_> = fs::read_dir(world.path("result")).expect("read").flatten().collect();
        assert_eq!(names.len(), 1);
        let listed = output("tar", &["-tzf"], &world.path("result/commit.tar.gz"));
        assert!(listed.contains("repo/config\n") && listed.ends_with("compose.json\n"), "{listed}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let world = World::new();
        fs::remove_dir(world.path("tree/boot")).expect("removed");
        let error = world.commit(json!({"ref": "a/b"})).expect_err("no directory").to_string();
        assert!(error.contains("`cp` failed") && error.contains("tree/boot"), "{error}");
        let world = World::new();
        fs::write(world.path("rpm-ostree"), "#!/bin/sh\necho no >&2; exit 3\n").expect("written");
        let error = world.commit(json!({"ref": "a/b"})).expect_err("it fails").to_string();
        assert!(error.ends_with("failed with exit status 3: no"), "{error}");
        assert!(!world.path("result/compose.json").exists());
    }
}
