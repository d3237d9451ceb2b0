//! What each runner makes of a build root: alone, and beside the reference's runner of that name in a build root of
//! the same content.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::schema_agreement::reference;

const TOOLS: [&str; 3] = ["ldconfig", "systemd-sysusers", "systemd-tmpfiles"];

fn runner(name: &str) -> &'static Runner {
    RUNNERS.iter().find(|runner| runner.name == format!("org.osbuild.{name}")).expect(name)
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, content).expect("written");
}

/// A build root with cryptographic policies, whose tools write down how they are called and what they saw.
fn root() -> TempDir {
    let root = tempfile::tempdir().expect("tempdir");
    let path = root.path();
    fs::create_dir_all(path.join("etc")).expect("etc");
    for tool in TOOLS {
        tool_ending_with(path, tool, 0);
    }
    let policies = path.join("usr/share/crypto-policies");
    write(&policies.join("DEFAULT/nss.txt"), "nss: default\n");
    write(&policies.join("back-ends/DEFAULT/sub/rpm.config"), "rpm: default\n");
    symlink("../../DEFAULT/nss.txt", policies.join("back-ends/DEFAULT/nss.config")).expect("link");
    root
}

fn tool_ending_with(root: &Path, tool: &str, code: i32) {
    let path = root.join("usr/sbin").join(tool);
    // The root is the argument after `-r` or `--root=`, or there is none.
    let text = format!(
        "#!/bin/sh\n\
         root=\n\
         for word; do case $word in --root=*) root=${{word#--root=}};; /*) root=$word;; esac; done\n\
         echo ${{0##*/}} \"$@\" $(cat $root/etc/machine-id $root/etc/ld.so.conf 2>/dev/null) >> $root/log\n\
         if [ ${{0##*/}} = systemd-tmpfiles ]; then\n\
             ln -sf ../usr/lib/os-release $root/etc/os-release\n\
             echo 'hosts: resolve' > $root/etc/nsswitch.conf\n\
         fi\n\
         echo no luck >&2\n\
         exit {code}\n"
    );
    write(&path, &text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect(tool);
}

/// What the tools wrote down, without the options that name the root.
fn log(root: &Path) -> String {
    let text = fs::read_to_string(root.join("log")).unwrap_or_default();
    let root = root.display();
    text.replace(&format!(" -r {root}"), "").replace(&format!(" --root={root}"), "")
}

/// Everything below a directory: names, permissions and content.
fn listing(directory: &Path) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        for entry in fs::read_dir(&path).expect("a directory") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("there");
            let content = if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).expect("a link").display())
            } else if metadata.is_dir() {
                todo.push(path.clone());
                "/".to_owned()
            } else {
                format!("{:?}", fs::read_to_string(&path).expect("text").trim_end())
            };
            let name = path.strip_prefix(directory).expect("below").display().to_string();
            lines.insert(format!("{name} {:o} {content}", metadata.permissions().mode() & 0o7777));
        }
    }
    lines
}

#[test]
fn names_are_sorted_and_unique() {
    let names: Vec<_> = RUNNERS.iter().map(|runner| runner.name).collect();
    assert!(names.is_sorted_by(|one, other| one < other), "{names:?}");
}

#[test]
fn all_runners_of_the_reference_are_there_and_no_others() {
    let Some(directory) = reference("the list of runners") else { return };
    let there: BTreeSet<String> = fs::read_dir(directory.join("runners"))
        .expect("its runners")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    assert_eq!(RUNNERS.iter().map(|runner| runner.name.to_owned()).collect::<BTreeSet<_>>(), there);
}

#[test]
fn each_preparation_takes_its_steps_in_order() {
    const ID: &str = "ffffffffffffffffffffffffffffffff";
    let without_id = "ldconfig\nsystemd-sysusers\nsystemd-tmpfiles --create\n".to_owned();
    let with_id = format!("ldconfig\nsystemd-sysusers\nsystemd-tmpfiles --create {ID}\n");
    let policies = [
        "crypto-policies 755 /",
        "crypto-policies/back-ends 755 /",
        "crypto-policies/back-ends/nss.config 644 \"nss: default\"",
        "crypto-policies/back-ends/sub 755 /",
        "crypto-policies/back-ends/sub/rpm.config 644 \"rpm: default\"",
    ];
    let python = ["alternatives 755 /", "alternatives/python3 777 -> /usr/bin/python3.6"];
    let system = ["ld.so.conf 644 \"\"", "os-release 777 -> ../usr/lib/os-release"];
    let id = ["machine-id 444 \"ffffffffffffffffffffffffffffffff\""];
    // Name, what the tools saw, what is in /etc.
    let cases: [(&str, &str, Vec<&[&str]>); 6] = [
        ("linux", "", vec![&["passwd 644 \"root:x:0:0:root:/root:/bin/bash\""]]),
        ("ubuntu1804", &without_id, vec![&system]),
        ("fedora30", &with_id, vec![&system, &id]),
        ("fedora38", &with_id, vec![&system, &id, &policies]),
        ("rhel7", "ldconfig /usr/lib64/iscsi\n", vec![&["ld.so.conf 644 \"/usr/lib64/iscsi\""]]),
        ("centos8", &with_id, vec![&system, &id, &policies, &python]),
    ];
    for (name, said, made) in cases {
        let root = root();
        (runner(name).prepare)(root.path()).expect(name);
        assert_eq!(log(root.path()), said, "{name}");
        let made: BTreeSet<String> = made.concat().into_iter().map(str::to_owned).collect();
        assert_eq!(listing(&root.path().join("etc")), made, "{name}");
    }
    let root = root();
    (runner("rhel81").prepare)(root.path()).expect("rhel81");
    let release = fs::read_to_string(root.path().join("etc/os-release")).expect("a file");
    assert!(release.contains("\nID=\"rhel\"\n") && release.contains("\nVERSION_ID=\"8.1\"\n"), "{release}");
}

#[test]
fn what_is_there_is_kept() {
    let root = root();
    let etc = root.path().join("etc");
    write(&etc.join("passwd"), "root:x:0:0::/:/bin/sh\n");
    write(&etc.join("machine-id"), "0123456789abcdef0123456789abcdef\n");
    write(&etc.join("ld.so.conf"), "/opt/lib\n");
    fs::create_dir(etc.join("alternatives")).expect("a directory");
    symlink("/usr/bin/python3.9", etc.join("alternatives/python3")).expect("a link");
    for name in ["linux", "rhel82"] {
        (runner(name).prepare)(root.path()).expect(name);
    }
    let found = listing(&etc);
    for line in [
        "passwd 644 \"root:x:0:0::/:/bin/sh\"",
        "machine-id 644 \"0123456789abcdef0123456789abcdef\"",
        "ld.so.conf 644 \"/opt/lib\"",
        "alternatives/python3 777 -> /usr/bin/python3.9",
    ] {
        assert!(found.contains(line), "{line}: {found:?}");
    }
}

#[test]
fn a_minimal_root_needs_no_tools_and_no_policies() {
    for runner in RUNNERS {
        let root = tempfile::tempdir().expect("tempdir");
        fs::create_dir(root.path().join("etc")).expect("etc");
        (runner.prepare)(root.path()).expect(runner.name);
    }
}

#[test]
fn a_root_without_etc_is_reported_by_path() {
    let root = tempfile::tempdir().expect("tempdir");
    let error = (runner("arch").prepare)(root.path()).expect_err("no etc").to_string();
    let expected = format!("cannot create `{}/etc/passwd`: ", root.path().display());
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn only_tmpfiles_may_fail() {
    for (tool, succeeds) in TOOLS.into_iter().zip([false, false, true]) {
        let root = root();
        tool_ending_with(root.path(), tool, 3);
        match (runner("debian").prepare)(root.path()) {
            Ok(()) => assert!(succeeds, "{tool}"),
            Err(error) => {
                assert!(!succeeds, "{tool}");
                let error = error.to_string();
                assert!(
                    error.ends_with("failed with exit status 3: no luck") && error.contains(tool),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn the_quirks_are_those_of_the_architecture() {
    let with: Vec<_> = RUNNERS.iter().filter(|runner| !runner.environment.is_empty()).collect();
    if cfg!(target_arch = "aarch64") {
        assert_eq!(with.len(), 4);
        assert!(with.iter().all(|runner| runner.environment == [("OSBUILD_QEMU_IMG_COROUTINES", "1")]));
    } else {
        assert!(with.is_empty());
    }
}

/// Each runner of the reference prepares a build root of the same content; a stage looks at what came out.
#[test]
fn root_every_runner_does_what_the_references_does() {
    let Some(checkout) = reference("what runners do") else { return };
    for runner in RUNNERS {
        let here = root();
        (runner.prepare)(here.path()).expect(runner.name);
        let there = root();
        fs::create_dir(there.path().join("reference")).expect("a directory");
        for link in ["bin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), there.path().join(link)).expect("a link");
        }
        let run = Command::new("bwrap")
            .args(["--unshare-pid", "--chdir", "/", "--bind"])
            .arg(there.path())
            .args(["/", "--dev", "/dev", "--proc", "/proc"])
            .args(["--ro-bind", "/usr/bin", "/usr/bin", "--ro-bind", "/usr/lib", "/usr/lib"])
            .args(["--ro-bind", "/usr/lib64", "/usr/lib64", "--ro-bind"])
            .arg(&checkout)
            .args(["/reference", "--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin"])
            .args(["--setenv", "PYTHONPATH", "/reference", "--setenv", "PYTHONDONTWRITEBYTECODE", "1"])
            .args(["--", "/usr/bin/python3"])
            .arg(Path::new("/reference/runners").join(runner.name))
            // The machine id goes when the stage ends.
            .args(["/bin/cp", "-a", "/etc", "/seen"])
            .output()
            .expect("bwrap runs");
        assert!(run.status.success(), "{}: {}", runner.name, String::from_utf8_lossy(&run.stderr));
        assert_eq!(log(here.path()), log(there.path()), "{}", runner.name);
        let (one, other) = (listing(&here.path().join("etc")), listing(&there.path().join("seen")));
        assert_eq!(one, other, "{}", runner.name);
    }
}
