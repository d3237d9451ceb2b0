//! Tests of whole installations: a small real system, and small packages added to it.
//!
//! The real packages come from the package sources that this machine's apt is configured with.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use kiln_api::ModuleError;
use kiln_api::stage::{StageContext, StageModule};
use serde_json::{Map, Value, json};

use super::InstallDebs;
use super::testing::Builder;

/// What is installed for real: enough to run maintainer scripts, in more than one round.
const PACKAGES: [&str; 4] = ["?essential", "usr-is-merged", "adduser", "ucf"];

/// 2023-11-14, a day on which nobody runs this test.
const EPOCH: i64 = 1_700_000_000;

/// The MD5 sum of `package`.
const PACKAGE_SUM: &str = "efe90a8e604a7c840e88d03a67f6b7d8";

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn install(tree: &Path, packages: &Path, options: &Value) -> Result<String, ModuleError> {
    let names = std::fs::read_dir(packages).expect("packages").flatten();
    let names = names.map(|entry| entry.file_name().into_string().expect("text"));
    let files: Map<_, _> =
        names.filter(|name| name.ends_with(".deb")).map(|name| (name, json!({}))).collect();
    let arguments = serde_json::from_value(json!({
        "tree": tree,
        "paths": {"devices": "/dev", "inputs": "/", "mounts": "/"},
        "inputs": {"packages": {"path": packages, "data": {"files": files}}},
        "options": options,
        "meta": {"id": "0", "source-epoch": EPOCH},
    }))
    .expect("valid arguments");
    let output = Output::default();
    let mut context = StageContext::new(arguments, PathBuf::from("/dev/null"), Box::new(output.clone()));
    (StageModule::of::<InstallDebs>().run)(&mut context)?;
    let output = output.0.lock().expect("no panic").clone();
    Ok(String::from_utf8(output).expect("text"))
}

/// Downloads real packages with the machine's apt, in a private root.
fn download(directory: &Path) {
    let private = directory.join("apt");
    let archives = directory.join("archives");
    for path in [archives.join("partial"), private.clone()] {
        std::fs::create_dir_all(path).expect("directory");
    }
    std::fs::write(private.join("status"), "").expect("file");
    let option = |name: &str, value: &Path| format!("{name}={}", value.display());
    let run = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-y", "-q", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]);
        command.args(["-o", "APT::Keep-Downloaded-Packages=1", "-o", "APT::Install-Recommends=0"]);
        command.args([
            "-o",
            "DPkg::Post-Invoke=",
            "-o",
            "Dir::Cache::pkgcache=",
            "-o",
            "Dir::Cache::srcpkgcache=",
        ]);
        command.args(["-o", &option("Dir::State::status", &private.join("status"))]);
        command.args(["-o", &option("Dir::Cache::archives", &archives)]);
        command.args(arguments).output().expect("apt-get is there")
    };
    let mut arguments = vec!["--download-only", "install"];
    arguments.extend(PACKAGES);
    let result = run(&arguments);
    assert!(
        result.status.success(),
        "apt-get cannot download packages: this test needs package sources and their lists \
         (run `apt-get update` first): {}",
        String::from_utf8_lossy(&result.stderr)
    );
}

fn inside(tree: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("chroot");
    let output = command.arg(tree).arg(program).args(arguments).output().expect("chroot");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text") + std::str::from_utf8(&output.stderr).expect("text")
}

/// Everything about a tree that must not differ between two installations.
fn describe(tree: &Path) -> BTreeMap<PathBuf, (u32, u32, u32, u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![tree.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).expect("directory") {
            let path = entry.expect("entry").path();
            let status = std::fs::symlink_metadata(&path).expect("status");
            let content = if status.is_symlink() {
                let target = std::fs::read_link(&path).expect("link");
                target.into_os_string().into_encoded_bytes()
            } else if status.is_file() {
                std::fs::read(&path).expect("file")
            } else {
                Vec::new()
            };
            if status.is_dir() {
                waiting.push(path.clone());
            }
            let path = path.strip_prefix(tree).expect("below").to_owned();
            let links = if status.is_dir() { 0 } else { status.nlink() };
            found.insert(path, (status.mode(), status.uid(), status.gid(), links, content));
        }
    }
    found
}

fn assert_sound(tree: &Path) {
    assert_eq!(inside(tree, "dpkg", &["--audit"]), "");
    assert_eq!(inside(tree, "dpkg", &["--verify"]), "");
    let states = inside(tree, "dpkg-query", &["-W", "-f", "${Package} ${Status}\n"]);
    assert!(states.lines().all(|line| line.ends_with(" install ok installed")), "{states}");
    for path in [".kiln-deb", "usr/sbin/policy-rc.d", "proc/self", "dev/null", "run/lock", "var/log/dpkg.log"]
    {
        assert!(!tree.join(path).exists(), "{path} is left behind");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(tree.to_str().expect("text")), "{mounts}");
}

#[test]
fn root_a_real_system_is_installed_and_added_to() {
    let scratch = tempfile::tempdir().expect("scratch directory");
    download(scratch.path());
    let archives = scratch.path().join("archives");
    let trees = ["one", "two"].map(|name| scratch.path().join(name));
    for tree in &trees {
        std::fs::create_dir(tree).expect("tree");
        install(tree, &archives, &Value::Null).unwrap_or_else(|error| panic!("{error}"));
        assert_sound(tree);
    }
    let (one, two) = (describe(&trees[0]), describe(&trees[1]));
    let differing: Vec<_> = one.iter().filter(|(path, what)| two.get(*path) != Some(*what)).collect();
    let differing: Vec<_> = differing.into_iter().map(|(path, _)| path).collect();
    assert!(differing.is_empty() && one.len() == two.len(), "{differing:?}");
    drop((one, two));

    let tree = &trees[0];
    let again = install(tree, &archives, &Value::Null).expect("nothing to do");
    assert!(again.contains("installed already"), "{again}");
    add_packages(tree, scratch.path());
    fail_to_add(tree, scratch.path());
}

fn directory(scratch: &Path, name: &str) -> PathBuf {
    let path = scratch.join(name);
    std::fs::create_dir(&path).expect("directory");
    path
}

/// Diversions, triggers, configuration files, answers, services.
fn add_packages(tree: &Path, scratch: &Path) {
    let first = directory(scratch, "first");
    let divert = "#!/bin/sh\nset -e\ntest \"$DPKG_MAINTSCRIPT_PACKAGE\" = diverter\n\
                  dpkg-divert --package diverter --add --rename --divert /usr/bin/tool.orig /usr/bin/tool\n";
    let listen = "#!/bin/sh\nif [ \"$1\" = triggered ]; then echo \"$2\" >/var/lib/heard; fi\n";
    let packages = [
        Builder::new("diverter").member("./preinst", divert).file("./usr/bin/tool", 0o755, "diverter"),
        Builder::new("listener")
            .member("./triggers", "interest-noawait /usr/share/listened\n")
            .member("./postinst", listen)
            .file("./usr/share/doc/listener", 0o644, "x"),
        Builder::new("original").file("./usr/bin/tool", 0o755, "original"),
    ];
    build(packages, &first);
    install(tree, &first, &Value::Null).unwrap_or_else(|error| panic!("{error}"));
    assert_sound(tree);
    let read = |path: &str| {
        std::fs::read_to_string(tree.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    assert_eq!(read("usr/bin/tool"), "diverter");
    assert_eq!(read("usr/bin/tool.orig"), "original");
    assert!(!tree.join("var/lib/heard").exists());

    let second = directory(scratch, "second");
    std::fs::write(tree.join("etc/kept.conf"), "administrator").expect("file");
    let templates = "Template: speaker/word\nType: string\nDescription: A word\n";
    let script = "#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_get speaker/word\necho \"$RET\" >/var/lib/word\n\
                  test -c /dev/null\ntest -d /proc/self\n\
                  /usr/sbin/policy-rc.d some-service start && exit 1 || test $? = 101\n\
                  start-stop-daemon --start --exec /bin/false\n";
    let speaker = Builder::with("speaker", "Depends: listener (>= 1)\n")
        .member("./conffiles", "/etc/kept.conf\n/etc/new.conf\n")
        .member("./templates", templates)
        .member("./postinst", script)
        .file("./etc/kept.conf", 0o644, "package")
        .file("./etc/new.conf", 0o640, "package")
        .file("./usr/share/listened/file", 0o644, "x");
    build([speaker], &second);
    let answers = json!({"debconf": {"speaker": {"speaker/word": {"value": "some words"}}}});
    install(tree, &second, &answers).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read("var/lib/word"), "some words\n");
    assert_eq!(read("var/lib/heard"), "/usr/share/listened\n");
    assert_eq!(read("etc/kept.conf"), "administrator");
    assert_eq!(read("etc/new.conf"), "package");
    assert_eq!(std::fs::metadata(tree.join("etc/new.conf")).expect("file").mode() & 0o7777, 0o640);
    // The package's text by md5sum(1), for both files.
    let conffiles = inside(tree, "dpkg-query", &["-W", "-f", "${Conffiles}\n", "speaker"]);
    assert_eq!(conffiles.matches(PACKAGE_SUM).count(), 2, "{conffiles}");
    // What the administrator has changed is all that dpkg finds.
    assert_eq!(inside(tree, "dpkg", &["--audit"]), "");
    assert_eq!(inside(tree, "sh", &["-c", "dpkg --verify || true"]), "??5?????? c /etc/kept.conf\n");
}

/// What fails names the package and says why.
fn fail_to_add(tree: &Path, scratch: &Path) {
    let script = "#!/bin/sh\necho first line\necho no such luck >&2\nexit 3\n";
    let cases = [
        ("broken", Builder::new("broken").member("./postinst", script), "no such luck"),
        ("early", Builder::new("early").member("./preinst", script), "exit status 3"),
        ("needy", Builder::with("needy", "Depends: nowhere\n"), "nowhere is not installed"),
        ("thief", Builder::new("thief").file("./usr/bin/tool.orig", 0o755, "x"), "`diverter`"),
        ("speaker", Builder::new("speaker").version("2"), "cannot replace"),
    ];
    for (name, package, expected) in cases {
        let packages = directory(scratch, name);
        build([package], &packages);
        let error = install(tree, &packages, &Value::Null).expect_err(name).to_string();
        assert!(error.contains(&format!("`{name}`")) && error.contains(expected), "{name}: {error}");
        assert!(!tree.join(".kiln-deb").exists() && !tree.join("usr/sbin/policy-rc.d").exists(), "{name}");
        // What failed while it was being configured stays registered; the next case wants the tree as it was.
        if ["broken", "needy"].contains(&name) {
            inside(tree, "dpkg", &["--purge", name]);
        }
    }
}

fn build(packages: impl IntoIterator<Item = Builder>, directory: &Path) {
    for (number, package) in packages.into_iter().enumerate() {
        package.build(directory, &format!("{number}.deb"));
    }
}
